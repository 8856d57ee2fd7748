// The one way of states into slots and out of them.
#ifndef REPRISE_SCHEDULER_INTERNAL_STATE_MOVER_H_
#define REPRISE_SCHEDULER_INTERNAL_STATE_MOVER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/state_slots.h"
#include "scheduler/internal/sequence.h"

namespace reprise::scheduler {

// Checkpoints, parking, preemption, drain and the end of a request all take a state out by the same
// export, and all put one in by the same import. Counts the bytes of parked states. Not
// thread-safe.
class StateMover {
 public:
  // `slots` is borrowed.
  StateMover(models::StateSlots* slots, int64_t max_parked_bytes)
      : slots_(*slots), max_parked_bytes_(max_parked_bytes) {}

  int free_slots() const { return slots_.free_slots(); }
  int64_t parked_bytes() const { return parked_bytes_; }

  // A slot with the sequence's state in it. There must be a free one. On failure it has none, and
  // its image is as it was.
  absl::Status Enter(Sequence& sequence);
  // The same, with the state of `leader`, which has a slot and is at the same position.
  absl::Status EnterCopy(Sequence& sequence, const Sequence& leader);
  // Whether `leaving` may be parked so that `entering` gets its slot.
  bool MayPark(const Sequence& leaving, const Sequence& entering) const;
  // The state leaves the slot for host memory. On failure the sequence keeps its slot.
  absl::Status Park(Sequence& sequence);
  // A copy of the state at position(), exact, of a sequence with a slot.
  absl::StatusOr<SequenceState> Copy(const Sequence& sequence) const;
  // The state itself, of a sequence that ends; wherever it lies.
  absl::StatusOr<SequenceState> Take(Sequence& sequence);
  // Gives back slot and image.
  void Release(Sequence& sequence);

 private:
  static int64_t ImageBytes(const Sequence& sequence) {
    return static_cast<int64_t>(sequence.image.size());
  }
  void DropImage(Sequence& sequence);

  models::StateSlots& slots_;
  const int64_t max_parked_bytes_;
  int64_t parked_bytes_ = 0;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_STATE_MOVER_H_
