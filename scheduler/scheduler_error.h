// Why the scheduler refused a request, finer than a status code.
#ifndef REPRISE_SCHEDULER_SCHEDULER_ERROR_H_
#define REPRISE_SCHEDULER_SCHEDULER_ERROR_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace reprise::scheduler {

// The status code that each travels with stands beside it.
enum class SchedulerError {
  kNone,                 // no scheduler error is attached
  kQueueFull,            // RESOURCE_EXHAUSTED, with a retry delay
  kTenantQueueFull,      // RESOURCE_EXHAUSTED, with a retry delay: this tenant's share of the queue
  kBytesExhausted,       // RESOURCE_EXHAUSTED, with a retry delay: predicted host memory
  kTooLarge,             // INVALID_ARGUMENT: needs more memory than there is for all requests
  kDeadlineUnreachable,  // DEADLINE_EXCEEDED: its first token cannot be there in time
  kDraining,             // UNAVAILABLE: another replica should take it
  kDeviceFailed,         // UNAVAILABLE: likewise; this process cannot compute any more
};
inline constexpr int kNumSchedulerErrors = 8;

// "QUEUE_FULL" and so on.
const char* SchedulerErrorName(SchedulerError error);

// A status with the code that belongs to `error`, and both as payloads. A delay of zero is none.
absl::Status MakeSchedulerError(SchedulerError error, absl::string_view message,
                                absl::Duration retry_delay = absl::ZeroDuration());

// kNone when `status` carries none.
SchedulerError GetSchedulerError(const absl::Status& status);
// When the same request may be worth another try, as far as the scheduler can predict.
std::optional<absl::Duration> GetRetryDelay(const absl::Status& status);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SCHEDULER_ERROR_H_
