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

}  // namespace

class Scheduler::Impl {
 public:
  Impl(models::HybridModel* model, std::unique_ptr<models::StateSlots> slots, const Clock* clock,
       const SchedulerOptions& options)
      : options_(options), model_(model), clock_(clock), slots_(std::move(slots)) {
    logits_.resize(static_cast<size_t>(options.step_logit_rows) * model->info().vocab_size);
  }

  ~Impl() {
    TakeInbox();
    FinishWaiting([](const Sequence&) { return true; }, absl::CancelledError("shutting down"));
    for (std::unique_ptr<Sequence>& sequence : running_) {
      Finish(*sequence, absl::CancelledError("shutting down"), FinishReason::kMaxTokens);
    }
  }

  absl::StatusOr<RequestId> Submit(Request&& request) {
    RETURN_IF_ERROR(Validate(request));
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
    const absl::Time drain_deadline = TakeInbox();
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
    bool has_pending = false;
    if (request.state.has_value()) {
      const SequenceState& state = *request.state;
      const size_t expected = state.position == 0 ? 0 : model_->state_layout().bytes();
      if (state.position < 0) return absl::InvalidArgumentError("state.position: negative");
      if (state.image.size() != expected && !(state.position == 0 && state.image.empty())) {
        return absl::InvalidArgumentError(
            absl::StrCat("state.image: expected ", expected, " bytes, found ", state.image.size()));
      }
      if (state.pending.has_value()) {
        has_pending = true;
        RETURN_IF_ERROR(ValidateTokens("state.pending", {&*state.pending, 1}, vocab_size));
      } else if (state.position > 0) {
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
    for (const PlannedRows& rows : plan) {
      const Sequence& sequence = *running_[rows.sequence];
      const bool reaches_end = rows.rows == sequence.rows_left();
      for (int i = 0; i < rows.rows; ++i) {
        const bool last = reaches_end && i + 1 == rows.rows && sequence.request.max_tokens > 0;
        const bool scored = planner_input_[rows.sequence].wants_all_logits &&
                            sequence.predicted_prompt_token(i) >= 0;
        if (last || scored) batch_.logit_rows.push_back(batch_.num_rows());
        batch_.tokens.push_back(sequence.token_to_feed(i));
      }
      batch_.seq_offsets.push_back(batch_.num_rows());
      batch_.slots.push_back(sequence.slot.slot());
      batch_.start_positions.push_back(sequence.position());
    }
    const size_t vocab_size = model_->info().vocab_size;
    const absl::Status status = model_->Forward(
        batch_, *slots_, absl::MakeSpan(logits_.data(), batch_.logit_rows.size() * vocab_size));
    if (!status.ok()) {
      for (const PlannedRows& rows : plan) {
        Finish(*running_[rows.sequence], Prefixed(status, "forward"), FinishReason::kMaxTokens);
      }
      return;
    }
    size_t next_logits = 0;
    const auto take_logits = [&] {
      return absl::Span<const float>(logits_).subspan(vocab_size * next_logits++, vocab_size);
    };
    for (const PlannedRows& rows : plan) {
      Sequence& sequence = *running_[rows.sequence];
      const bool reaches_end = rows.rows == sequence.rows_left();
      absl::Status scored = absl::OkStatus();
      if (planner_input_[rows.sequence].wants_all_logits) {
        for (int i = 0; i < rows.rows; ++i) {
          const int32_t predicted = sequence.predicted_prompt_token(i);
          if (predicted < 0) continue;
          absl::StatusOr<kernels::SampledToken> score =
              kernels::Score(take_logits(), predicted, sequence.request.top_logprobs);
          scored.Update(score.status());
          if (score.ok()) sequence.prompt_logprobs.push_back(*std::move(score));
        }
      }
      sequence.MarkFed(rows.rows);
      const bool samples = reaches_end && sequence.request.max_tokens > 0;
      const absl::Span<const float> logits = samples ? take_logits() : absl::Span<const float>();
      if (!scored.ok()) {
        FinishUnsound(sequence, scored);
      } else if (samples) {
        SampleNext(sequence, logits);
      } else if (reaches_end) {
        Finish(sequence, absl::OkStatus(), FinishReason::kMaxTokens);
      }
    }
  }

  void SampleNext(Sequence& sequence, absl::Span<const float> logits) {
    absl::StatusOr<kernels::SampledToken> token =
        kernels::Sample(logits, sequence.sample_request());
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
      SequenceState state = sequence.state_without_image();
      absl::Status exported = absl::OkStatus();
      if (state.position > 0) {
        state.image.resize(slots_->layout().bytes());
        exported = slots_->Export(sequence.slot.slot(), absl::MakeSpan(state.image));
      }
      if (exported.ok()) {
        result.state = std::move(state);
      } else {
        result.status = Prefixed(exported, "export of the state");
      }
    }
    sequence.slot.Reset();
    const absl::Time now = clock_->Now();
    Timeline& timeline = result.timeline;
    timeline.queue = std::min(sequence.admitted, now) - sequence.submitted;
    timeline.restore = sequence.restore;
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
  WaitingQueue waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  absl::flat_hash_set<RequestId> finished_;  // still in running_ until DropFinished
  absl::flat_hash_set<RequestId> cancels_now_;
  std::vector<PlannerInput> planner_input_;
  models::RaggedBatch batch_;
  std::vector<float> logits_;  // [step_logit_rows, vocab]
  uint64_t turn_ = 0;
  int paused_ = 0;

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
  return std::unique_ptr<Scheduler>(
      new Scheduler(std::make_unique<Impl>(model, std::move(slots), clock, options)));
}

Scheduler::Scheduler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Scheduler::~Scheduler() = default;

absl::StatusOr<RequestId> Scheduler::Submit(Request&& request) {
  return impl_->Submit(std::move(request));
}
void Scheduler::Cancel(RequestId id) { impl_->Cancel(id); }
void Scheduler::Drain(absl::Time deadline) { impl_->Drain(deadline); }
bool Scheduler::Step() { return impl_->Step(); }
bool Scheduler::Idle() const { return impl_->Idle(); }
SchedulerStats Scheduler::stats() const { return impl_->stats(); }
const SchedulerOptions& Scheduler::options() const { return impl_->options(); }
absl::Status Scheduler::CheckIntegrity() const { return impl_->CheckIntegrity(); }

}  // namespace reprise::scheduler
