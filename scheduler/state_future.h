// A state that somebody is still loading.
#ifndef REPRISE_SCHEDULER_STATE_FUTURE_H_
#define REPRISE_SCHEDULER_STATE_FUTURE_H_

#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/sequence_state.h"

namespace reprise::scheduler {

// One thread loads and calls Set, whatever comes of it: the request waits for that. The scheduler
// takes the state when it is there. Shared by both, so that either may go first. For one request
// only. Thread-safe.
class StateFuture {
 public:
  // The first call counts. A failed status ends the request with it.
  void Set(absl::StatusOr<SequenceState> state);
  bool ready() const;

  // The scheduler's side. `hook` is called once, on the thread of Set, or at once when Set has
  // already been called; no lock is held.
  void NotifyWhenReady(std::function<void()> hook);
  // FAILED_PRECONDITION unless ready, and when it was taken before.
  absl::StatusOr<SequenceState> Take();

 private:
  mutable absl::Mutex mutex_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::StatusOr<SequenceState>> state_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> hook_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_STATE_FUTURE_H_
