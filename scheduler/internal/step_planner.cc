#include "scheduler/internal/step_planner.h"

#include <algorithm>
#include <map>

namespace reprise::scheduler {

std::vector<PlannedRows> PlanStep(absl::Span<const PlannerInput> running,
                                  const SchedulerOptions& options, uint64_t turn) {
  std::vector<PlannedRows> plan;
  int budget = options.step_tokens;
  int logit_budget = options.step_logit_rows;
  const int count = static_cast<int>(running.size());
  int ready = 0;
  for (const PlannerInput& sequence : running) ready += sequence.rows_left > 0;

  for (int i = 0; i < count && budget > 0 && logit_budget > 0; ++i) {
    const int index = static_cast<int>((i + turn) % count);
    const PlannerInput& sequence = running[index];
    if (!sequence.decoding || !sequence.writable || sequence.rows_left <= 0) continue;
    plan.push_back({index, 1});
    --budget;
    --logit_budget;
  }

  std::map<int, std::vector<int>> prefilling;  // tenant -> sequences, in order
  for (int i = 0; i < count; ++i) {
    if (!running[i].decoding && running[i].rows_left > 0) {
      prefilling[running[i].tenant].push_back(i);
    }
  }
  std::vector<std::vector<int>> tenants;
  for (auto& [tenant, sequences] : prefilling) tenants.push_back(std::move(sequences));
  if (!tenants.empty()) {
    std::rotate(tenants.begin(), tenants.begin() + turn % tenants.size(), tenants.end());
  }
  const int chunk_limit = ready > 1 ? options.prefill_chunk_tokens : options.step_tokens;
  for (size_t round = 0; budget > 0 && logit_budget > 0; ++round) {
    bool any = false;
    for (const std::vector<int>& sequences : tenants) {
      if (round >= sequences.size() || budget <= 0 || logit_budget <= 0) continue;
      any = true;
      const PlannerInput& sequence = running[sequences[round]];
      int rows =
          static_cast<int>(std::min<int64_t>(sequence.rows_left, std::min(chunk_limit, budget)));
      if (sequence.wants_all_logits) rows = std::min(rows, logit_budget);
      plan.push_back({sequences[round], rows});
      budget -= rows;
      logit_budget -= sequence.wants_all_logits ? rows : 1;
    }
    if (!any) break;
  }
  return plan;
}

}  // namespace reprise::scheduler
