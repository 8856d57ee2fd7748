#include "scheduler/state_future.h"

#include <utility>

namespace reprise::scheduler {

void StateFuture::Set(absl::StatusOr<SequenceState> state) {
  std::function<void()> hook;
  {
    absl::MutexLock lock(&mutex_);
    if (set_) return;
    set_ = true;
    state_ = std::move(state);
    hook = std::exchange(hook_, nullptr);
  }
  if (hook) hook();
}

bool StateFuture::ready() const {
  absl::MutexLock lock(&mutex_);
  return set_;
}

void StateFuture::NotifyWhenReady(std::function<void()> hook) {
  {
    absl::MutexLock lock(&mutex_);
    if (!set_) {
      hook_ = std::move(hook);
      return;
    }
  }
  hook();
}

absl::StatusOr<SequenceState> StateFuture::Take() {
  absl::MutexLock lock(&mutex_);
  if (!state_.has_value()) {
    return absl::FailedPreconditionError(set_ ? "the loaded state was taken before"
                                              : "the state is not loaded yet");
  }
  absl::StatusOr<SequenceState> state = *std::move(state_);
  state_.reset();
  return state;
}

}  // namespace reprise::scheduler
