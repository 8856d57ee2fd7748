// What a scheduler tells about itself while it runs. The service exports it.
#ifndef REPRISE_SCHEDULER_SCHEDULER_METRICS_H_
#define REPRISE_SCHEDULER_SCHEDULER_METRICS_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_error.h"
#include "scheduler/timeline.h"

namespace reprise::scheduler {

// Called on the stepping thread: must not block, and must not call the scheduler.
class SchedulerMetrics {
 public:
  struct Step {
    absl::Duration total, model;  // the difference is the scheduler's own time
    int decode_rows = 0, prefill_rows = 0;
    // Gauges after the step.
    int running = 0, waiting = 0, parked = 0, paused = 0, free_slots = 0;
    int64_t parked_bytes = 0;
    // Since the last call.
    int parks = 0, restores = 0, checkpoints = 0;
    std::array<int, kNumSchedulerErrors> refused = {};  // by SchedulerError
  };
  struct Finish {
    const std::string* tenant = nullptr;
    absl::StatusCode code = absl::StatusCode::kOk;
    FinishReason reason = FinishReason::kMaxTokens;  // with kOk
    bool started = false;                            // it had a slot
    int64_t computed_tokens = 0, generated_tokens = 0;
    const Timeline* timeline = nullptr;
  };

  // Where a state went.
  enum class Move { kOutOfSlot, kIntoSlot };

  virtual ~SchedulerMetrics() = default;
  // After every step that ran rows.
  virtual void OnStep(const Step& /*step*/) {}
  // From Submit to a request's first token.
  virtual void OnFirstToken(absl::Duration /*since_submit*/) {}
  // Between two tokens of one request.
  virtual void OnTokenGap(absl::Duration /*gap*/) {}
  // A state of `bytes` was copied between a slot and host memory, or for a fork from slot to slot.
  // `time` is what the stepping thread spent on it: of a copy beside the steps, its two ends.
  virtual void OnMove(Move /*move*/, int64_t /*bytes*/, absl::Duration /*time*/) {}
  // A request's end, before its observer hears of it. The pointers are valid during the call.
  virtual void OnFinish(const Finish& /*finish*/) {}
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SCHEDULER_METRICS_H_
