// What all unary calls share: the gate, a thread of the I/O pool, parsing, errors.
#ifndef REPRISE_SERVICE_UNARY_CALL_H_
#define REPRISE_SERVICE_UNARY_CALL_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "service/auth/admission.h"
#include "service/environment.h"
#include "service/errors.h"
#include "service/log_fields.h"
#include "service/status_to_grpc.h"
#include "service/trace_context.h"
#include "service/wire_codec.h"

namespace reprise::service {

// Parses `in`, runs serve(tenant, request) -> absl::StatusOr<Response> on an I/O thread and
// finishes the call.
template <typename Request, typename Serve>
grpc::ServerUnaryReactor* ServeUnary(Environment* environment, grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* in, grpc::ByteBuffer* out,
                                     Serve serve) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const TraceContext trace = BeginTrace(context);
  auto admitted = Admit(environment, *context);
  if (!admitted.ok()) {
    reactor->Finish(ToGrpcStatus(admitted.status()));
    return reactor;
  }
  auto held = std::make_shared<Admission>(*std::move(admitted));
  const auto end = [reactor, held](const grpc::Status& status) {
    held->GiveBack();
    reactor->Finish(status);
  };
  // `held` goes with the task, when the call is over.
  auto work = [=, bytes = *in]() mutable {
    Request request;
    if (absl::Status status = ParseMessage(&bytes, &request); !status.ok()) {
      end(ToGrpcStatus(status));
      return;
    }
    auto response = serve(held->identity.tenant, request);
    if (!response.ok()) {
      environment->log->info(
          "{}", WithFields(absl::StrCat(Request::descriptor()->name(),
                                        " refused or failed: ", ForLog(response.status())),
                           {{"trace_id", trace.trace_id}}));
      end(ToGrpcStatus(response.status()));
      return;
    }
    *out = SerializeMessage(*response);
    end(grpc::Status::OK);
  };
  if (!environment->io->TryRun(std::move(work))) {
    end(ToGrpcStatus(MakeError(v1::ERROR_REASON_QUEUE_FULL, "too many calls wait to be read")));
  }
  return reactor;
}

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_UNARY_CALL_H_
