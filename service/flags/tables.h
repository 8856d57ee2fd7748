// The tables of flags, one per component, and what is checked when all are set.
#ifndef REPRISE_SERVICE_FLAGS_TABLES_H_
#define REPRISE_SERVICE_FLAGS_TABLES_H_

#include <vector>

#include "absl/status/status.h"
#include "service/server_flags.h"

namespace reprise::service {

std::vector<FlagSpec> WireFlags();
std::vector<FlagSpec> StoreFlags();
std::vector<FlagSpec> ComputeFlags();  // the models too
std::vector<FlagSpec> SchedulingFlags();
std::vector<FlagSpec> LimitFlags();
std::vector<FlagSpec> TelemetryFlags();
std::vector<FlagSpec> SecurityFlags();

// INVALID_ARGUMENT names the flag and why it does not go with the others.
absl::Status CheckStore(const StoreSettings& store);
absl::Status CheckCompute(const ComputeSettings& compute);
absl::Status CheckLimits(const RequestLimits& limits);
absl::Status CheckTelemetry(const TelemetrySettings& telemetry);
// Also settles what follows from other flags.
absl::Status CheckSecurity(ServerOptions* options);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_FLAGS_TABLES_H_
