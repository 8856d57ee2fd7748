// W3C Trace Context (https://www.w3.org/TR/trace-context): which trace of the caller's a call
// belongs to.
#ifndef REPRISE_SERVICE_TRACE_CONTEXT_H_
#define REPRISE_SERVICE_TRACE_CONTEXT_H_

#include <grpcpp/server_context.h>

#include <optional>
#include <string>
#include <string_view>

namespace reprise::service {

inline constexpr char kTraceparentKey[] = "traceparent";

struct TraceContext {
  std::string trace_id;     // 32 hexadecimal digits
  std::string span_id;      // 16: of the call here
  std::string parent_span;  // 16: of the caller; empty if it named none
  bool sampled = false;     // the caller records this trace

  // The header that names this call.
  std::string Traceparent() const;
};

// What a caller sent; empty if that is no valid header.
struct Traceparent {
  std::string trace_id, span_id;
  bool sampled = false;
};
std::optional<Traceparent> ParseTraceparent(std::string_view header);

// A call of the trace that the caller names, or of a new one. Says so in the response's initial
// metadata, so call it before anything is sent.
TraceContext BeginTrace(grpc::CallbackServerContext* context);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TRACE_CONTEXT_H_
