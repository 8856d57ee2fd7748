#include "service/session_service.h"

#include <google/protobuf/empty.pb.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/auth/quota_book.h"
#include "service/errors.h"
#include "service/resource_names.h"
#include "service/session_messages.h"
#include "service/session_turn.h"
#include "service/snapshot_transfer.h"
#include "service/unary_call.h"

namespace reprise::service {
namespace {

using google::protobuf::Empty;
using state_store::SessionStore;

// A rewind of "whatever the version is now" may race with a turn's commit; so often it is tried
// again.
constexpr int kRewindAttempts = 8;
constexpr size_t kMaxRequestId = 128;

absl::StatusOr<v1::Session> Described(SessionStore* store,
                                      const absl::StatusOr<state_store::Session>& session,
                                      const std::string& name) {
  if (!session.ok()) return WithResource(session.status(), "session", name);
  return DescribeSession(store, *session);
}

absl::StatusOr<v1::Session> Create(const Environment& environment, const std::string& tenant,
                                   const v1::CreateSessionRequest& request) {
  ASSIGN_OR_RETURN(const auto options, ReadNewSession(request, environment));
  ASSIGN_OR_RETURN(const auto room, environment.quotas->Reserve(tenant, 1, 0));
  return Described(environment.store, environment.store->CreateSession(tenant, options),
                   MakeSessionName(options.id));
}

absl::StatusOr<v1::ListSessionsResponse> List(SessionStore* store, const std::string& tenant,
                                              const v1::ListSessionsRequest& request) {
  ASSIGN_OR_RETURN(const auto page, ReadPage(request.page_size(), request.page_token()));
  ASSIGN_OR_RETURN(const auto sessions, store->ListSessions(tenant, page));
  v1::ListSessionsResponse response;
  for (const auto& session : sessions.sessions) {
    ASSIGN_OR_RETURN(*response.add_sessions(), DescribeSession(store, session));
  }
  response.set_next_page_token(sessions.next_page_token);
  return response;
}

absl::StatusOr<v1::Session> Update(SessionStore* store, const std::string& tenant,
                                   const v1::UpdateSessionRequest& request) {
  ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.name(), "name"));
  FieldViolations violations;
  state_store::SessionUpdate update;
  if (request.update_mask().paths().empty()) violations.Add("update_mask", "must name a field");
  for (const std::string& path : request.update_mask().paths()) {
    if (path == "labels") {
      CheckLabels(request.labels(), "labels", &violations);
      update.labels.emplace(request.labels().begin(), request.labels().end());
    } else if (path == "ttl") {
      update.ttl =
          request.has_ttl() ? ReadTtl(request.ttl(), "ttl", &violations) : absl::InfiniteDuration();
    } else {
      violations.Add("update_mask", "may name \"labels\" and \"ttl\" only");
    }
  }
  RETURN_IF_ERROR(violations.ToStatus());
  return Described(store, store->UpdateSession(tenant, id, update), request.name());
}

absl::StatusOr<v1::Session> Fork(const Environment& environment, const std::string& tenant,
                                 const v1::ForkSessionRequest& request) {
  ASSIGN_OR_RETURN(const SnapshotName source,
                   ParseSessionOrSnapshotName(request.source(), "source"));
  v1::CreateSessionRequest create;
  create.set_session_id(request.session_id());
  if (request.has_ttl()) *create.mutable_ttl() = request.ttl();
  *create.mutable_labels() = request.labels();
  create.set_request_id(request.request_id());
  ASSIGN_OR_RETURN(const auto options, ReadNewSession(create, environment));
  ASSIGN_OR_RETURN(const auto room, environment.quotas->Reserve(tenant, 1, 0));
  return Described(
      environment.store,
      environment.store->Fork(tenant, {source.session_id, source.snapshot_id}, options),
      request.source());
}

absl::StatusOr<v1::Session> Rewind(SessionStore* store, const std::string& tenant,
                                   const v1::RewindSessionRequest& request) {
  ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.name(), "name"));
  ASSIGN_OR_RETURN(const SnapshotName snapshot, ParseSnapshotName(request.snapshot(), "snapshot"));
  FieldViolations violations;
  if (snapshot.session_id != id) violations.Add("snapshot", "must be of the same session");
  if (request.request_id().size() > kMaxRequestId) {
    violations.Add("request_id", absl::StrCat("must be at most ", kMaxRequestId, " bytes"));
  }
  if (!request.request_id().empty() && request.session_version() == 0) {
    violations.Add("session_version", "must be set when request_id is: a repeat is known by it");
  }
  RETURN_IF_ERROR(violations.ToStatus());
  for (int attempt = 1;; ++attempt) {
    uint64_t version = request.session_version();
    if (version == 0) {
      auto session = store->GetSession(tenant, id);
      if (!session.ok()) return WithResource(session.status(), "session", request.name());
      version = session->version;
    }
    auto session = store->Rewind(tenant, id, snapshot.snapshot_id, version, request.request_id());
    const bool moved = ReasonOf(session.status()) == v1::ERROR_REASON_VERSION_MISMATCH;
    if (moved && request.session_version() == 0 && attempt < kRewindAttempts) continue;
    return Described(store, session, request.name());
  }
}

absl::StatusOr<v1::Snapshot> Described(const absl::StatusOr<state_store::SnapshotInfo>& snapshot,
                                       const std::string& session_id, const std::string& name) {
  if (!snapshot.ok()) return WithResource(snapshot.status(), "snapshot", name);
  return DescribeSnapshot(session_id, *snapshot);
}

absl::StatusOr<v1::ListSnapshotsResponse> ListSnapshotsOf(SessionStore* store,
                                                          const std::string& tenant,
                                                          const v1::ListSnapshotsRequest& request) {
  ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.session(), "session"));
  ASSIGN_OR_RETURN(const auto page, ReadPage(request.page_size(), request.page_token()));
  auto snapshots = store->ListSnapshots(tenant, id, page);
  if (!snapshots.ok()) return WithResource(snapshots.status(), "session", request.session());
  v1::ListSnapshotsResponse response;
  for (const auto& snapshot : snapshots->snapshots) {
    *response.add_snapshots() = DescribeSnapshot(id, snapshot);
  }
  response.set_next_page_token(snapshots->next_page_token);
  return response;
}

absl::StatusOr<Empty> Done(absl::Status status, const char* type, const std::string& name) {
  if (!status.ok()) return WithResource(std::move(status), type, name);
  return Empty();
}

}  // namespace

grpc::ServerUnaryReactor* SessionService::CreateSession(Context* context, const Buffer* in,
                                                        Buffer* out) {
  return ServeUnary<v1::CreateSessionRequest>(
      environment_, context, in, out, [this](const std::string& tenant, const auto& request) {
        return Create(*environment_, tenant, request);
      });
}

grpc::ServerUnaryReactor* SessionService::GetSession(Context* context, const Buffer* in,
                                                     Buffer* out) {
  return ServeUnary<v1::GetSessionRequest>(
      environment_, context, in, out,
      [this](const std::string& tenant, const auto& request) -> absl::StatusOr<v1::Session> {
        ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.name(), "name"));
        return Described(environment_->store, environment_->store->GetSession(tenant, id),
                         request.name());
      });
}

grpc::ServerUnaryReactor* SessionService::ListSessions(Context* context, const Buffer* in,
                                                       Buffer* out) {
  return ServeUnary<v1::ListSessionsRequest>(
      environment_, context, in, out, [this](const std::string& tenant, const auto& request) {
        return List(environment_->store, tenant, request);
      });
}

grpc::ServerUnaryReactor* SessionService::UpdateSession(Context* context, const Buffer* in,
                                                        Buffer* out) {
  return ServeUnary<v1::UpdateSessionRequest>(
      environment_, context, in, out, [this](const std::string& tenant, const auto& request) {
        return Update(environment_->store, tenant, request);
      });
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(Context* context, const Buffer* in,
                                                        Buffer* out) {
  return ServeUnary<v1::DeleteSessionRequest>(
      environment_, context, in, out,
      [this](const std::string& tenant, const auto& request) -> absl::StatusOr<Empty> {
        ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.name(), "name"));
        const absl::Status deleted = environment_->store->DeleteSession(tenant, id);
        if (deleted.ok()) environment_->quotas->Forget(tenant);
        return Done(deleted, "session", request.name());
      });
}

grpc::ServerUnaryReactor* SessionService::ForkSession(Context* context, const Buffer* in,
                                                      Buffer* out) {
  return ServeUnary<v1::ForkSessionRequest>(environment_, context, in, out,
                                            [this](const std::string& tenant, const auto& request) {
                                              return Fork(*environment_, tenant, request);
                                            });
}

grpc::ServerUnaryReactor* SessionService::RewindSession(Context* context, const Buffer* in,
                                                        Buffer* out) {
  return ServeUnary<v1::RewindSessionRequest>(
      environment_, context, in, out, [this](const std::string& tenant, const auto& request) {
        return Rewind(environment_->store, tenant, request);
      });
}

grpc::ServerUnaryReactor* SessionService::GetCommit(Context* context, const Buffer* in,
                                                    Buffer* out) {
  return ServeUnary<v1::GetCommitRequest>(environment_, context, in, out,
                                          [this](const std::string& tenant, const auto& request) {
                                            return FindTurn(environment_->store, tenant, request);
                                          });
}

grpc::ServerUnaryReactor* SessionService::CreateSnapshot(Context* context, const Buffer* in,
                                                         Buffer* out) {
  return ServeUnary<v1::CreateSnapshotRequest>(
      environment_, context, in, out,
      [this](const std::string& tenant, const auto& request) -> absl::StatusOr<v1::Snapshot> {
        ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.session(), "session"));
        return Described(environment_->store->CreateSnapshot(tenant, id), id, request.session());
      });
}

grpc::ServerUnaryReactor* SessionService::GetSnapshot(Context* context, const Buffer* in,
                                                      Buffer* out) {
  return ServeUnary<v1::GetSnapshotRequest>(
      environment_, context, in, out,
      [this](const std::string& tenant, const auto& request) -> absl::StatusOr<v1::Snapshot> {
        ASSIGN_OR_RETURN(const SnapshotName name, ParseSnapshotName(request.name(), "name"));
        return Described(
            environment_->store->GetSnapshot(tenant, name.session_id, name.snapshot_id),
            name.session_id, request.name());
      });
}

grpc::ServerUnaryReactor* SessionService::ListSnapshots(Context* context, const Buffer* in,
                                                        Buffer* out) {
  return ServeUnary<v1::ListSnapshotsRequest>(
      environment_, context, in, out, [this](const std::string& tenant, const auto& request) {
        return ListSnapshotsOf(environment_->store, tenant, request);
      });
}

grpc::ServerUnaryReactor* SessionService::DeleteSnapshot(Context* context, const Buffer* in,
                                                         Buffer* out) {
  return ServeUnary<v1::DeleteSnapshotRequest>(
      environment_, context, in, out,
      [this](const std::string& tenant, const auto& request) -> absl::StatusOr<Empty> {
        ASSIGN_OR_RETURN(const SnapshotName name, ParseSnapshotName(request.name(), "name"));
        const absl::Status deleted =
            environment_->store->DeleteSnapshot(tenant, name.session_id, name.snapshot_id);
        if (deleted.ok()) environment_->quotas->Forget(tenant);
        return Done(deleted, "snapshot", request.name());
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* SessionService::ExportSnapshot(Context* context,
                                                                           const Buffer* in) {
  return ExportCall::Start(environment_, &transfers_, context, in);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* SessionService::ImportSnapshot(Context* context,
                                                                          Buffer* out) {
  return ImportCall::Start(environment_, &transfers_, context, out);
}

}  // namespace reprise::service
