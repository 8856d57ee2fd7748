// Snapshots as streams: one file out in pieces, or in.
//
// Either way the whole file is in memory for a moment (it is one sequence's state, of fixed size),
// so that no thread and no lock of the store ever waits for a client.
#ifndef REPRISE_SERVICE_SNAPSHOT_TRANSFER_H_
#define REPRISE_SERVICE_SNAPSHOT_TRANSFER_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>

#include "reprise/v1/session.pb.h"
#include "service/auth/admission.h"
#include "service/environment.h"
#include "service/trace_context.h"
#include "service/transfer_limit.h"

namespace reprise::service {

// Reads the snapshot on an I/O thread, then writes piece after piece as fast as the client takes
// them.
class ExportCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                         public std::enable_shared_from_this<ExportCall> {
 public:
  static ExportCall* Start(Environment* environment, TransferLimit* transfers,
                           grpc::CallbackServerContext* context, const grpc::ByteBuffer* request);

  void OnWriteDone(bool ok) override;
  void OnDone() override { self_.reset(); }

 private:
  absl::Status Prepare(Environment* environment, const std::string& tenant,
                       grpc::ByteBuffer* request);
  void WriteNext();

  // Gives its places back, then finishes the call.
  void End(const grpc::Status& status);

  std::shared_ptr<ExportCall> self_;  // until OnDone
  TraceContext trace_;
  Admission admission_;
  std::string file_;
  size_t written_ = 0;
  grpc::ByteBuffer piece_;
};

// Collects the pieces up to a cap that follows from the served models, then, on an I/O thread,
// checks the whole file in a store of its own, checks it against the model, and only then stores
// it.
class ImportCall final : public grpc::ServerReadReactor<grpc::ByteBuffer>,
                         public std::enable_shared_from_this<ImportCall> {
 public:
  static ImportCall* Start(Environment* environment, TransferLimit* transfers,
                           grpc::CallbackServerContext* context, grpc::ByteBuffer* response);

  void OnReadDone(bool ok) override;
  void OnDone() override { self_.reset(); }

 private:
  absl::Status TakePiece();
  absl::StatusOr<v1::Session> Import();

  // As ExportCall has it.
  void End(const grpc::Status& status);

  Environment* environment_ = nullptr;
  grpc::CallbackServerContext* context_ = nullptr;
  grpc::ByteBuffer* response_ = nullptr;
  std::shared_ptr<ImportCall> self_;  // until OnDone
  TraceContext trace_;
  Admission admission_;
  grpc::ByteBuffer piece_;
  std::optional<v1::CreateSessionRequest> session_;
  std::string file_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SNAPSHOT_TRANSFER_H_
