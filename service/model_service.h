// ModelService: what is served here, and its tokenizer.
#ifndef REPRISE_SERVICE_MODEL_SERVICE_H_
#define REPRISE_SERVICE_MODEL_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "reprise/v1/model.grpc.pb.h"
#include "service/environment.h"

namespace reprise::service {

namespace internal {
using M = v1::ModelService;
using ModelServiceBase = M::WithRawCallbackMethod_ListModels<M::WithRawCallbackMethod_GetModel<
    M::WithRawCallbackMethod_Tokenize<M::WithRawCallbackMethod_Detokenize<M::Service>>>>;
}  // namespace internal

class ModelService final : public internal::ModelServiceBase {
 public:
  // Borrowed; must outlive the gRPC server.
  explicit ModelService(Environment* environment) : environment_(environment) {}

  using Context = grpc::CallbackServerContext;
  using Buffer = grpc::ByteBuffer;
  grpc::ServerUnaryReactor* ListModels(Context* context, const Buffer* in, Buffer* out) override;
  grpc::ServerUnaryReactor* GetModel(Context* context, const Buffer* in, Buffer* out) override;
  grpc::ServerUnaryReactor* Tokenize(Context* context, const Buffer* in, Buffer* out) override;
  grpc::ServerUnaryReactor* Detokenize(Context* context, const Buffer* in, Buffer* out) override;

 private:
  Environment* const environment_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_MODEL_SERVICE_H_
