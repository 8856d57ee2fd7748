// Which rows the next step has: a pure function of the running sequences and the options.
#ifndef REPRISE_SCHEDULER_INTERNAL_STEP_PLANNER_H_
#define REPRISE_SCHEDULER_INTERNAL_STEP_PLANNER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_options.h"

namespace reprise::scheduler {

// What the planner needs to know of a running sequence.
struct PlannerInput {
  int64_t rows_left = 0;  // that it could feed
  bool decoding = false;
  bool writable = true;  // a decoding sequence that is not sits out
  bool wants_all_logits = false;
  Priority priority = Priority::kNormal;
  int tenant = 0;              // index of its tenant
  int64_t unserved_steps = 0;  // since it had rows
};

struct PlannerTenant {
  double weight = 1.0;
  double service = 0.0;  // moved on by what is planned: rows / (weight * weight of the priority)
};

struct PlannedRows {
  int sequence = 0;  // index in the input
  int rows = 0;
};

// A sequence that has had no row for this many steps is overdue.
inline constexpr int64_t kMaxUnservedSteps = 8;

// How much less a prompt row of that priority counts in its tenant's service.
inline constexpr double PriorityWeight(Priority priority) {
  return priority == Priority::kHigh ? 16.0 : priority == Priority::kNormal ? 4.0 : 1.0;
}

// 1. The sequence that has waited longest for a row, if it is overdue: one decode row, or a chunk
//    of at most half the budget.
// 2. Decode rows, one per sequence, those that waited longest first.
// 3. Prompt chunks of prefill_chunk_tokens: the tenant with the least service takes the next one,
//    for its sequences of the highest priority in turns, until the budget or the rows are used up.
// So a sequence that could run gets a row within kMaxUnservedSteps plus the number of running
// sequences, whatever else is there. Keeps its buffers; not thread-safe.
class StepPlanner {
 public:
  explicit StepPlanner(const SchedulerOptions& options) : options_(options) {}

  // At most step_tokens rows, at most step_logit_rows of them with logits; every sequence at most
  // once. Valid until the next call.
  absl::Span<const PlannedRows> Plan(absl::Span<const PlannerInput> running,
                                     absl::Span<PlannerTenant> tenants);

 private:
  // A tenant's sequences with prompt rows left: order_[next..end) are those of its best priority
  // that have their turn still to come.
  struct Line {
    int tenant = 0;
    int begin = 0, end = 0;  // in order_
    int block_end = 0;       // of the sequences of the current priority
    int next = 0;
    int kept = 0;  // order_[begin..kept) have had their turn and have rows left
  };

  // Rows of at most `most` that the budgets allow the sequence to have on top of what it has.
  int Affordable(int index, int64_t most) const;
  int LogitRows(int index, int64_t rows) const;
  void Grant(int index, int rows);
  void PlanOverdue();
  void PlanDecode();
  void PlanPrefill();
  void NextBlock(Line& line);

  const SchedulerOptions options_;
  absl::Span<const PlannerInput> running_;
  absl::Span<PlannerTenant> tenants_;
  int budget_ = 0, logit_budget_ = 0;
  std::vector<int> granted_;  // rows by sequence
  std::vector<int> order_;
  std::vector<Line> lines_;
  std::vector<PlannedRows> plan_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_STEP_PLANNER_H_
