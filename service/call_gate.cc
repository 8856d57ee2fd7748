#include "service/call_gate.h"

#include "service/errors.h"

namespace reprise::service {

absl::StatusOr<CallGate::Pass> CallGate::Enter() {
  absl::MutexLock lock(&mutex_);
  if (closed_) return MakeError(v1::ERROR_REASON_DRAINING, "the server is shutting down");
  ++calls_;
  return Pass(this);
}

void CallGate::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

bool CallGate::WaitEmpty(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return calls_ == 0; };
  return mutex_.AwaitWithDeadline(absl::Condition(&empty), deadline);
}

int CallGate::calls() const {
  absl::MutexLock lock(&mutex_);
  return calls_;
}

void CallGate::Leave() {
  absl::MutexLock lock(&mutex_);
  --calls_;
}

}  // namespace reprise::service
