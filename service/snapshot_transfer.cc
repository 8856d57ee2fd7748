#include "service/snapshot_transfer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/errors.h"
#include "service/log_fields.h"
#include "service/resource_names.h"
#include "service/session_messages.h"
#include "service/status_to_grpc.h"
#include "service/trace_context.h"
#include "service/wire_codec.h"
#include "state_store/byte_stream.h"
#include "state_store/memory_store.h"

namespace reprise::service {
namespace {

constexpr size_t kPieceBytes = 256 << 10;
constexpr size_t kMaxPieceBytes = 1 << 20;
// What a file holds beside the state: manifest, chunk headers.
constexpr size_t kFileOverheadBytes = 16 << 20;

absl::Status TooManyWait() {
  return MakeError(v1::ERROR_REASON_QUEUE_FULL, "too many calls wait to be read");
}

// What is in `file`, with every checksum verified, without touching the server's store.
absl::StatusOr<state_store::Snapshot> ReadFile(const std::string& tenant, const std::string& file) {
  ASSIGN_OR_RETURN(auto staging, state_store::CreateMemoryStore({}));
  state_store::StringSource source(file);
  ASSIGN_OR_RETURN(const auto session, staging->ImportSnapshot(tenant, {}, source));
  return staging->ReadSnapshot(tenant, session.id, "");
}

void LogFailure(Environment* environment, const char* call, const absl::Status& status,
                const TraceContext& trace) {
  environment->log->info("{}",
                         WithFields(absl::StrCat(call, " refused or failed: ", ForLog(status)),
                                    {{"trace_id", trace.trace_id}}));
}

// What Admit refuses with, or QUEUE_FULL.
absl::StatusOr<Admission> AdmitTransfer(Environment* environment, TransferLimit* transfers,
                                        const grpc::CallbackServerContext& context) {
  ASSIGN_OR_RETURN(Admission admission, Admit(environment, context));
  ASSIGN_OR_RETURN(admission.places.transfer, transfers->Take());
  return admission;
}

}  // namespace

ExportCall* ExportCall::Start(Environment* environment, TransferLimit* transfers,
                              grpc::CallbackServerContext* context,
                              const grpc::ByteBuffer* request) {
  auto call = std::make_shared<ExportCall>();
  call->trace_ = BeginTrace(context);
  call->self_ = call;
  auto admitted = AdmitTransfer(environment, transfers, *context);
  if (!admitted.ok()) {
    call->End(ToGrpcStatus(admitted.status()));
    return call.get();
  }
  call->admission_ = *std::move(admitted);
  auto work = [call, environment, tenant = call->admission_.identity.tenant,
               bytes = *request]() mutable {
    if (absl::Status status = call->Prepare(environment, tenant, &bytes); !status.ok()) {
      LogFailure(environment, "ExportSnapshot", status, call->trace_);
      call->End(ToGrpcStatus(status));
    } else {
      call->WriteNext();
    }
  };
  if (!environment->io->TryRun(std::move(work))) call->End(ToGrpcStatus(TooManyWait()));
  return call.get();
}

absl::Status ExportCall::Prepare(Environment* environment, const std::string& tenant,
                                 grpc::ByteBuffer* bytes) {
  v1::ExportSnapshotRequest request;
  RETURN_IF_ERROR(ParseMessage(bytes, &request));
  ASSIGN_OR_RETURN(const SnapshotName name, ParseSessionOrSnapshotName(request.name(), "name"));
  state_store::StringSink sink;
  const absl::Status status =
      environment->store->ExportSnapshot(tenant, name.session_id, name.snapshot_id, sink);
  if (!status.ok()) {
    return WithResource(status, name.snapshot_id.empty() ? "session" : "snapshot", request.name());
  }
  file_ = sink.bytes();
  return absl::OkStatus();
}

void ExportCall::End(const grpc::Status& status) {
  admission_.GiveBack();
  Finish(status);
}

void ExportCall::WriteNext() {
  if (written_ == file_.size()) {
    End(grpc::Status::OK);
    return;
  }
  const size_t size = std::min(kPieceBytes, file_.size() - written_);
  v1::ExportSnapshotResponse response;
  response.set_data(file_.data() + written_, size);
  written_ += size;
  piece_ = SerializeMessage(response);
  StartWrite(&piece_);
}

void ExportCall::OnWriteDone(bool ok) {
  if (!ok) {
    End(ToGrpcStatus(MakeError(v1::ERROR_REASON_CANCELLED, "the client is gone")));
  } else {
    WriteNext();
  }
}

ImportCall* ImportCall::Start(Environment* environment, TransferLimit* transfers,
                              grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  auto call = std::make_shared<ImportCall>();
  call->trace_ = BeginTrace(context);
  call->self_ = call;
  call->environment_ = environment;
  call->context_ = context;
  call->response_ = response;
  auto admitted = AdmitTransfer(environment, transfers, *context);
  if (!admitted.ok()) {
    call->End(ToGrpcStatus(admitted.status()));
    return call.get();
  }
  call->admission_ = *std::move(admitted);
  call->StartRead(&call->piece_);
  return call.get();
}

void ImportCall::End(const grpc::Status& status) {
  admission_.GiveBack();
  Finish(status);
}

void ImportCall::OnReadDone(bool ok) {
  if (ok) {
    if (absl::Status status = TakePiece(); !status.ok()) {
      LogFailure(environment_, "ImportSnapshot", status, trace_);
      End(ToGrpcStatus(status));
    } else {
      StartRead(&piece_);
    }
    return;
  }
  // A client that went away half-way has not sent its file.
  if (context_->IsCancelled()) {
    End(ToGrpcStatus(MakeError(v1::ERROR_REASON_CANCELLED, "the client is gone")));
    return;
  }
  const bool accepted = environment_->io->TryRun([call = shared_from_this()] {
    auto session = call->Import();
    if (!session.ok()) {
      LogFailure(call->environment_, "ImportSnapshot", session.status(), call->trace_);
      call->End(ToGrpcStatus(session.status()));
      return;
    }
    *call->response_ = SerializeMessage(*session);
    call->End(grpc::Status::OK);
  });
  if (!accepted) End(ToGrpcStatus(TooManyWait()));
}

absl::Status ImportCall::TakePiece() {
  v1::ImportSnapshotRequest request;
  RETURN_IF_ERROR(ParseMessage(&piece_, &request));
  if (request.has_session() == session_.has_value()) {
    return FieldError("session", "must be in the first message, and in no other");
  }
  if (request.has_session()) {
    session_ = std::move(*request.mutable_session());
    return absl::OkStatus();
  }
  if (request.data().size() > kMaxPieceBytes) {
    return FieldError("data", absl::StrCat("must be at most ", kMaxPieceBytes, " bytes"));
  }
  const size_t cap = environment_->models->max_state_bytes() + kFileOverheadBytes;
  if (file_.size() + request.data().size() > cap) {
    return FieldError("data", absl::StrCat("must be at most ", cap,
                                           " bytes in all: no model here has larger states"));
  }
  file_.append(request.data());
  return absl::OkStatus();
}

absl::StatusOr<v1::Session> ImportCall::Import() {
  if (!session_.has_value()) return FieldError("session", "must be in the first message");
  ASSIGN_OR_RETURN(auto options, ReadNewSession(*session_, *environment_, "session."));
  ASSIGN_OR_RETURN(const state_store::Snapshot snapshot,
                   ReadFile(admission_.identity.tenant, file_));
  const std::string& name =
      options.model_id.empty() ? snapshot.manifest.model_id : options.model_id;
  ASSIGN_OR_RETURN(const ServedModel* model, environment_->models->Find(name, "session.model"));
  RETURN_IF_ERROR(RestoreChecked(*model, snapshot).status());
  ASSIGN_OR_RETURN(admission_.places.room,
                   environment_->quotas->Reserve(admission_.identity.tenant, 1,
                                                 static_cast<int64_t>(model->layout().bytes())));
  state_store::StringSource source(file_);
  auto session = environment_->store->ImportSnapshot(admission_.identity.tenant, options, source);
  if (!session.ok()) {
    return WithResource(session.status(), "session", MakeSessionName(options.id));
  }
  return DescribeSession(environment_->store, *session);
}

}  // namespace reprise::service
