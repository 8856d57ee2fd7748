#include "state_store/internal/session_plan.h"

#include <map>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"

namespace reprise::state_store {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxNoteBytes = 256;

// Collects ops, and at the end erases the snapshots that lose their last reference.
class PlanBuilder {
 public:
  PlanBuilder(const SessionIndex& index, std::string_view tenant)
      : index_(index), tenant_(tenant) {}

  void Add(Op op) { ops_.push_back(std::move(op)); }
  void Take(const std::string& snapshot_id) { Refer(snapshot_id, +1); }
  void Release(const std::string& snapshot_id) { Refer(snapshot_id, -1); }

  void EraseWholeSession(const SessionEntry& entry) {
    Add(EraseSession{tenant_, entry.session.id});
    Release(entry.session.head_snapshot_id);
    if (entry.holds_origin) Release(entry.session.parent_snapshot_id);
    for (const auto& [order, id] : entry.retained) Release(id);
  }

  Plan Finish(Session session) {
    for (const auto& [id, delta] : deltas_) {
      const SnapshotEntry* entry = index_.FindSnapshot(tenant_, id);
      if (entry != nullptr && entry->refs + delta == 0) Add(EraseSnapshot{tenant_, id});
    }
    return Plan{Mutation{std::move(ops_)}, std::move(session)};
  }

 private:
  void Refer(const std::string& snapshot_id, int delta) {
    if (!snapshot_id.empty()) deltas_[snapshot_id] += delta;
  }

  const SessionIndex& index_;
  std::string tenant_;
  std::vector<Op> ops_;
  std::map<std::string, int> deltas_;
};

absl::Status Invalid(std::string_view problem) {
  return MakeStoreError(StoreError::kInvalidArgument, problem);
}

absl::Status CheckRequestId(std::string_view request_id) {
  if (request_id.size() > kMaxRequestIdBytes) return Invalid("request_id is too long");
  return absl::OkStatus();
}

absl::Status CheckTtl(absl::Duration ttl) {
  if (ttl < absl::Microseconds(1)) return Invalid("ttl must be positive");
  return absl::OkStatus();
}

const RequestRecord* FindRequest(const std::vector<RequestRecord>& records, RequestKind kind,
                                 std::string_view request_id) {
  if (request_id.empty()) return nullptr;
  for (const RequestRecord& record : records) {
    if (record.kind == kind && record.request_id == request_id) return &record;
  }
  return nullptr;
}

absl::Status Reused(std::string_view request_id) {
  return MakeStoreError(StoreError::kRequestIdReused,
                        Cat("request_id \"", request_id, "\" was used with other arguments"));
}

// Whole microseconds, as they are stored; the end of time if it does not fit.
absl::Time After(absl::Time now, absl::Duration ttl) {
  if (ttl == absl::InfiniteDuration()) return absl::InfiniteFuture();
  return absl::FromUnixMicros(absl::ToUnixMicros(now + ttl));
}

absl::Duration WholeMicroseconds(absl::Duration ttl) {
  return ttl == absl::InfiniteDuration() ? ttl : absl::Trunc(ttl, absl::Microseconds(1));
}

// The session with a new head, one version on.
Session Moved(const Session& from, const SnapshotManifest& head, absl::Time now) {
  Session session = from;
  ++session.version;
  session.head_snapshot_id = head.snapshot_id;
  session.position = head.position;
  session.token_count = head.token_count;
  session.model_id = head.model_id;
  session.updated = now;
  session.expires = After(now, session.ttl);
  return session;
}

// The entry to move, or the answer of the first try in `repeat`.
absl::StatusOr<const SessionEntry*> CheckMove(const SessionIndex& index,
                                              const CommitRequest& request, RequestKind kind,
                                              std::string_view argument, Session* repeat) {
  RETURN_IF_ERROR(CheckRequestId(request.request_id));
  ASSIGN_OR_RETURN(const SessionEntry* entry,
                   FindLive(index, request.tenant, request.session_id, request.now));
  if (const RequestRecord* record = FindRequest(entry->requests, kind, request.request_id)) {
    // Of a commit the argument is its note, which a repeat need not give again.
    if (record->expected_version != request.expected_version ||
        (kind != RequestKind::kCommit && record->argument != argument)) {
      return Reused(request.request_id);
    }
    *repeat = record->result;
    return entry;
  }
  if (entry->session.version != request.expected_version) {
    return MakeStoreError(StoreError::kVersionMismatch,
                          Cat("session ", request.session_id, " is at version ",
                              entry->session.version, ", not ", request.expected_version));
  }
  return entry;
}

void Remember(const CommitRequest& request, RequestKind kind, std::string_view argument,
              const SessionEntry& entry, const Session& result, PlanBuilder& builder) {
  if (request.request_id.empty()) return;
  const std::string tenant(request.tenant);
  // More than one only after the limit was lowered between runs.
  const size_t keep = static_cast<size_t>(request.max_requests) - 1;
  for (size_t i = 0; i + keep < entry.requests.size(); ++i) {
    const RequestRecord& old = entry.requests[i];
    builder.Add(EraseRequest{tenant, old.kind, result.id, old.request_id});
  }
  builder.Add(PutRequest{tenant,
                         {kind, std::string(request.request_id), result.id,
                          request.expected_version, std::string(argument), request.now, result}});
}

}  // namespace

absl::StatusOr<const SessionEntry*> FindLive(const SessionIndex& index, std::string_view tenant,
                                             std::string_view session_id, absl::Time now) {
  const SessionEntry* entry = index.FindSession(tenant, session_id);
  if (entry == nullptr) {
    return MakeStoreError(StoreError::kSessionNotFound, Cat("no session \"", session_id, "\""));
  }
  if (entry->session.expires <= now) {
    return MakeStoreError(StoreError::kSessionExpired,
                          Cat("session \"", session_id, "\" has expired"));
  }
  return entry;
}

absl::StatusOr<const SnapshotEntry*> FindVisible(const SessionIndex& index,
                                                 const SessionEntry& session,
                                                 std::string_view snapshot_id) {
  const Session& s = session.session;
  if (snapshot_id.empty()) {
    if (s.head_snapshot_id.empty()) {
      return MakeStoreError(StoreError::kNoHead, Cat("session ", s.id, " has no snapshot yet"));
    }
    snapshot_id = s.head_snapshot_id;
  }
  const SnapshotEntry* snapshot = index.FindSnapshot(s.tenant, snapshot_id);
  if (snapshot != nullptr) {
    const SnapshotInfo info = MakeInfo(session, *snapshot);
    if (info.is_head || info.retained || info.is_origin) return snapshot;
  }
  return MakeStoreError(StoreError::kSnapshotNotFound,
                        Cat("session ", s.id, " has no snapshot \"", snapshot_id, "\""));
}

SnapshotInfo MakeInfo(const SessionEntry& session, const SnapshotEntry& snapshot) {
  SnapshotInfo info;
  info.manifest = *snapshot.manifest;
  const std::string& id = snapshot.manifest->snapshot_id;
  info.is_head = session.session.head_snapshot_id == id;
  info.retained = session.retained.count(snapshot.order) != 0;
  info.is_origin = session.holds_origin && session.session.parent_snapshot_id == id;
  return info;
}

absl::StatusOr<Plan> PlanCreate(const SessionIndex& index, std::string_view tenant,
                                const NewSessionOptions& options, const Origin& origin,
                                std::string_view fresh_id, absl::Time now) {
  RETURN_IF_ERROR(CheckTtl(options.ttl));
  RETURN_IF_ERROR(ValidateLabels(options.labels));
  RETURN_IF_ERROR(ValidateModelId(options.model_id));
  RETURN_IF_ERROR(CheckRequestId(options.request_id));
  if (!options.id.empty() && !IsValidSessionId(options.id)) {
    return Invalid("session id must match [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?");
  }
  const std::string argument = origin.kind == RequestKind::kFork
                                   ? Cat(origin.source.session_id, "/", origin.source.snapshot_id)
                                   : "";
  if (const TenantEntry* entry = index.FindTenant(tenant)) {
    if (const RequestRecord* record =
            FindRequest(entry->creations, origin.kind, options.request_id)) {
      if (record->argument != argument ||
          (!options.id.empty() && options.id != record->session_id)) {
        return Reused(options.request_id);
      }
      return Plan{{}, record->result};
    }
  }

  PlanBuilder builder(index, tenant);
  Session session;
  session.tenant = tenant;
  session.id = options.id.empty() ? std::string(fresh_id) : options.id;
  session.version = 0;
  session.model_id = options.model_id;
  session.created = now;
  session.updated = now;
  session.ttl = WholeMicroseconds(options.ttl);
  session.labels = options.labels;

  std::shared_ptr<const SnapshotManifest> head = origin.imported;
  if (origin.kind == RequestKind::kFork) {
    ASSIGN_OR_RETURN(const SessionEntry* source,
                     FindLive(index, tenant, origin.source.session_id, now));
    ASSIGN_OR_RETURN(const SnapshotEntry* snapshot,
                     FindVisible(index, *source, origin.source.snapshot_id));
    head = snapshot->manifest;
    session.parent_session_id = origin.source.session_id;
    session.parent_snapshot_id = head->snapshot_id;
  }
  if (const SessionEntry* existing = index.FindSession(tenant, session.id)) {
    if (existing->session.expires > now) {
      return MakeStoreError(StoreError::kSessionExists,
                            Cat("session \"", session.id, "\" is there already"));
    }
    builder.EraseWholeSession(*existing);
  }
  if (origin.imported != nullptr) builder.Add(PutSnapshot{index.last_order() + 1, origin.imported});

  const bool forked = origin.kind == RequestKind::kFork;
  if (head != nullptr) {
    if (!session.model_id.empty() && session.model_id != head->model_id) {
      return MakeStoreError(
          StoreError::kModelMismatch,
          Cat("snapshot is of model \"", head->model_id, "\", not \"", session.model_id, "\""));
    }
    session = Moved(session, *head, now);
    builder.Take(head->snapshot_id);
    if (forked) builder.Take(head->snapshot_id);
  } else {
    session.version = 1;
    session.expires = After(now, session.ttl);
  }
  builder.Add(PutSession{session, forked});
  if (!options.request_id.empty()) {
    builder.Add(
        PutRequest{std::string(tenant),
                   {origin.kind, options.request_id, session.id, 0, argument, now, session}});
  }
  return builder.Finish(session);
}

absl::StatusOr<Plan> PlanRestore(
    const SessionIndex& index, const SessionCopy& copy,
    const std::vector<std::shared_ptr<const SnapshotManifest>>& manifests, absl::Time now) {
  const Session& session = copy.session;
  PlanBuilder builder(index, session.tenant);
  if (const SessionEntry* existing = index.FindSession(session.tenant, session.id)) {
    if (existing->session.expires > now) {
      return MakeStoreError(StoreError::kSessionExists,
                            Cat("session \"", session.id, "\" is there already"));
    }
    builder.EraseWholeSession(*existing);
  }
  bool holds_origin = false;
  uint64_t order = index.last_order();
  for (size_t i = 0; i < copy.snapshots.size(); ++i) {
    const SnapshotInfo& info = copy.snapshots[i];
    const std::string& id = info.manifest.snapshot_id;
    // A fork or its source may have brought it.
    if (index.FindSnapshot(session.tenant, id) == nullptr) {
      if (manifests[i] == nullptr) {
        return MakeStoreError(StoreError::kVersionMismatch, Cat("snapshot ", id, " has just gone"));
      }
      builder.Add(PutSnapshot{++order, manifests[i]});
    } else {
      for (const bool used : {info.is_head, info.is_origin, info.retained}) {
        if (used) builder.Take(id);
      }
    }
    holds_origin = holds_origin || info.is_origin;
  }
  builder.Add(PutSession{session, holds_origin});
  for (const SnapshotInfo& info : copy.snapshots) {
    if (info.retained) {
      builder.Add(Retain{session.tenant, session.id, info.manifest.snapshot_id});
    }
  }
  return builder.Finish(session);
}

absl::StatusOr<Plan> PlanUpdate(const SessionIndex& index, std::string_view tenant,
                                std::string_view session_id, const SessionUpdate& update,
                                absl::Time now) {
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, now));
  Session session = entry->session;
  if (update.ttl.has_value()) {
    RETURN_IF_ERROR(CheckTtl(*update.ttl));
    session.ttl = WholeMicroseconds(*update.ttl);
  }
  if (update.labels.has_value()) {
    RETURN_IF_ERROR(ValidateLabels(*update.labels));
    session.labels = *update.labels;
  }
  session.expires = After(now, session.ttl);
  session.updated = now;
  PlanBuilder builder(index, tenant);
  builder.Add(PutSession{session, entry->holds_origin});
  return builder.Finish(session);
}

absl::StatusOr<Plan> PlanDelete(const SessionIndex& index, std::string_view tenant,
                                std::string_view session_id) {
  // An expired session can still be deleted: it is there until the sweeper comes.
  ASSIGN_OR_RETURN(const SessionEntry* entry,
                   FindLive(index, tenant, session_id, absl::InfinitePast()));
  PlanBuilder builder(index, tenant);
  builder.EraseWholeSession(*entry);
  return builder.Finish(entry->session);
}

absl::StatusOr<Plan> PlanCommit(const SessionIndex& index, const CommitRequest& request,
                                std::string_view model_id,
                                std::shared_ptr<const SnapshotManifest> manifest, bool keep) {
  if (request.note.size() > kMaxNoteBytes) return Invalid("note is too long");
  Session repeat;
  ASSIGN_OR_RETURN(const SessionEntry* entry,
                   CheckMove(index, request, RequestKind::kCommit, "", &repeat));
  if (repeat.version != 0) return Plan{{}, std::move(repeat)};
  if (!entry->session.model_id.empty() && entry->session.model_id != model_id) {
    return MakeStoreError(StoreError::kModelMismatch,
                          Cat("session ", request.session_id, " is of model \"",
                              entry->session.model_id, "\", not \"", model_id, "\""));
  }
  if (manifest == nullptr) return Plan{};

  PlanBuilder builder(index, request.tenant);
  Session session = Moved(entry->session, *manifest, request.now);
  builder.Add(PutSnapshot{index.last_order() + 1, manifest});
  builder.Add(PutSession{session, entry->holds_origin});
  if (keep) builder.Add(Retain{session.tenant, session.id, manifest->snapshot_id});
  builder.Release(entry->session.head_snapshot_id);
  Remember(request, RequestKind::kCommit, request.note, *entry, session, builder);
  return builder.Finish(session);
}

absl::StatusOr<std::optional<CommitRecord>> FindRemembered(const SessionIndex& index,
                                                           std::string_view tenant,
                                                           std::string_view session_id,
                                                           std::string_view request_id,
                                                           absl::Time now) {
  RETURN_IF_ERROR(CheckRequestId(request_id));
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, now));
  const RequestRecord* record = FindRequest(entry->requests, RequestKind::kCommit, request_id);
  if (record == nullptr) return std::nullopt;
  return CommitRecord{record->result, record->expected_version, record->argument};
}

absl::StatusOr<Plan> PlanRewind(const SessionIndex& index, const CommitRequest& request,
                                std::string_view snapshot_id) {
  Session repeat;
  ASSIGN_OR_RETURN(const SessionEntry* entry,
                   CheckMove(index, request, RequestKind::kRewind, snapshot_id, &repeat));
  if (repeat.version != 0) return Plan{{}, std::move(repeat)};
  ASSIGN_OR_RETURN(const SnapshotEntry* target, FindVisible(index, *entry, snapshot_id));

  PlanBuilder builder(index, request.tenant);
  Session session = Moved(entry->session, *target->manifest, request.now);
  builder.Add(PutSession{session, entry->holds_origin});
  builder.Take(session.head_snapshot_id);
  builder.Release(entry->session.head_snapshot_id);
  Remember(request, RequestKind::kRewind, snapshot_id, *entry, session, builder);
  return builder.Finish(session);
}

absl::StatusOr<Plan> PlanRetainHead(const SessionIndex& index, std::string_view tenant,
                                    std::string_view session_id, absl::Time now) {
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, now));
  ASSIGN_OR_RETURN(const SnapshotEntry* head, FindVisible(index, *entry, ""));
  if (entry->retained.count(head->order) != 0) return Plan{{}, entry->session};
  PlanBuilder builder(index, tenant);
  builder.Add(Retain{std::string(tenant), std::string(session_id), head->manifest->snapshot_id});
  return builder.Finish(entry->session);
}

absl::StatusOr<Plan> PlanDeleteSnapshot(const SessionIndex& index, std::string_view tenant,
                                        std::string_view session_id, std::string_view snapshot_id,
                                        absl::Time now) {
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, now));
  ASSIGN_OR_RETURN(const SnapshotEntry* snapshot, FindVisible(index, *entry, snapshot_id));
  const SnapshotInfo info = MakeInfo(*entry, *snapshot);
  const std::string& id = info.manifest.snapshot_id;
  if (info.is_head) {
    return MakeStoreError(StoreError::kSnapshotIsHead,
                          Cat("snapshot ", id, " is the head of session ", session_id));
  }
  PlanBuilder builder(index, tenant);
  if (info.retained) {
    builder.Add(Unretain{std::string(tenant), std::string(session_id), id});
    builder.Release(id);
  }
  if (info.is_origin) {
    // The session still says where it came from, but no longer keeps it alive.
    builder.Add(PutSession{entry->session, false});
    builder.Release(id);
  }
  return builder.Finish(entry->session);
}

Mutation PlanForgetRequests(const SessionIndex& index, absl::Time before) {
  Mutation mutation;
  for (const auto& [name, tenant] : index.tenants()) {
    const auto forget = [&, &tenant_name = name](const RequestRecord& record) {
      if (record.time > before) return;
      mutation.ops.push_back(
          EraseRequest{tenant_name, record.kind, record.session_id, record.request_id});
    };
    for (const RequestRecord& record : tenant.creations) forget(record);
    for (const auto& [id, entry] : tenant.sessions) {
      for (const RequestRecord& record : entry.requests) forget(record);
    }
  }
  return mutation;
}

}  // namespace reprise::state_store
