#include "service/metrics/rpc_metrics.h"

#include <google/protobuf/descriptor.h>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "reprise/v1/errors.pb.h"
#include "reprise/v1/generation.pb.h"
#include "reprise/v1/model.pb.h"
#include "reprise/v1/session.pb.h"
#include "service/metrics/buckets.h"

namespace reprise::service {
namespace {

// By code, as the gRPC documents spell them.
constexpr const char* kCodes[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};
constexpr char kOther[] = "other";
constexpr char kReasonPrefix[] = "ERROR_REASON_";

std::vector<std::string> MethodNames() {
  std::vector<std::string> names = {"grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch",
                                    kOther};
  for (const auto* file : {v1::GenerateRequest::descriptor()->file(),
                           v1::Session::descriptor()->file(), v1::Model::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      const google::protobuf::ServiceDescriptor* service = file->service(s);
      for (int m = 0; m < service->method_count(); ++m) {
        names.push_back(service->full_name() + "/" + service->method(m)->name());
      }
    }
  }
  return names;
}

// The reason in the details of a status; empty if it has none.
std::string ReasonIn(const std::string& details) {
  google::rpc::Status status;
  if (!status.ParseFromString(details)) return "";
  google::rpc::ErrorInfo info;
  for (const auto& any : status.details()) {
    if (any.UnpackTo(&info)) return info.reason();
  }
  return "";
}

// Of one call.
class CountingInterceptor final : public grpc::experimental::Interceptor {
 public:
  CountingInterceptor(RpcMetrics* metrics, const RpcMetrics::Method& method)
      : metrics_(metrics), method_(method), start_(absl::Now()) {
    metrics_->Begin();
  }
  ~CountingInterceptor() override { metrics_->Leave(); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      metrics_->End(method_, status.error_code(), status.error_details(), absl::Now() - start_);
    }
    methods->Proceed();
  }

 private:
  RpcMetrics* const metrics_;
  const RpcMetrics::Method& method_;
  const absl::Time start_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(RpcMetrics* metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    std::string_view name = info->method() == nullptr ? "" : info->method();
    if (!name.empty() && name.front() == '/') name.remove_prefix(1);
    return new CountingInterceptor(metrics_, metrics_->Find(name));
  }

 private:
  RpcMetrics* const metrics_;
};

}  // namespace

RpcMetrics::RpcMetrics(prometheus::Registry& registry)
    : in_flight_(prometheus::BuildGauge()
                     .Name("reprise_rpc_in_flight")
                     .Help("Calls in progress, of all services")
                     .Register(registry)
                     .Add({})) {
  auto& calls = prometheus::BuildCounter()
                    .Name("reprise_rpc_requests_total")
                    .Help("Calls that ended, by method and status code")
                    .Register(registry);
  auto& seconds = prometheus::BuildHistogram()
                      .Name("reprise_rpc_seconds")
                      .Help("From a call's arrival to its status")
                      .Register(registry);
  for (const std::string& name : MethodNames()) {
    Method& method = methods_[name];
    method.seconds = &seconds.Add({{"method", name}}, buckets::Call());
    for (const char* code : kCodes) {
      method.by_code.push_back(&calls.Add({{"method", name}, {"code", code}}));
    }
  }
  auto& errors = prometheus::BuildCounter()
                     .Name("reprise_rpc_errors_total")
                     .Help("Calls that failed, by the reason in their ErrorInfo")
                     .Register(registry);
  const google::protobuf::EnumDescriptor* reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const std::string name = reasons->value(i)->name().substr(sizeof(kReasonPrefix) - 1);
    reasons_.emplace(name, &errors.Add({{"reason", name}}));
  }
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> RpcMetrics::Interceptor() {
  return std::make_unique<Factory>(this);
}

const RpcMetrics::Method& RpcMetrics::Find(std::string_view name) const {
  const auto known = methods_.find(name);
  return (known != methods_.end() ? known : methods_.find(kOther))->second;
}

void RpcMetrics::End(const Method& method, grpc::StatusCode code, const std::string& details,
                     absl::Duration time) {
  const auto index = static_cast<size_t>(code);
  const size_t known = index < method.by_code.size() ? index : size_t{grpc::StatusCode::UNKNOWN};
  method.by_code[known]->Increment();
  method.seconds->Observe(absl::ToDoubleSeconds(time));
  if (code == grpc::StatusCode::OK) return;
  const auto reason = reasons_.find(ReasonIn(details));
  (reason != reasons_.end() ? reason : reasons_.find("UNSPECIFIED"))->second->Increment();
}

}  // namespace reprise::service
