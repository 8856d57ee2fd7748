#include "scheduler/scheduler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/internal/sequence.h"
#include "scheduler/internal/step_planner.h"
#include "scheduler/internal/step_runner.h"
#include "scheduler/internal/waiting_queue.h"

namespace reprise::scheduler {
namespace {

absl::Status CheckOption(const char* name, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected ", low, "..", high, ", found ", value));
}

absl::Status ValidateTokens(const char* field, absl::Span<const int32_t> tokens, int vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(field, "[", i, "]: expected a token id in 0..",
                                                     vocab_size - 1, ", found ", tokens[i]));
    }
  }
  return absl::OkStatus();
}

// Requests whose states have arrived since the last step. Shared with the hooks in the
// StateFutures, which may outlive the scheduler.
struct Arrivals {
  absl::Mutex mutex;
  std::vector<RequestId> ids ABSL_GUARDED_BY(mutex);
  std::function<void()> wake ABSL_GUARDED_BY(mutex);
};

}  // namespace

class Scheduler::Impl {
 public:
  Impl(models::HybridModel* model, std::unique_ptr<models::StateSlots> slots,
       std::unique_ptr<StepRunner> runner, const Clock* clock, const SchedulerOptions& options)
      : options_(options),
        model_(model),
        clock_(clock),
        slots_(std::move(slots)),
        runner_(std::move(runner)) {}

  ~Impl() {
    TakeInbox();
    FinishWaiting([](const Sequence&) { return true; }, absl::CancelledError("shutting down"));
    for (std::unique_ptr<Sequence>& sequence : running_) {
      Finish(*sequence, absl::CancelledError("shutting down"), FinishReason::kMaxTokens);
    }
  }

  absl::StatusOr<RequestId> Submit(Request&& request) {
    RETURN_IF_ERROR(Validate(request));
    const std::shared_ptr<StateFuture> source = request.state_source;
    ASSIGN_OR_RETURN(const RequestId id, Enqueue(std::move(request)));
    if (source != nullptr) {
      source->NotifyWhenReady([id, arrivals = arrivals_] {
        absl::MutexLock lock(&arrivals->mutex);
        arrivals->ids.push_back(id);
        if (arrivals->wake) arrivals->wake();
      });
    }
    return id;
  }

  void SetWake(std::function<void()> wake) {
    absl::MutexLock lock(&arrivals_->mutex);
    arrivals_->wake = std::move(wake);
  }

  absl::StatusOr<RequestId> Enqueue(Request&& request) {
    absl::MutexLock lock(&mutex_);
    if (draining_) return absl::UnavailableError("the server is draining");
    int& of_tenant = queued_by_tenant_[request.tenant];
    if (queued_ >= options_.max_queued || of_tenant >= options_.max_queued_per_tenant) {
      ++stats_.rejected;
      return absl::ResourceExhaustedError(
          absl::StrCat("queue full: ", queued_, " requests wait, ", of_tenant, " of this tenant"));
    }
    ++queued_;
    ++of_tenant;
    const RequestId id = next_id_++;
    live_.insert(id);
    inbox_.push_back(std::make_unique<Sequence>(id, std::move(request), clock_->Now()));
    return id;
  }

  void Cancel(RequestId id) {
    absl::MutexLock lock(&mutex_);
    if (live_.contains(id)) cancels_.insert(id);
  }

  void Drain(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    drain_deadline_ = std::min(drain_deadline_, deadline);
  }

  bool Step() {
    const absl::Time begin = clock_->Now();
    const absl::flat_hash_set<RequestId> arrived = TakeArrivals();
    const absl::Time drain_deadline = TakeInbox();
    Deliver(arrived, begin);
    EndCancelledAndExpired(begin, drain_deadline);
    Admit();
    const std::vector<PlannedRows> plan = Plan();
    if (!plan.empty()) RunStep(plan);
    DropFinished();
    UpdateStats(begin, plan);
    return !plan.empty();
  }

  bool Idle() const {
    absl::MutexLock lock(&mutex_);
    return live_.empty();
  }

  SchedulerStats stats() const {
    absl::MutexLock lock(&mutex_);
    return stats_;
  }

  const SchedulerOptions& options() const { return options_; }

  absl::Status CheckIntegrity() const {
    RETURN_IF_ERROR(slots_->CheckIntegrity());
    if (slots_->free_slots() + static_cast<int>(running_.size()) != slots_->num_slots()) {
      return absl::InternalError(absl::StrCat("slots: ", slots_->free_slots(), " free and ",
                                              running_.size(), " running of ",
                                              slots_->num_slots()));
    }
    absl::flat_hash_set<int> held;
    for (const std::unique_ptr<Sequence>& sequence : running_) {
      if (!sequence->slot.valid() || !held.insert(sequence->slot.slot()).second) {
        return absl::InternalError("slots: a running sequence has none, or another's");
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Validate(const Request& request) const {
    const int vocab_size = model_->info().vocab_size;
    if (request.observer == nullptr) return absl::InvalidArgumentError("observer: missing");
    RETURN_IF_ERROR(ValidateTokens("prompt", request.prompt, vocab_size));
    RETURN_IF_ERROR(Prefixed(kernels::ValidateSampling(request.sampling, vocab_size), "sampling"));
    if (request.max_tokens < 0) return absl::InvalidArgumentError("max_tokens: negative");
    RETURN_IF_ERROR(ValidateTokens("earlier_prompt", request.earlier_prompt, vocab_size));
    RETURN_IF_ERROR(ValidateTokens("earlier_answer", request.earlier_answer, vocab_size));
    if (request.checkpoint_every_tokens < 0) {
      return absl::InvalidArgumentError("checkpoint_every_tokens: negative");
    }
    if (request.state_source != nullptr) {
      if (!request.state.has_value()) return absl::OkStatus();  // validated when it is there
      return absl::InvalidArgumentError("state: given twice, now and from state_source");
    }
    return ValidateStart(request, request.state.has_value() ? &*request.state : nullptr);
  }

  absl::Status ValidateStart(const Request& request, const SequenceState* state) const {
    bool has_pending = false;
    if (state != nullptr) {
      const size_t expected = state->position == 0 ? 0 : model_->state_layout().bytes();
      if (state->position < 0) return absl::InvalidArgumentError("state.position: negative");
      if (state->image.size() != expected) {
        return absl::InvalidArgumentError(absl::StrCat("state.image: expected ", expected,
                                                       " bytes, found ", state->image.size()));
      }
      if (state->pending.has_value()) {
        has_pending = true;
        RETURN_IF_ERROR(
            ValidateTokens("state.pending", {&*state->pending, 1}, model_->info().vocab_size));
      } else if (state->position > 0) {
        return absl::InvalidArgumentError("state.pending: missing although tokens were consumed");
      }
    }
    if (request.prompt.empty() && !has_pending) {
      return absl::InvalidArgumentError("prompt: empty, and there is nothing to continue from");
    }
    return absl::OkStatus();
  }

  // Moves what callers left into the stepping thread's own structures.
  absl::Time TakeInbox() {
    absl::MutexLock lock(&mutex_);
    for (std::unique_ptr<Sequence>& sequence : inbox_) waiting_.Push(std::move(sequence));
    inbox_.clear();
    cancels_now_.swap(cancels_);
    cancels_.clear();
    return drain_deadline_;
  }

  // Requests whose states have arrived. Taken before the inbox: each of them is then either queued
  // or at its end.
  absl::flat_hash_set<RequestId> TakeArrivals() {
    absl::MutexLock lock(&arrivals_->mutex);
    absl::flat_hash_set<RequestId> arrived(arrivals_->ids.begin(), arrivals_->ids.end());
    arrivals_->ids.clear();
    return arrived;
  }

  void Deliver(const absl::flat_hash_set<RequestId>& arrived, absl::Time now) {
    if (arrived.empty()) return;
    waiting_.ForEach([&](Sequence& sequence) {
      if (!arrived.contains(sequence.id)) return;
      sequence.load = now - sequence.submitted;
      absl::StatusOr<SequenceState> state = sequence.request.state_source->Take();
      sequence.load_status = state.ok() ? ValidateStart(sequence.request, &*state) : state.status();
      if (sequence.load_status.ok()) sequence.Deliver(*std::move(state));
    });
    waiting_.RemoveIf([](const Sequence& s) { return !s.load_status.ok(); },
                      [&](std::unique_ptr<Sequence> sequence) {
                        LeaveQueue(*sequence);
                        Finish(*sequence, sequence->load_status, FinishReason::kMaxTokens);
                      });
  }

  void EndCancelledAndExpired(absl::Time now, absl::Time drain_deadline) {
    for (std::unique_ptr<Sequence>& sequence : running_) {
      if (cancels_now_.contains(sequence->id)) {
        Finish(*sequence, absl::CancelledError("cancelled"), FinishReason::kMaxTokens);
      } else if (sequence->request.deadline <= now) {
        Finish(*sequence, absl::DeadlineExceededError("deadline reached"),
               FinishReason::kMaxTokens);
      } else if (drain_deadline <= now) {
        Finish(*sequence,
               sequence->decoding() ? absl::OkStatus()
                                    : absl::UnavailableError("the server is draining"),
               FinishReason::kDrained);
      }
    }
    DropFinished();
    FinishWaiting([&](const Sequence& s) { return cancels_now_.contains(s.id); },
                  absl::CancelledError("cancelled"));
    FinishWaiting([&](const Sequence& s) { return s.request.deadline <= now; },
                  absl::DeadlineExceededError("deadline reached before it could start"));
    if (drain_deadline <= now) {
      FinishWaiting([](const Sequence&) { return true; },
                    absl::UnavailableError("the server is draining"));
    }
  }

  template <typename Predicate>
  void FinishWaiting(Predicate ends, const absl::Status& status) {
    waiting_.RemoveIf(ends, [&](std::unique_ptr<Sequence> sequence) {
      LeaveQueue(*sequence);
      Finish(*sequence, status, FinishReason::kMaxTokens);
    });
  }

  void LeaveQueue(const Sequence& sequence) {
    absl::MutexLock lock(&mutex_);
    --queued_;
    auto entry = queued_by_tenant_.find(sequence.request.tenant);
    if (--entry->second == 0) queued_by_tenant_.erase(entry);
  }

  void Admit() {
    while (slots_->free_slots() > 0) {
      std::unique_ptr<Sequence> sequence = waiting_.Pop();
      if (sequence == nullptr) return;
      LeaveQueue(*sequence);
      sequence->admitted = clock_->Now();
      absl::StatusOr<models::SlotHandle> slot = slots_->Acquire();
      absl::Status status = slot.status();
      if (status.ok()) {
        sequence->slot = *std::move(slot);
        if (sequence->position() > 0) {
          status = slots_->Import(sequence->slot.slot(), sequence->request.state->image);
          sequence->request.state->image = {};  // the slot holds it now
          sequence->restore = clock_->Now() - sequence->admitted;
        }
      }
      if (!status.ok()) {
        Finish(*sequence, status, FinishReason::kMaxTokens);
      } else if (sequence->rows_left() == 0) {  // feed-only, and one token: it is the pending one
        Finish(*sequence, absl::OkStatus(), FinishReason::kMaxTokens);
      } else {
        running_.push_back(std::move(sequence));
      }
    }
  }

  std::vector<PlannedRows> Plan() {
    planner_input_.clear();
    absl::flat_hash_map<std::string, int> tenants;
    paused_ = 0;
    for (const std::unique_ptr<Sequence>& sequence : running_) {
      PlannerInput input;
      input.rows_left = sequence->rows_left();
      input.decoding = sequence->decoding();
      input.writable = !input.decoding || sequence->request.observer->Writable();
      input.wants_all_logits = sequence->request.prompt_logprobs && !input.decoding;
      input.tenant =
          tenants.emplace(sequence->request.tenant, static_cast<int>(tenants.size())).first->second;
      paused_ += !input.writable;
      planner_input_.push_back(input);
    }
    return PlanStep(planner_input_, options_, turn_++);
  }

  void RunStep(const std::vector<PlannedRows>& plan) {
    batch_.Clear();
    row_requests_.clear();
    for (const PlannedRows& rows : plan) {
      const Sequence& sequence = *running_[rows.sequence];
      const bool samples = Samples(sequence, rows.rows);
      for (int i = 0; i < rows.rows; ++i) {
        RowRequest request;
        if (planner_input_[rows.sequence].wants_all_logits) {
          request.score = sequence.predicted_prompt_token(i);
          request.sample.top_logprobs = sequence.request.top_logprobs;
        }
        const bool draws = samples && i + 1 == rows.rows;
        if (draws) request.sample = sequence.sample_request(rows.rows);
        if (draws || request.score >= 0) {
          batch_.logit_rows.push_back(batch_.num_rows());
          row_requests_.push_back(request);
        }
        batch_.tokens.push_back(sequence.token_to_feed(i));
      }
      batch_.seq_offsets.push_back(batch_.num_rows());
      batch_.slots.push_back(sequence.slot.slot());
      batch_.start_positions.push_back(sequence.position());
    }
    const absl::Status status = runner_->Run(batch_, *slots_, row_requests_, &row_results_);
    if (!status.ok()) {
      for (const PlannedRows& rows : plan) {
        Finish(*running_[rows.sequence], Prefixed(status, "forward"), FinishReason::kMaxTokens);
      }
      return;
    }
    size_t next_result = 0;
    for (size_t s = 0; s < plan.size(); ++s) {
      Sequence& sequence = *running_[plan[s].sequence];
      const bool samples = Samples(sequence, plan[s].rows);
      const bool reaches_end = plan[s].rows == sequence.rows_left();
      absl::Status scored = absl::OkStatus();
      while (next_result < row_requests_.size() && row_requests_[next_result].score >= 0 &&
             batch_.logit_rows[next_result] < batch_.seq_offsets[s + 1]) {
        absl::StatusOr<kernels::SampledToken>& score = row_results_[next_result++];
        scored.Update(score.status());
        if (score.ok()) sequence.prompt_logprobs.push_back(*std::move(score));
      }
      sequence.MarkFed(plan[s].rows);
      absl::StatusOr<kernels::SampledToken> token = absl::UnknownError("");
      if (samples) token = std::move(row_results_[next_result++]);
      if (!scored.ok()) {
        FinishUnsound(sequence, scored);
      } else if (samples) {
        Continue(sequence, token);
      } else if (reaches_end) {
        Finish(sequence, absl::OkStatus(), FinishReason::kMaxTokens);
      }
      if (sequence.checkpoint_due() && !finished_.contains(sequence.id)) TakeCheckpoint(sequence);
    }
  }

  // Whether the sequence's next `rows` rows end with a draw.
  static bool Samples(const Sequence& sequence, int rows) {
    return rows == sequence.rows_left() && sequence.request.max_tokens > 0;
  }

  void Continue(Sequence& sequence, const absl::StatusOr<kernels::SampledToken>& token) {
    if (!token.ok()) {
      FinishUnsound(sequence, token.status());
      return;
    }
    if (!sequence.decoding()) sequence.first_token = clock_->Now();
    sequence.AppendGenerated(*token);
    const Request& request = sequence.request;
    const RequestObserver::Verdict verdict = request.observer->OnToken(*token);
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

  void TakeCheckpoint(Sequence& sequence) {
    const absl::Time begin = clock_->Now();
    absl::StatusOr<SequenceState> state = ExportState(sequence);
    if (!state.ok()) {
      Finish(sequence, Prefixed(state.status(), "checkpoint"), FinishReason::kMaxTokens);
      return;
    }
    ++sequence.checkpoints;
    sequence.checkpoint_time += clock_->Now() - begin;
    Checkpoint checkpoint;
    checkpoint.state = *std::move(state);
    checkpoint.prompt_tokens = sequence.prompt_tokens_in_state();
    checkpoint.new_tokens = sequence.TakeNewTokens();
    sequence.request.observer->OnCheckpoint(std::move(checkpoint));
  }

  // A copy of the state as it is between two steps.
  absl::StatusOr<SequenceState> ExportState(const Sequence& sequence) const {
    SequenceState state = sequence.state_without_image();
    if (state.position > 0) {
      state.image.resize(slots_->layout().bytes());
      RETURN_IF_ERROR(slots_->Export(sequence.slot.slot(), absl::MakeSpan(state.image)));
    }
    return state;
  }

  // A state that gave NaN must never be stored.
  void FinishUnsound(Sequence& sequence, const absl::Status& status) {
    sequence.request.export_state = false;
    Finish(sequence, status, FinishReason::kMaxTokens);
  }

  void Finish(Sequence& sequence, absl::Status status, FinishReason reason) {
    RequestResult result;
    result.status = std::move(status);
    result.reason = reason;
    const bool interrupted =
        absl::IsCancelled(result.status) || absl::IsDeadlineExceeded(result.status);
    const bool wants_state = sequence.request.export_state && sequence.slot.valid() &&
                             (result.status.ok() || (interrupted && sequence.decoding()));
    if (wants_state) {
      absl::StatusOr<SequenceState> state = ExportState(sequence);
      if (state.ok()) {
        result.state = *std::move(state);
      } else {
        result.status = Prefixed(state.status(), "export of the state");
      }
    }
    sequence.slot.Reset();
    const absl::Time now = clock_->Now();
    Timeline& timeline = result.timeline;
    timeline.queue = std::min(sequence.admitted, now) - sequence.submitted;
    timeline.load = sequence.load;
    timeline.restore = sequence.restore;
    timeline.checkpoint = sequence.checkpoint_time;
    timeline.checkpoints = sequence.checkpoints;
    if (sequence.admitted <= now) {
      timeline.prefill = std::min(sequence.first_token, now) - sequence.admitted - sequence.restore;
    }
    if (sequence.first_token <= now) {
      timeline.time_to_first_token = sequence.first_token - sequence.submitted;
      timeline.decode = now - sequence.first_token;
    }
    if (reason == FinishReason::kStopToken) result.stop_token = sequence.generated.back();
    result.generated = std::move(sequence.generated);
    result.prompt_logprobs = std::move(sequence.prompt_logprobs);
    result.computed_tokens = sequence.computed_tokens;
    {
      absl::MutexLock lock(&mutex_);
      live_.erase(sequence.id);
      if (result.status.ok()) {
        ++stats_.finished;
      } else if (absl::IsCancelled(result.status)) {
        ++stats_.cancelled;
      } else if (absl::IsDeadlineExceeded(result.status)) {
        ++stats_.expired;
      } else {
        ++stats_.failed;
      }
    }
    finished_.insert(sequence.id);
    // The observer goes after its last event, whatever it owns with it.
    const std::shared_ptr<RequestObserver> observer = std::move(sequence.request.observer);
    observer->OnFinish(std::move(result));
  }

  void DropFinished() {
    if (finished_.empty()) return;
    running_.erase(std::remove_if(running_.begin(), running_.end(),
                                  [&](const std::unique_ptr<Sequence>& sequence) {
                                    return finished_.contains(sequence->id);
                                  }),
                   running_.end());
    finished_.clear();
  }

  void UpdateStats(absl::Time begin, const std::vector<PlannedRows>& plan) {
    const absl::Time end = clock_->Now();
    absl::MutexLock lock(&mutex_);
    stats_.running = static_cast<int>(running_.size());
    stats_.waiting = queued_;
    stats_.paused = paused_;
    stats_.free_slots = slots_->free_slots();
    if (plan.empty()) return;
    ++stats_.steps;
    stats_.busy += end - begin;
    for (const PlannedRows& rows : plan) {
      (planner_input_[rows.sequence].decoding ? stats_.decode_tokens : stats_.prefill_tokens) +=
          rows.rows;
    }
  }

  const SchedulerOptions options_;
  models::HybridModel* const model_;
  const Clock* const clock_;

  // Owned by the stepping thread.
  std::unique_ptr<models::StateSlots> slots_;
  std::unique_ptr<StepRunner> runner_;
  WaitingQueue waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  absl::flat_hash_set<RequestId> finished_;  // still in running_ until DropFinished
  absl::flat_hash_set<RequestId> cancels_now_;
  std::vector<PlannerInput> planner_input_;
  models::RaggedBatch batch_;
  std::vector<RowRequest> row_requests_;
  std::vector<absl::StatusOr<kernels::SampledToken>> row_results_;
  uint64_t turn_ = 0;
  int paused_ = 0;

  const std::shared_ptr<Arrivals> arrivals_ = std::make_shared<Arrivals>();

  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Sequence>> inbox_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<RequestId> cancels_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<RequestId> live_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> queued_by_tenant_ ABSL_GUARDED_BY(mutex_);
  int queued_ ABSL_GUARDED_BY(mutex_) = 0;
  RequestId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  SchedulerStats stats_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(models::HybridModel* model,
                                                             const kernels::Context& context,
                                                             const Clock* clock,
                                                             const SchedulerOptions& options) {
  RETURN_IF_ERROR(CheckOption("num_slots", options.num_slots, 1, 1 << 20));
  RETURN_IF_ERROR(CheckOption("step_tokens", options.step_tokens, 1, model->max_rows()));
  RETURN_IF_ERROR(
      CheckOption("prefill_chunk_tokens", options.prefill_chunk_tokens, 1, options.step_tokens));
  RETURN_IF_ERROR(CheckOption("step_logit_rows", options.step_logit_rows, 1, model->max_rows()));
  RETURN_IF_ERROR(CheckOption("max_queued", options.max_queued, 1, 1 << 24));
  RETURN_IF_ERROR(CheckOption("max_queued_per_tenant", options.max_queued_per_tenant, 1, 1 << 24));
  ASSIGN_OR_RETURN(std::unique_ptr<models::StateSlots> slots,
                   models::StateSlots::Create(model->state_layout(), options.num_slots, context));
  ASSIGN_OR_RETURN(std::unique_ptr<StepRunner> runner,
                   NewStepRunner(model, context.pool, options.step_logit_rows));
  return std::unique_ptr<Scheduler>(new Scheduler(
      std::make_unique<Impl>(model, std::move(slots), std::move(runner), clock, options)));
}

Scheduler::Scheduler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Scheduler::~Scheduler() = default;

absl::StatusOr<RequestId> Scheduler::Submit(Request&& request) {
  return impl_->Submit(std::move(request));
}
void Scheduler::SetWake(std::function<void()> wake) { impl_->SetWake(std::move(wake)); }
void Scheduler::Cancel(RequestId id) { impl_->Cancel(id); }
void Scheduler::Drain(absl::Time deadline) { impl_->Drain(deadline); }
bool Scheduler::Step() { return impl_->Step(); }
bool Scheduler::Idle() const { return impl_->Idle(); }
SchedulerStats Scheduler::stats() const { return impl_->stats(); }
const SchedulerOptions& Scheduler::options() const { return impl_->options(); }
absl::Status Scheduler::CheckIntegrity() const { return impl_->CheckIntegrity(); }

}  // namespace reprise::scheduler
