// scheduler: the loop that runs many sequences through one model.
//
// Iteration-level continuous batching: each Step() plans one ragged batch under a token budget,
// runs one Forward over it, samples, tells the observers, and lets finished sequences go. Sequences
// are independent: what one computes is bit for bit what it would compute alone.
//
// The life of a request:
//   1. Submit validates it and queues it, or refuses it with a typed error and a time to come back
//      (scheduler_error.h).
//   2. A later step gives it a slot and imports its state, if it has one. A state that is still
//      being loaded (state_future.h) holds up its own request only.
//   3. Prefill: its prompt goes through the model in chunks, beside other sequences' rows.
//   4. The last prompt row's logits give the first token; from then on one token per step.
//   5. When others need its slot more, it is parked: its state waits in host memory, and comes back
//      as it was. Nothing is ever computed twice.
//   6. A stop condition, Cancel, its deadline or a drain ends it: the state is exported if asked
//      for, the slot is given back, OnFinish is called.
//
// Who gets what (docs/scheduling.md says why):
//   Slots: the highest priority first, then the tenant with the fewest slots for its weight. A
//     lower priority gives its slot up at once; after time_slice an equal one does, to a tenant
//     with fewer slots or to another sequence that has started; a client that does not read after
//     park_paused_after. Who has waited for max_wait is overdue: a quarter of the
//     slots' time goes to the overdue, the longest waiting first, a time_slice each.
//   Rows of a step: decode rows first; then prompt chunks by weighted fair queueing of tenants.
// No one starves. A sequence with a slot has a row at the latest after n = 9 + num_slots steps,
// and keeps its slot until then. With k overdue ones before it, a request whose state is there (or
// a parked sequence whose client reads) has a slot at the latest
//     max_wait + (k + 1) * (4 * time_slice / num_slots + n steps)
// after it began to wait, as long as there is room for parked states.
//
// Scheduler itself has no thread and reads no clock but the one it is given, so that its policy is
// tested step by step; SchedulerThread (scheduler_thread.h) drives it in a server.
#ifndef REPRISE_SCHEDULER_SCHEDULER_H_
#define REPRISE_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "models/hybrid_model.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_options.h"

namespace reprise::scheduler {

class Loop;
using RequestId = uint64_t;

// Submit, SetWake, Cancel, Drain, Idle and stats are thread-safe; Step belongs to one thread.
class Scheduler {
 public:
  // `model`, `clock` and what `context` points to are borrowed and must outlive the scheduler. Once
  // context.health says that the device has failed, every request ends, and every other is refused,
  // with UNAVAILABLE (SchedulerError::kDeviceFailed). No state leaves the device then.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(models::HybridModel* model,
                                                           const kernels::Context& context,
                                                           const Clock* clock,
                                                           const SchedulerOptions& options);
  // Ends what still runs with CANCELLED.
  ~Scheduler();

  // The request is consumed only if the result is OK; then its observer hears OnFinish exactly
  // once. A request with forks is accepted with all of them or
  // not at all. INVALID_ARGUMENT names the field; the other refusals carry a SchedulerError.
  absl::StatusOr<RequestId> Submit(Request&& request);

  // `wake` is called, on any thread, when a queued request's state has arrived (Request::
  // state_source), so that whoever drives Step goes on; null ends that. It must not call the
  // scheduler, and no call is in progress when SetWake returns.
  void SetWake(std::function<void()> wake);

  // Ends the request at the next step. Unknown or finished ids are ignored.
  void Cancel(RequestId id);
  // No more Submits. Requests that have not started end at the next step with UNAVAILABLE
  // (SchedulerError::kDraining); the others may run until `deadline`. Then those that decode end as
  // kDrained, those in their prompts with UNAVAILABLE, with their states (RequestResult::state).
  void Drain(absl::Time deadline);

  // One step. False when there was nothing to do (all idle, paused or waiting for a
  // state).
  bool Step();

  // True when no request is queued or running.
  bool Idle() const;
  SchedulerStats stats() const;
  const SchedulerOptions& options() const;
  // INTERNAL unless every slot is either free or held by exactly one running sequence, and all
  // counts are those of the sequences there are. Call between steps, from the stepping thread.
  absl::Status CheckIntegrity() const;

 private:
  explicit Scheduler(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SCHEDULER_H_
