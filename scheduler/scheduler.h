// scheduler: the loop that runs many sequences through one model.
//
// Iteration-level continuous batching: each Step() plans one ragged batch under a token budget
// (decode tokens first, then prefill chunks, in fair turns between tenants), runs one Forward over
// it, samples, tells the observers, and lets finished sequences go. Sequences are independent: what
// one computes is bit for bit what it would compute alone.
//
// The life of a request:
//   1. Submit validates it and queues it with its tenant (RESOURCE_EXHAUSTED when the queue is
//   full).
//   2. A later step gives it a slot and imports its state, if it has one. A state that is still
//   being
//      loaded (StateFuture) holds up its own request only.
//   3. Prefill: its prompt goes through the model in chunks, beside other sequences' rows.
//   4. The last prompt row's logits give the first token; from then on one token per step.
//   5. A stop condition, Cancel or its deadline ends it: the state is exported if asked for, the
//   slot
//      is given back, OnFinish is called.
//
// Scheduler itself has no thread and reads no clock but the one it is given, so that its policy is
// tested step by step; SchedulerThread (scheduler_thread.h) drives it in a server.
#ifndef REPRISE_SCHEDULER_SCHEDULER_H_
#define REPRISE_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "models/hybrid_model.h"
#include "scheduler/request.h"

namespace reprise::scheduler {

struct SchedulerOptions {
  // Live sequences: slots on the device. >= 1.
  int num_slots = 32;
  // Rows of one step over all sequences. 1..model.max_rows().
  int step_tokens = 256;
  // Prompt rows of one sequence in one step while others wait. 1..step_tokens.
  int prefill_chunk_tokens = 128;
  // Rows of one step whose logits are kept, vocabulary * 4 bytes each. 1..model.max_rows().
  int step_logit_rows = 256;
  // Requests that wait for a slot, over all tenants and of one tenant. >= 1.
  int max_queued = 1024;
  int max_queued_per_tenant = 256;
};

// Counters since start and gauges of now.
struct SchedulerStats {
  int running = 0, waiting = 0, paused = 0, free_slots = 0;
  int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0;
  int64_t finished = 0, cancelled = 0, expired = 0, failed = 0, rejected = 0;
  absl::Duration busy;  // time inside Step
};

using RequestId = uint64_t;

// Submit, SetWake, Cancel, Drain, Idle and stats are thread-safe; Step belongs to one thread.
class Scheduler {
 public:
  // `model` and `clock` are borrowed and must outlive the scheduler.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(models::HybridModel* model,
                                                           const kernels::Context& context,
                                                           const Clock* clock,
                                                           const SchedulerOptions& options);
  // Ends what still runs with CANCELLED.
  ~Scheduler();

  // The request is consumed only if the result is OK; then its observer hears OnFinish exactly
  // once. INVALID_ARGUMENT names the field; RESOURCE_EXHAUSTED: queue full; UNAVAILABLE: draining.
  absl::StatusOr<RequestId> Submit(Request&& request);

  // `wake` is called, on any thread, when a queued request's state has arrived (Request::
  // state_source), so that whoever drives Step goes on; null ends that. It must not call the
  // scheduler, and no call is in progress when SetWake returns.
  void SetWake(std::function<void()> wake);

  // Ends the request at the next step. Unknown or finished ids are ignored.
  void Cancel(RequestId id);
  // No more Submits. Requests that run past `deadline` end as kDrained (with their state), those
  // that still wait then end with UNAVAILABLE.
  void Drain(absl::Time deadline);

  // One step. False when there was nothing to do (all idle, paused or waiting for a
  // state).
  bool Step();

  // True when no request is queued or running.
  bool Idle() const;
  SchedulerStats stats() const;
  const SchedulerOptions& options() const;
  // INTERNAL unless every slot is either free or held by exactly one running sequence. Call between
  // steps, from the stepping thread.
  absl::Status CheckIntegrity() const;

 private:
  class Impl;
  explicit Scheduler(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SCHEDULER_H_
