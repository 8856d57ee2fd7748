// Which rows the next step has: a pure function of the running sequences and the options.
#ifndef REPRISE_SCHEDULER_INTERNAL_STEP_PLANNER_H_
#define REPRISE_SCHEDULER_INTERNAL_STEP_PLANNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {

// What the planner needs to know of a running sequence.
struct PlannerInput {
  int64_t rows_left = 0;  // that it could feed
  bool decoding = false;
  bool writable = true;  // a decoding sequence that is not sits out
  bool wants_all_logits = false;
  int tenant = 0;  // index of its tenant, for fair turns
};

struct PlannedRows {
  int sequence = 0;  // index in the input
  int rows = 0;
};

// Decode rows first, one per sequence, then prefill chunks in turns between tenants; sequences of
// one tenant in the order given. `turn` rotates from step to step, so that under a budget that does
// not reach everybody each one comes first in its time. A chunk is at most prefill_chunk_tokens
// while several sequences have rows, and what the budget allows when there is only one.
std::vector<PlannedRows> PlanStep(absl::Span<const PlannerInput> running,
                                  const SchedulerOptions& options, uint64_t turn);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_STEP_PLANNER_H_
