#include "kernels/device_health.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"

namespace reprise::kernels {

absl::Status DeviceHealth::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

void DeviceHealth::Fail(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return;
    failure_ = why;
  }
  failed_.store(true, std::memory_order_release);
  absl::MutexLock lock(&listener_mutex_);
  if (listener_) std::exchange(listener_, nullptr)(why);
}

absl::Status DeviceHealth::Check(const char* step) {
  if (REPRISE_FAULT(step)) {
    Fail(absl::InternalError(absl::StrCat(step, ": a failure that a test asked for")));
  }
  return failed() ? failure() : absl::OkStatus();
}

void DeviceHealth::SetListener(Listener listener) {
  absl::MutexLock lock(&listener_mutex_);
  listener_ = std::move(listener);
  if (listener_ && failed()) std::exchange(listener_, nullptr)(failure());
}

}  // namespace reprise::kernels
