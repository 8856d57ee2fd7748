#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "scheduler/internal/loop.h"

namespace reprise::scheduler {
namespace {

// Whether the sequence's next `rows` rows end with a draw.
bool Draws(const Sequence& sequence, int rows) {
  return rows == sequence.rows_left() && sequence.request.max_tokens > 0;
}

}  // namespace

absl::Span<const PlannedRows> Loop::PlanRows() {
  planner_input_.clear();
  planner_tenants_.clear();
  planned_tenants_.clear();
  for (const Sequence* sequence : running_) {
    Tenant* tenant = sequence->tenant;
    if (tenant->plan_index < 0) {
      tenant->plan_index = static_cast<int>(planned_tenants_.size());
      planned_tenants_.push_back(tenant);
      planner_tenants_.push_back({tenant->weight, tenant->service});
    }
    PlannerInput input;
    input.rows_left = sequence->rows_in_chunk();
    input.decoding = sequence->decoding();
    input.writable = sequence->paused_since == absl::InfiniteFuture();
    input.wants_all_logits = sequence->request.prompt_logprobs && !input.decoding;
    input.priority = sequence->request.priority;
    input.tenant = tenant->plan_index;
    input.unserved_steps = step_ - sequence->last_served_step;
    planner_input_.push_back(input);
  }
  const absl::Span<const PlannedRows> plan =
      planner_.Plan(planner_input_, absl::MakeSpan(planner_tenants_));
  for (size_t i = 0; i < planned_tenants_.size(); ++i) {
    planned_tenants_[i]->service = planner_tenants_[i].service;
    planned_tenants_[i]->plan_index = -1;
  }
  return plan;
}

void Loop::BuildBatch(absl::Span<const PlannedRows> plan) {
  batch_.Clear();
  row_requests_.clear();
  for (const PlannedRows& rows : plan) {
    const Sequence& sequence = *running_[rows.sequence];
    const bool draws = Draws(sequence, rows.rows);
    const bool scores = planner_input_[rows.sequence].wants_all_logits;
    for (int i = 0; i < rows.rows; ++i) {
      RowRequest request;
      if (scores) {
        request.score = sequence.predicted_prompt_token(i);
        request.sample.top_logprobs = sequence.request.top_logprobs;
      }
      const bool draws_here = draws && i + 1 == rows.rows;
      if (draws_here) request.sample = sequence.sample_request(rows.rows);
      if (draws_here || request.score >= 0) {
        batch_.logit_rows.push_back(batch_.num_rows());
        row_requests_.push_back(request);
      }
      batch_.tokens.push_back(sequence.token_to_feed(i));
    }
    batch_.seq_offsets.push_back(batch_.num_rows());
    batch_.slots.push_back(sequence.slot.slot());
    batch_.start_positions.push_back(sequence.position());
  }
}

void Loop::RunRows(absl::Span<const PlannedRows> plan, SchedulerMetrics::Step* report) {
  BuildBatch(plan);
  for (const PlannedRows& rows : plan) {
    (planner_input_[rows.sequence].decoding ? report->decode_rows : report->prefill_rows) +=
        rows.rows;
    running_[rows.sequence]->last_served_step = step_;
    running_[rows.sequence]->served_in_slot = true;
  }
  const absl::Time begin = clock_->Now();
  absl::Status status = kernels::CheckDevice(health_, "device.step.begin");
  if (status.ok()) status = runner_->Begin(batch_, *slots_, row_requests_);
  TellObservers();
  mover_.SettleAll();
  TellObservers();  // of checkpoints
  if (status.ok()) status = runner_->End(&row_results_);
  if (status.ok()) status = kernels::CheckDevice(health_, "device.step.end");
  now_ = clock_->Now();
  report->model = now_ - begin;
  ++counts_.steps;
  counts_.decode_tokens += report->decode_rows;
  counts_.prefill_tokens += report->prefill_rows;
  if (!status.ok()) {
    for (const PlannedRows& rows : plan) {
      FinishUnsound(*running_[rows.sequence], Prefixed(status, "forward"));
    }
    return;
  }
  if (report->prefill_rows > 0) {
    admission_.NoteStep(report->prefill_rows, report->model, now_);
  }
  size_t next_result = 0;
  for (size_t s = 0; s < plan.size(); ++s) {
    AfterRows(*running_[plan[s].sequence], plan[s].rows, batch_.seq_offsets[s + 1], &next_result);
  }
}

void Loop::AfterRows(Sequence& sequence, int rows, int rows_end, size_t* next_result) {
  const bool draws = Draws(sequence, rows);
  const bool reaches_end = rows == sequence.rows_left();
  absl::Status scored = absl::OkStatus();
  while (*next_result < row_requests_.size() && row_requests_[*next_result].score >= 0 &&
         batch_.logit_rows[*next_result] < rows_end) {
    absl::StatusOr<kernels::SampledToken>& score = row_results_[(*next_result)++];
    scored.Update(score.status());
    if (score.ok()) sequence.prompt_logprobs.push_back(*std::move(score));
  }
  if (!sequence.decoding()) sequence.ticket.Fed(rows);
  sequence.MarkFed(rows);
  const size_t drawn = *next_result;
  if (draws) ++*next_result;
  if (!scored.ok()) {
    DropPrefixes(sequence);
    FinishUnsound(sequence, scored);
  } else if (draws) {
    AcceptToken(sequence, row_results_[drawn]);
  } else if (reaches_end) {
    Finish(sequence, absl::OkStatus(), FinishReason::kMaxTokens);
  }
  if (sequence.phase != Phase::kRunning) return;
  KeepPrefix(sequence);
  ReleaseForks(sequence);
  if (sequence.checkpoint_due()) TakeCheckpoint(sequence);
}

void Loop::AcceptToken(Sequence& sequence, const absl::StatusOr<kernels::SampledToken>& token) {
  if (!token.ok()) {
    DropPrefixes(sequence);
    FinishUnsound(sequence, token.status());
    return;
  }
  NoteTokenTime(sequence);
  sequence.AppendGenerated(*token);
  const Request& request = sequence.request;
  auto verdict = RequestObserver::Verdict::kContinue;
  if (sequence.hears_late) {
    outbox_.AddToken(request.observer, *token);
  } else {
    verdict = request.observer->OnToken(*token);
  }
  const bool stop_token = std::find(request.stop_tokens.begin(), request.stop_tokens.end(),
                                    token->id) != request.stop_tokens.end();
  if (stop_token) {
    Finish(sequence, absl::OkStatus(), FinishReason::kStopToken);
  } else if (verdict == RequestObserver::Verdict::kStop) {
    Finish(sequence, absl::OkStatus(), FinishReason::kStopString);
  } else if (static_cast<int64_t>(sequence.generated.size()) >= request.max_tokens) {
    Finish(sequence, absl::OkStatus(), FinishReason::kMaxTokens);
  }
}

void Loop::NoteTokenTime(Sequence& sequence) {
  if (!sequence.decoding()) {
    sequence.first_token = now_;
    if (options_.metrics != nullptr) options_.metrics->OnFirstToken(now_ - sequence.submitted);
  } else {
    const absl::Duration gap = now_ - sequence.last_token;
    Timeline& timeline = sequence.timeline;
    ++timeline.token_gaps;
    timeline.token_gap_sum += gap;
    timeline.token_gap_max = std::max(timeline.token_gap_max, gap);
    if (options_.metrics != nullptr) options_.metrics->OnTokenGap(gap);
  }
  sequence.last_token = now_;
}

void Loop::TakeCheckpoint(Sequence& sequence) {
  const absl::Time begin = clock_->Now();
  const absl::Span<const int32_t> tokens = sequence.TakeNewTokens();
  const absl::Status begun = mover_.BeginCopy(
      sequence, [this, id = sequence.id, observer = sequence.request.observer,
                 late = sequence.hears_late, prompt_tokens = sequence.prompt_tokens_in_state(),
                 new_tokens = std::vector<int32_t>(tokens.begin(), tokens.end())](
                    absl::StatusOr<SequenceState> state) {
        if (!state.ok()) {
          failed_checkpoints_.emplace_back(id, state.status());
          return;
        }
        Checkpoint checkpoint{*std::move(state), prompt_tokens, new_tokens};
        if (late) {
          outbox_.AddCheckpoint(observer, std::move(checkpoint));
        } else {
          observer->OnCheckpoint(std::move(checkpoint));
        }
      });
  if (!begun.ok()) {
    FinishUnsound(sequence, Prefixed(begun, "checkpoint"));
    return;
  }
  sequence.timeline.snapshot += clock_->Now() - begin;
  ++sequence.timeline.checkpoints;
  ++counts_.checkpoints;
  ++checkpoints_;
}

}  // namespace reprise::scheduler
