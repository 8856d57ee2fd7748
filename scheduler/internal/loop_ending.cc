#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "scheduler/internal/loop.h"

namespace reprise::scheduler {

// The details are the operator's, in the log.
absl::Status Loop::DeviceFailed() {
  return MakeSchedulerError(SchedulerError::kDeviceFailed, "the server's device has failed");
}

// What happened before the failure is told in its order. What is still on its way out of the device
// is dropped: it ends in the same error.
void Loop::EndAllWithDevice() {
  for (Sequence* sequence : Live()) FinishUnsound(*sequence, DeviceFailed());
  cancelling_.clear();
  mover_.SettleAll();
  DropEnded();
  TellObservers();
}

void Loop::EndDue() {
  for (auto& [id, status] : std::exchange(failed_checkpoints_, {})) {
    const auto entry = sequences_.find(id);
    if (entry != sequences_.end()) FinishUnsound(*entry->second, Prefixed(status, "checkpoint"));
  }
  for (RequestId id : cancelling_) {
    const auto entry = sequences_.find(id);
    if (entry == sequences_.end()) continue;  // ended by itself
    Finish(*entry->second, absl::CancelledError("cancelled"), FinishReason::kMaxTokens);
  }
  cancelling_.clear();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
    Sequence& sequence = *sequences_.find(deadlines_.begin()->second)->second;
    Finish(sequence,
           absl::DeadlineExceededError(sequence.started ? "deadline reached"
                                                        : "deadline reached before it could start"),
           FinishReason::kMaxTokens);
  }
  if (!draining_) return;
  const bool grace_over = drain_deadline_ <= now_;
  if (not_started_ == 0 && !grace_over) return;
  for (Sequence* sequence : Live()) EndForDrain(*sequence, grace_over);
}

// Another replica serves at once what has not started here, and goes on with what has.
void Loop::EndForDrain(Sequence& sequence, bool grace_over) {
  if (sequence.started && !grace_over) return;
  if (sequence.decoding()) {
    Finish(sequence, absl::OkStatus(), FinishReason::kDrained);
  } else {
    Finish(sequence, MakeSchedulerError(SchedulerError::kDraining, "the server is draining"),
           FinishReason::kDrained);
  }
}

std::vector<Sequence*> Loop::Live() {
  std::vector<Sequence*> live;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->phase != Phase::kEnded) live.push_back(sequence.get());
  }
  std::sort(live.begin(), live.end(),
            [](const Sequence* a, const Sequence* b) { return a->id < b->id; });
  return live;
}

// A state that gave NaN, or whose step failed, must never be stored.
void Loop::FinishUnsound(Sequence& sequence, const absl::Status& status) {
  sequence.request.export_state = false;
  Finish(sequence, device_failed() ? DeviceFailed() : status, FinishReason::kMaxTokens);
}

void Loop::Finish(Sequence& sequence, absl::Status status, FinishReason reason) {
  if (sequence.phase == Phase::kEnded) return;
  mover_.Settle(sequence);  // its last checkpoint comes before its end
  RequestResult result;
  result.status = std::move(status);
  result.reason = reason;
  PassOnForks(sequence, result.status);
  KeepState(sequence, &result);
  KeepLastPrefix(sequence, result);
  if (sequence.phase != Phase::kRunning && sequence.started) {
    sequence.timeline.parked += now_ - sequence.parked_since;
  }
  Detach(sequence);
  CompleteTimeline(sequence);
  result.timeline = sequence.timeline;
  if (result.status.ok() && reason == FinishReason::kStopToken) {
    result.stop_token = sequence.generated.back();
  }
  result.generated = std::move(sequence.generated);
  result.prompt_logprobs = std::move(sequence.prompt_logprobs);
  result.computed_tokens = sequence.computed_tokens;
  result.reuse = sequence.reuse;
  if (result.status.ok()) {
    ++counts_.finished;
  } else if (absl::IsCancelled(result.status)) {
    ++counts_.cancelled;
  } else if (absl::IsDeadlineExceeded(result.status)) {
    ++counts_.expired;
  } else {
    ++counts_.failed;
  }
  if (options_.metrics != nullptr) {
    SchedulerMetrics::Finish finish;
    finish.tenant = &sequence.request.tenant;
    finish.code = result.status.code();
    finish.reason = reason;
    finish.started = sequence.started;
    finish.computed_tokens = result.computed_tokens;
    finish.generated_tokens = static_cast<int64_t>(result.generated.size());
    finish.timeline = &result.timeline;
    options_.metrics->OnFinish(finish);
  }
  // The observer goes after its last event, whatever it owns with it.
  std::shared_ptr<RequestObserver> observer = std::move(sequence.request.observer);
  if (sequence.hears_late) {
    outbox_.AddFinish(std::move(observer), std::move(result));
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    --live_;
  }
  observer->OnFinish(std::move(result));
}

void Loop::KeepState(Sequence& sequence, RequestResult* result) {
  if (!sequence.request.export_state || sequence.phase == Phase::kLoading) return;
  // Without OK it was interrupted: of what is unsound no state is asked for (FinishUnsound).
  const bool partial =
      sequence.computed_tokens > 0 && (sequence.decoding() || sequence.request.keep_partial);
  if (!result->status.ok() && !partial) return;
  const absl::Time begin = clock_->Now();
  absl::StatusOr<SequenceState> state = mover_.Take(sequence);
  sequence.timeline.snapshot += clock_->Now() - begin;
  if (!state.ok()) {
    result->status = device_failed() ? DeviceFailed() : state.status();
    return;
  }
  result->state = *std::move(state);
  result->prompt_tokens_in_state = sequence.prompt_tokens_in_state();
}

void Loop::Detach(Sequence& sequence) {
  switch (sequence.phase) {
    case Phase::kQueued:
      // Those that were parked in this very step are not in the queue yet.
      if (std::find(parked_now_.begin(), parked_now_.end(), &sequence) == parked_now_.end()) {
        queue_.Remove(&sequence);
      }
      break;
    case Phase::kRunning:
      --sequence.tenant->slots;
      break;
    case Phase::kLoading:
    case Phase::kPaused:
    case Phase::kEnded:
      break;
  }
  sequence.phase = Phase::kEnded;
  mover_.Release(sequence);
  sequence.ticket.LeaveQueue(now_);
  sequence.ticket.Reset();
  not_started_ -= !sequence.started;
  if (sequence.request.deadline < absl::InfiniteFuture()) {
    deadlines_.erase({sequence.request.deadline, sequence.id});
  }
  tenants_.Leave(sequence.tenant);
  ended_.push_back(sequence.id);
}

void Loop::CompleteTimeline(Sequence& sequence) const {
  Timeline& timeline = sequence.timeline;
  timeline.queue = std::min(sequence.admitted, now_) - sequence.submitted;
  if (sequence.started) {
    timeline.prefill =
        std::min(sequence.first_token, now_) - sequence.admitted - sequence.first_restore;
  }
  if (sequence.decoding()) {
    timeline.time_to_first_token = sequence.first_token - sequence.submitted;
    timeline.decode = now_ - sequence.first_token;
  }
}

void Loop::DropEnded() {
  if (ended_.empty()) return;
  const auto has_ended = [](const Sequence* s) { return s->phase == Phase::kEnded; };
  running_.erase(std::remove_if(running_.begin(), running_.end(), has_ended), running_.end());
  paused_.erase(std::remove_if(paused_.begin(), paused_.end(), has_ended), paused_.end());
  for (RequestId id : ended_) sequences_.erase(id);
  ended_.clear();
}

}  // namespace reprise::scheduler
