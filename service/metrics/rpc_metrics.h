// Every call over the wire, of every service, counted in one place: an interceptor.
#ifndef REPRISE_SERVICE_METRICS_RPC_METRICS_H_
#define REPRISE_SERVICE_METRICS_RPC_METRICS_H_

#include <grpcpp/support/server_interceptor.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace reprise::service {

// Thread-safe. Must outlive the gRPC server that uses its interceptor.
class RpcMetrics {
 public:
  explicit RpcMetrics(prometheus::Registry& registry);

  // One for each server.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Interceptor();

  // What is known of one method; "other" for those that this server does not have.
  struct Method {
    prometheus::Histogram* seconds = nullptr;
    std::vector<prometheus::Counter*> by_code;  // by grpc::StatusCode
  };
  const Method& Find(std::string_view name) const;
  void Begin() { in_flight_.Increment(); }
  // `details` are those of a failed status: a google.rpc.Status, or empty.
  void End(const Method& method, grpc::StatusCode code, const std::string& details,
           absl::Duration time);
  void Leave() { in_flight_.Decrement(); }

 private:
  prometheus::Gauge& in_flight_;
  std::map<std::string, Method, std::less<>> methods_;
  std::map<std::string, prometheus::Counter*, std::less<>> reasons_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_RPC_METRICS_H_
