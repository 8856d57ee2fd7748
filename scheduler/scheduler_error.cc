#include "scheduler/scheduler_error.h"

#include <cstdint>
#include <iterator>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace reprise::scheduler {
namespace {

constexpr char kErrorUrl[] = "reprise.dev/SchedulerError";
constexpr char kDelayUrl[] = "reprise.dev/RetryDelay";  // decimal nanoseconds

struct Row {
  SchedulerError error;
  const char* name;
  absl::StatusCode code;
};

constexpr Row kRows[] = {
    {SchedulerError::kNone, "NONE", absl::StatusCode::kInternal},
    {SchedulerError::kQueueFull, "QUEUE_FULL", absl::StatusCode::kResourceExhausted},
    {SchedulerError::kTenantQueueFull, "TENANT_QUEUE_FULL", absl::StatusCode::kResourceExhausted},
    {SchedulerError::kBytesExhausted, "BYTES_EXHAUSTED", absl::StatusCode::kResourceExhausted},
    {SchedulerError::kTooLarge, "TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {SchedulerError::kDeadlineUnreachable, "DEADLINE_UNREACHABLE",
     absl::StatusCode::kDeadlineExceeded},
    {SchedulerError::kDraining, "DRAINING", absl::StatusCode::kUnavailable},
    {SchedulerError::kDeviceFailed, "DEVICE_FAILED", absl::StatusCode::kUnavailable},
};

constexpr bool RowsMatchEnum() {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<size_t>(kRows[i].error) != i) return false;
  }
  return std::size(kRows) == kNumSchedulerErrors;
}
static_assert(RowsMatchEnum());

}  // namespace

const char* SchedulerErrorName(SchedulerError error) {
  return kRows[static_cast<size_t>(error)].name;
}

absl::Status MakeSchedulerError(SchedulerError error, absl::string_view message,
                                absl::Duration retry_delay) {
  absl::Status status(kRows[static_cast<size_t>(error)].code, message);
  status.SetPayload(kErrorUrl, absl::Cord(SchedulerErrorName(error)));
  if (retry_delay > absl::ZeroDuration()) {
    status.SetPayload(kDelayUrl, absl::Cord(absl::StrCat(absl::ToInt64Nanoseconds(retry_delay))));
  }
  return status;
}

SchedulerError GetSchedulerError(const absl::Status& status) {
  if (const auto payload = status.GetPayload(kErrorUrl); payload.has_value()) {
    for (const Row& row : kRows) {
      if (*payload == row.name) return row.error;
    }
  }
  return SchedulerError::kNone;
}

std::optional<absl::Duration> GetRetryDelay(const absl::Status& status) {
  const auto payload = status.GetPayload(kDelayUrl);
  int64_t nanoseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &nanoseconds)) {
    return std::nullopt;
  }
  return absl::Nanoseconds(nanoseconds);
}

}  // namespace reprise::scheduler
