#include "service/flags/setters.h"
#include "service/flags/tables.h"

namespace reprise::service {

std::vector<FlagSpec> TelemetryFlags() {
  using O = ServerOptions;
  return {
      {"metrics-listen", "", "HOST:PORT, port 0 to 65535",
       "address of /metrics, /healthz and /readyz, over plain HTTP; not given: none", false,
       Address(&O::telemetry, &TelemetrySettings::listen)},
      {"metrics-port-file", "", "a path", "file that gets the port of --metrics-listen", false,
       Text(&O::telemetry, &TelemetrySettings::port_file)},
      {"metrics-tenants", "0", "an integer from 0 to 10000",
       "tenants that have metrics of their own, the first ones seen; the rest are \"other\"; 0 = "
       "no metrics by tenant",
       false, Integer(&O::telemetry, &TelemetrySettings::max_tenants, 0, 10000)},
      {"log-spans", "sampled", "off, sampled or all",
       "Generate calls that are logged as spans, a line of JSON each: none, those whose "
       "traceparent is sampled, all",
       false, OneOf(&O::telemetry, &TelemetrySettings::spans, {"off", "sampled", "all"})},
  };
}

absl::Status CheckTelemetry(const TelemetrySettings& telemetry) {
  if (!telemetry.port_file.empty() && telemetry.listen.empty()) {
    return absl::InvalidArgumentError("--metrics-port-file goes with --metrics-listen only");
  }
  return absl::OkStatus();
}

}  // namespace reprise::service
