#include "scheduler/internal/step_planner.h"

#include <algorithm>
#include <tuple>

namespace reprise::scheduler {
namespace {

bool CanRun(const PlannerInput& sequence) {
  return sequence.rows_left > 0 && (!sequence.decoding || sequence.writable);
}

}  // namespace

absl::Span<const PlannedRows> StepPlanner::Plan(absl::Span<const PlannerInput> running,
                                                absl::Span<PlannerTenant> tenants) {
  running_ = running;
  tenants_ = tenants;
  budget_ = options_.step_tokens;
  logit_budget_ = options_.step_logit_rows;
  granted_.assign(running.size(), 0);
  plan_.clear();
  PlanOverdue();
  PlanDecode();
  PlanPrefill();
  for (int i = 0; i < static_cast<int>(running.size()); ++i) {
    if (granted_[i] > 0) plan_.push_back({i, granted_[i]});
  }
  return plan_;
}

int StepPlanner::LogitRows(int index, int64_t rows) const {
  const PlannerInput& sequence = running_[index];
  if (sequence.wants_all_logits) return static_cast<int>(rows);
  return rows == sequence.rows_left ? 1 : 0;
}

int StepPlanner::Affordable(int index, int64_t most) const {
  const PlannerInput& sequence = running_[index];
  const int64_t granted = granted_[index];
  int64_t rows = std::min({sequence.rows_left - granted, most, int64_t{budget_}});
  if (sequence.wants_all_logits) return static_cast<int>(std::min<int64_t>(rows, logit_budget_));
  // Without a row of logits to spare it may go on, but not to its end.
  if (granted + rows == sequence.rows_left && logit_budget_ == 0) --rows;
  return static_cast<int>(rows);
}

void StepPlanner::Grant(int index, int rows) {
  const PlannerInput& sequence = running_[index];
  logit_budget_ -= LogitRows(index, granted_[index] + rows) - LogitRows(index, granted_[index]);
  granted_[index] += rows;
  budget_ -= rows;
  PlannerTenant& tenant = tenants_[sequence.tenant];
  tenant.service += rows / (tenant.weight * PriorityWeight(sequence.priority));
}

void StepPlanner::PlanOverdue() {
  int first = -1;
  for (int i = 0; i < static_cast<int>(running_.size()); ++i) {
    if (!CanRun(running_[i]) || running_[i].unserved_steps < kMaxUnservedSteps) continue;
    if (first < 0 || running_[i].unserved_steps > running_[first].unserved_steps) first = i;
  }
  if (first < 0) return;
  const int half = std::max(1, budget_ / 2);
  const int most = running_[first].decoding ? 1 : std::min(options_.prefill_chunk_tokens, half);
  Grant(first, Affordable(first, most));
}

void StepPlanner::PlanDecode() {
  order_.clear();
  for (int i = 0; i < static_cast<int>(running_.size()); ++i) {
    if (running_[i].decoding && CanRun(running_[i]) && granted_[i] == 0) order_.push_back(i);
  }
  const int room = std::min(budget_, logit_budget_);
  if (static_cast<int>(order_.size()) > room) {
    std::stable_sort(order_.begin(), order_.end(), [this](int a, int b) {
      return running_[a].unserved_steps > running_[b].unserved_steps;
    });
    order_.resize(room);
  }
  for (int index : order_) Grant(index, 1);
}

void StepPlanner::PlanPrefill() {
  order_.clear();
  for (int i = 0; i < static_cast<int>(running_.size()); ++i) {
    if (!running_[i].decoding && running_[i].rows_left > granted_[i]) order_.push_back(i);
  }
  std::sort(order_.begin(), order_.end(), [this](int a, int b) {
    const auto key = [this](int i) {
      return std::make_tuple(running_[i].tenant, -static_cast<int>(running_[i].priority),
                             granted_[i], -running_[i].unserved_steps, i);
    };
    return key(a) < key(b);
  });
  lines_.clear();
  for (int i = 0; i < static_cast<int>(order_.size()); ++i) {
    if (lines_.empty() || lines_.back().tenant != running_[order_[i]].tenant) {
      if (!lines_.empty()) lines_.back().end = i;
      lines_.push_back({running_[order_[i]].tenant, i});
    }
  }
  if (!lines_.empty()) lines_.back().end = static_cast<int>(order_.size());
  for (Line& line : lines_) {
    line.block_end = line.begin;
    NextBlock(line);
  }
  const auto served_more = [this](const Line& a, const Line& b) {
    return tenants_[a.tenant].service > tenants_[b.tenant].service;
  };
  std::make_heap(lines_.begin(), lines_.end(), served_more);
  while (budget_ > 0 && !lines_.empty()) {
    std::pop_heap(lines_.begin(), lines_.end(), served_more);
    Line& line = lines_.back();
    const int index = order_[line.next++];
    const int rows = Affordable(index, options_.prefill_chunk_tokens);
    if (rows > 0) {
      Grant(index, rows);
      if (granted_[index] < running_[index].rows_left) order_[line.kept++] = index;
    }
    if (line.next == line.block_end) {
      if (line.kept > line.begin) {
        // Another turn for those of this priority that have rows left.
        std::copy_backward(order_.begin() + line.begin, order_.begin() + line.kept,
                           order_.begin() + line.block_end);
        line.begin = line.next = line.block_end - (line.kept - line.begin);
        line.kept = line.begin;
      } else {
        NextBlock(line);
      }
    }
    if (line.next == line.end) {
      lines_.pop_back();
    } else {
      std::push_heap(lines_.begin(), lines_.end(), served_more);
    }
  }
}

void StepPlanner::NextBlock(Line& line) {
  line.begin = line.next = line.kept = line.block_end;
  while (line.block_end < line.end &&
         running_[order_[line.block_end]].priority == running_[order_[line.next]].priority) {
    ++line.block_end;
  }
}

}  // namespace reprise::scheduler
