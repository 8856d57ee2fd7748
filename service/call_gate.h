// Counts the calls in progress and, when the server drains, lets no new one in.
#ifndef REPRISE_SERVICE_CALL_GATE_H_
#define REPRISE_SERVICE_CALL_GATE_H_

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace reprise::service {

// Thread-safe. Must outlive its passes.
class CallGate {
 public:
  // Held by a call while it is in progress. Move-only.
  class Pass {
   public:
    Pass() = default;
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }
    ~Pass() {
      if (gate_ != nullptr) gate_->Leave();
    }

   private:
    friend class CallGate;
    explicit Pass(CallGate* gate) : gate_(gate) {}
    CallGate* gate_ = nullptr;
  };

  // DRAINING once closed.
  absl::StatusOr<Pass> Enter();
  void Close();
  // Blocks until no call is in progress or `deadline` is reached; true if none is.
  bool WaitEmpty(absl::Time deadline);
  int calls() const;

 private:
  void Leave();

  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_CALL_GATE_H_
