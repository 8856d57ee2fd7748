// What a device and a model cost, in seconds.
#ifndef REPRISE_TOOLS_SIMULATE_DEVICE_MODEL_H_
#define REPRISE_TOOLS_SIMULATE_DEVICE_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::simulate {

// Bytes, flops, tokens and seconds. A step of `rows` rows in `sequences` sequences, `logit_rows` of
// them with logits, takes
//
//   read     = (weight_bytes + sequences * sequence_bytes + context * context_bytes) /
//              bytes_per_second
//   compute  = (rows * row_flops + logit_rows * logit_row_flops + row_context * context_flops) /
//              flops_per_second
//   longer of both + (1 - overlap) * shorter of both
//     + step_overhead + sequences * sequence_overhead + rows * row_overhead
//
// where context is the sum over the sequences, and row_context over the rows, of the tokens that
// attention looks at: the position, at most context_tokens.
struct DeviceModel {
  std::string name;
  double weight_bytes = 0, sequence_bytes = 0, context_bytes = 0, context_tokens = 0;
  double bytes_per_second = 1;
  double row_flops = 0, logit_row_flops = 0, context_flops = 0;
  double flops_per_second = 1;
  double overlap = 1;
  double step_overhead = 0, sequence_overhead = 0, row_overhead = 0;
  // One sequence's state, and what moving it to or from a slot takes: the step waits.
  double state_bytes = 0;
  double import_bytes_per_second = 1, export_bytes_per_second = 1, copy_overhead = 0;
  // Host memory of one replica for states of sessions between turns.
  double host_tier_bytes = 0;
  // A state's way from and to the store: latency + state_bytes / bytes per second; nothing waits
  // for it but the request that wants the state.
  double store_latency = 0, store_bytes_per_second = 1;
};

struct StepShape {
  double rows = 0, sequences = 0, logit_rows = 0;
  double context = 0, row_context = 0;

  // Adds `rows` rows of a sequence at `position`.
  void Add(const DeviceModel& device, int64_t position, int64_t rows, bool with_logits);
};

double StepSeconds(const DeviceModel& device, const StepShape& shape);
double ImportSeconds(const DeviceModel& device);
double ExportSeconds(const DeviceModel& device);
double StoreSeconds(const DeviceModel& device);
// What a request takes alone on the device: to its first token (without a restore), and from there
// to its last.
double AlonePrefillSeconds(const DeviceModel& device, int64_t position, int64_t rows,
                           int step_tokens);
double AloneDecodeSeconds(const DeviceModel& device, int64_t position, int64_t tokens);

// All fields of a DeviceModel as one JSON object; missing numbers have the defaults above. INVALID_
// ARGUMENT "name:line:column" or the field, for anything else than finite numbers >= 0 (the
// divisors > 0).
absl::StatusOr<DeviceModel> ParseDeviceModel(const std::string& json, const std::string& name);
std::string DeviceModelJson(const DeviceModel& device);

// Presets by name; NOT_FOUND names those that there are.
std::vector<std::string> DevicePresets();
absl::StatusOr<DeviceModel> DevicePreset(const std::string& name);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_DEVICE_MODEL_H_
