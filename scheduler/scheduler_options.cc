#include "scheduler/scheduler_options.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::scheduler {
namespace {

absl::Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected ", low, "..", high, ", found ", value));
}

absl::Status CheckNotNegative(const char* name, absl::Duration value) {
  if (value >= absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected 0 or more, found ", absl::FormatDuration(value)));
}

}  // namespace

absl::Status ValidateOptions(const SchedulerOptions& options, int model_max_rows) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  RETURN_IF_ERROR(CheckRange("num_slots", options.num_slots, 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("step_tokens", options.step_tokens, 1, model_max_rows));
  RETURN_IF_ERROR(
      CheckRange("prefill_chunk_tokens", options.prefill_chunk_tokens, 1, options.step_tokens));
  RETURN_IF_ERROR(CheckRange("step_logit_rows", options.step_logit_rows, 1, model_max_rows));
  RETURN_IF_ERROR(CheckRange("max_queued", options.max_queued, 1, 1 << 24));
  RETURN_IF_ERROR(CheckRange("max_queued_per_tenant", options.max_queued_per_tenant, 1, 1 << 24));
  RETURN_IF_ERROR(CheckRange("max_request_bytes", options.max_request_bytes, 1, kMost));
  RETURN_IF_ERROR(CheckRange("max_parked_bytes", options.max_parked_bytes, 0, kMost));
  RETURN_IF_ERROR(CheckNotNegative("max_wait", options.max_wait));
  RETURN_IF_ERROR(CheckNotNegative("time_slice", options.time_slice));
  return CheckNotNegative("park_paused_after", options.park_paused_after);
}

}  // namespace reprise::scheduler
