// The one way of states into slots and out of them.
#ifndef REPRISE_SCHEDULER_INTERNAL_STATE_MOVER_H_
#define REPRISE_SCHEDULER_INTERNAL_STATE_MOVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "models/state_slots.h"
#include "scheduler/internal/sequence.h"
#include "scheduler/scheduler_metrics.h"

namespace reprise::scheduler {

// Checkpoints, parking, preemption, drain and the end of a request all take a state out by the same
// export, and all put one in by the same import. Counts the bytes of parked states, and tells the
// metrics of each move and what it kept this thread for. Not thread-safe.
//
// An export that nobody waits for goes on beside the steps: the state is that of the call, and its
// bytes are there later, on a device at least a step later. Whoever needs them before that waits in
// Settle. The caller settles all once in each step, while the device computes.
class StateMover {
 public:
  // All are borrowed; `metrics` may be null.
  StateMover(models::StateSlots* slots, int64_t max_parked_bytes, const Clock* clock,
             SchedulerMetrics* metrics)
      : slots_(*slots), max_parked_bytes_(max_parked_bytes), clock_(clock), metrics_(metrics) {}

  int free_slots() const { return slots_.free_slots(); }
  int64_t parked_bytes() const { return parked_bytes_; }
  // What a parked sequence counts for there; its image may still be on its way.
  int64_t image_bytes(const Sequence& sequence) const {
    return static_cast<int64_t>(sequence.leaving ? slots_.layout().bytes() : sequence.image.size());
  }

  // A slot with the sequence's state in it. There must be a free one. On failure it has none, and
  // its image is as it was, or lost if it never arrived.
  absl::Status Enter(Sequence& sequence);
  // The same, with the state of `leader`, which has a slot and is at the same position.
  absl::Status EnterCopy(Sequence& sequence, const Sequence& leader);
  // Whether `leaving` may be parked so that `entering` gets its slot.
  bool MayPark(const Sequence& leaving, const Sequence& entering) const;
  // The state leaves the slot for host memory. On failure the sequence keeps its slot.
  absl::Status Park(Sequence& sequence);
  // A copy of the state at position(), exact, of a sequence with a slot; waits for it.
  absl::StatusOr<SequenceState> Copy(const Sequence& sequence);
  // The same without waiting: `done` gets it later, in Settle or SettleAll, or when another export
  // needs the room; not if the call fails.
  using Done = std::function<void(absl::StatusOr<SequenceState>)>;
  absl::Status BeginCopy(const Sequence& sequence, Done done);
  // The state itself, of a sequence that ends; wherever it lies.
  absl::StatusOr<SequenceState> Take(Sequence& sequence);
  // Gives back slot and image.
  void Release(Sequence& sequence);

  // Ends the exports of this sequence, or all.
  void Settle(const Sequence& sequence);
  void SettleAll();

 private:
  struct Export {
    RequestId id = 0;
    models::StateTransfer transfer;
    Done done;
    SequenceState state;   // its image comes last
    absl::Duration spent;  // by this thread, so far
  };

  void DropImage(Sequence& sequence);
  void EndExport(Export ending);
  void EndOldest();
  void Note(SchedulerMetrics::Move move, absl::Duration spent) const;
  // Calls `move`, again each time after the oldest export has made room for it.
  template <typename Move>
  auto WithRoom(Move move);

  models::StateSlots& slots_;
  const int64_t max_parked_bytes_;
  const Clock* const clock_;
  SchedulerMetrics* const metrics_;
  int64_t parked_bytes_ = 0;
  std::deque<Export> exports_;  // oldest first
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_STATE_MOVER_H_
