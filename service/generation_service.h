// GenerationService: every call is a GenerateCall.
#ifndef REPRISE_SERVICE_GENERATION_SERVICE_H_
#define REPRISE_SERVICE_GENERATION_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "reprise/v1/generation.grpc.pb.h"
#include "service/environment.h"
#include "service/generate_call.h"

namespace reprise::service {

class GenerationService final
    : public v1::GenerationService::WithRawCallbackMethod_Generate<v1::GenerationService::Service> {
 public:
  // Borrowed; must outlive the gRPC server.
  explicit GenerationService(Environment* environment) : environment_(environment) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override {
    return GenerateCall::Start(environment_, context, request);
  }

 private:
  Environment* const environment_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_GENERATION_SERVICE_H_
