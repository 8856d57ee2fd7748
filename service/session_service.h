// SessionService: durable conversations, their forks and snapshots.
#ifndef REPRISE_SERVICE_SESSION_SERVICE_H_
#define REPRISE_SERVICE_SESSION_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "reprise/v1/session.grpc.pb.h"
#include "service/environment.h"
#include "service/transfer_limit.h"

namespace reprise::service {

namespace internal {
using S = v1::SessionService;
using SessionServiceBase = S::WithRawCallbackMethod_CreateSession<
    S::WithRawCallbackMethod_GetSession<S::WithRawCallbackMethod_GetCommit<
        S::WithRawCallbackMethod_ListSessions<S::WithRawCallbackMethod_UpdateSession<
            S::WithRawCallbackMethod_DeleteSession<S::WithRawCallbackMethod_ForkSession<
                S::WithRawCallbackMethod_RewindSession<S::WithRawCallbackMethod_CreateSnapshot<
                    S::WithRawCallbackMethod_GetSnapshot<S::WithRawCallbackMethod_ListSnapshots<
                        S::WithRawCallbackMethod_DeleteSnapshot<
                            S::WithRawCallbackMethod_ExportSnapshot<
                                S::WithRawCallbackMethod_ImportSnapshot<S::Service>>>>>>>>>>>>>>;
}  // namespace internal

// Every store call runs on an I/O thread.
class SessionService final : public internal::SessionServiceBase {
 public:
  // Borrowed; must outlive the gRPC server.
  explicit SessionService(Environment* environment)
      : environment_(environment), transfers_(kMaxTransfers) {}

  using Context = grpc::CallbackServerContext;
  using Buffer = grpc::ByteBuffer;
  using Unary = grpc::ServerUnaryReactor;
  Unary* CreateSession(Context* context, const Buffer* in, Buffer* out) override;
  Unary* GetSession(Context* context, const Buffer* in, Buffer* out) override;
  Unary* ListSessions(Context* context, const Buffer* in, Buffer* out) override;
  Unary* UpdateSession(Context* context, const Buffer* in, Buffer* out) override;
  Unary* DeleteSession(Context* context, const Buffer* in, Buffer* out) override;
  Unary* ForkSession(Context* context, const Buffer* in, Buffer* out) override;
  Unary* RewindSession(Context* context, const Buffer* in, Buffer* out) override;
  Unary* GetCommit(Context* context, const Buffer* in, Buffer* out) override;
  Unary* CreateSnapshot(Context* context, const Buffer* in, Buffer* out) override;
  Unary* GetSnapshot(Context* context, const Buffer* in, Buffer* out) override;
  Unary* ListSnapshots(Context* context, const Buffer* in, Buffer* out) override;
  Unary* DeleteSnapshot(Context* context, const Buffer* in, Buffer* out) override;
  grpc::ServerWriteReactor<Buffer>* ExportSnapshot(Context* context, const Buffer* in) override;
  grpc::ServerReadReactor<Buffer>* ImportSnapshot(Context* context, Buffer* out) override;

 private:
  // Exports and imports hold a whole snapshot in memory each.
  static constexpr int kMaxTransfers = 8;

  Environment* const environment_;
  TransferLimit transfers_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SESSION_SERVICE_H_
