// Whether a device can still be used. An error in a CUDA device's work stays: what is in its memory
// cannot be read any more, and every later call fails, whoever makes it, until the process ends.
#ifndef REPRISE_KERNELS_DEVICE_HEALTH_H_
#define REPRISE_KERNELS_DEVICE_HEALTH_H_

#include <atomic>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace reprise::kernels {

// Shared by all that use one device. Thread-safe.
class DeviceHealth {
 public:
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // OK until then: what failed first.
  absl::Status failure() const;
  // For good. `why` is not OK; of several calls the first counts.
  void Fail(const absl::Status& why);
  // Before a use of the device: failure(). `step` is one of kDeviceFaultPoints, at which tests let
  // the device fail (base/fault_point.h).
  absl::Status Check(const char* step);

  // `listener` hears of the failure once, on the thread that found it, or at once if that has been;
  // null ends that, and no call is in progress when SetListener returns. It must not block, and not
  // call Fail or SetListener.
  using Listener = std::function<void(const absl::Status& why)>;
  void SetListener(Listener listener);

 private:
  std::atomic<bool> failed_{false};
  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex listener_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  Listener listener_ ABSL_GUARDED_BY(listener_mutex_);
};

// Check of a device that somebody watches; OK where nobody does.
inline absl::Status CheckDevice(DeviceHealth* health, const char* step) {
  return health == nullptr ? absl::OkStatus() : health->Check(step);
}

// What a scheduler does with a device.
inline constexpr const char* kDeviceFaultPoints[] = {
    "device.step.begin",     // nothing is queued yet
    "device.step.end",       // states have moved, nobody has the tokens
    "device.export.begin",   // parking, checkpoint, kept prefix, the end of a turn
    "device.export.finish",  // on its way to the host
    "device.import",         // a turn that goes on, what was parked, a prefix that was kept
    "device.copy",           // of a fork's state
    "device.zero",           // of a slot that is handed out
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_DEVICE_HEALTH_H_
