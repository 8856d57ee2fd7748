// How choices end, and the call with them.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "service/errors.h"
#include "service/generate_call.h"
#include "service/generate_request.h"
#include "service/log_fields.h"

namespace reprise::service {
namespace {

v1::FinishReason ReasonToProto(const scheduler::RequestResult& result, const ServedModel& model,
                               const v1::StopConditions& stop) {
  switch (result.reason) {
    case scheduler::FinishReason::kMaxTokens:
      return v1::FINISH_REASON_MAX_TOKENS;
    case scheduler::FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case scheduler::FinishReason::kDrained:
      return v1::FINISH_REASON_DRAINED;
    case scheduler::FinishReason::kStopToken: {
      const auto& asked = stop.stop_tokens();
      const bool is_eos =
          model.tokenizer != nullptr && model.tokenizer->eos_id() == result.stop_token;
      const bool is_asked = std::find(asked.begin(), asked.end(), result.stop_token) != asked.end();
      return is_eos && !is_asked ? v1::FINISH_REASON_EOS : v1::FINISH_REASON_STOP_TOKEN;
    }
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

// The kernels say so in words only.
bool IsNonFinite(const absl::Status& status) {
  return absl::IsInternal(status) && absl::StartsWith(status.message(), "logits: ");
}

}  // namespace

bool GenerateCall::MayGoOn() {
  return !checkpointer_.has_value() || !checkpointer_->behind();  // it wakes us
}

void GenerateCall::OnToken() {
  environment_->quotas->SpendAnswer(tenant_, 1);
  Pump();
}

void GenerateCall::OnStalled() {
  environment_->log->warn("{}", WithFields("cancelling a call whose client does not read",
                                           {{"request_id", request_.request_id()}}));
  context_->TryCancel();  // comes back as OnCancel
}

void GenerateCall::OnCheckpoint(Choice& choice, scheduler::Checkpoint checkpoint) {
  SessionTurn::Standing standing;
  standing.state = std::move(checkpoint.state);
  standing.prompt.assign(prompt_.begin(), prompt_.begin() + checkpoint.prompt_tokens);
  standing.generated = choice.generated();
  standing.seed = choice.seed();
  standing.detokenizer = choice.detokenizer();
  checkpointer_->Offer(std::move(standing), shared_from_this());
}

void GenerateCall::StoreCheckpoint(SessionTurn::Standing standing) {
  {
    absl::MutexLock lock(&mutex_);
    if (!doomed_.ok()) return;
  }
  const absl::Status stored = turn_->CommitCheckpoint(*model_, std::move(standing));
  std::optional<scheduler::RequestId> running;
  {
    absl::MutexLock lock(&mutex_);
    if (stored.ok()) {
      ++checkpoints_;
      return;
    }
    if (absl::IsAborted(stored) && doomed_.ok()) {
      doomed_ = stored;
      running = running_;
    }
  }
  environment_->log->warn("checkpoint of {} not stored: {}", ForLog(request_.session()),
                          ForLog(stored));
  // Computing on would be for nothing.
  if (running.has_value()) model_->scheduler->Cancel(*running);
}

void GenerateCall::OnEnd(Choice& choice, scheduler::RequestResult result) {
  report_.NoteResult(result);
  const bool generated = !result.generated.empty() || choice.replayed_tokens() > 0;
  if (result.status.ok() && result.reason == scheduler::FinishReason::kDrained && !generated) {
    // Stopped within its prompt: there is nothing to show, and half a prompt is not a turn.
    result.status = MakeError(v1::ERROR_REASON_DRAINING, "the server is shutting down");
  }
  if (IsNonFinite(result.status)) {
    result.status = MakeError(v1::ERROR_REASON_NON_FINITE,
                              "the model's logits are not finite; nothing was stored");
  }
  auto shared = std::make_shared<scheduler::RequestResult>(std::move(result));
  auto call = shared_from_this();
  std::function<void()> then;
  const bool partial = !shared->status.ok() && !generated;
  // Of several answers that are not ranked only the first leaves a state (Submit).
  if (!turn_.has_value() || !shared->state.has_value()) {
    then = nullptr;
  } else if (partial && choice.number() == 0) {
    then = [call, shared, &choice] { call->CommitPartial(choice, std::move(*shared)); };
  } else if (!ranks()) {
    then = [call, shared, &choice] { call->Commit(choice, std::move(*shared)); };
  }
  if (then == nullptr && checkpointer_.has_value()) {
    // A session must not be let go of while a checkpoint of it is being stored.
    then = [call, shared, &choice] {
      std::optional<v1::Finished> finished;
      if (shared->status.ok()) finished = call->MakeFinished(choice, *shared);
      call->CloseChoice(choice, shared->status, std::move(finished));
    };
  }
  if (then != nullptr && checkpointer_.has_value()) {
    checkpointer_->Close(std::move(then));
  } else if (then != nullptr) {
    environment_->io->Run(std::move(then));
  } else if (!shared->status.ok()) {
    CloseChoice(choice, shared->status, std::nullopt);
  } else if (ranks()) {
    {
      absl::MutexLock lock(&mutex_);
      Rank(choice, std::move(*shared));
    }
    CloseChoice(choice, absl::OkStatus(), std::nullopt);
  } else {
    CloseChoice(choice, absl::OkStatus(), MakeFinished(choice, *shared));
  }
}

void GenerateCall::Rank(Choice& choice, scheduler::RequestResult result) {
  const auto before = [](const Ranked& a, const Ranked& b) {
    if (a.choice->mean_logprob() != b.choice->mean_logprob()) {
      return a.choice->mean_logprob() > b.choice->mean_logprob();
    }
    return a.choice->number() < b.choice->number();
  };
  Ranked entry{&choice, std::move(result)};
  const auto place = std::upper_bound(ranked_.begin(), ranked_.end(), entry, before);
  // Only the best one's state is wanted, and states are large.
  if (place != ranked_.begin()) {
    entry.result.state.reset();
  } else if (!ranked_.empty()) {
    ranked_.front().result.state.reset();
  }
  ranked_.insert(place, std::move(entry));
  if (ranked_.size() <= static_cast<size_t>(std::max(request_.n(), 1))) return;
  discarded_tokens_ += static_cast<int64_t>(ranked_.back().result.generated.size());
  ranked_.back().choice->Break();
  ranked_.pop_back();
}

void GenerateCall::CloseChoice(Choice& choice, const absl::Status& status,
                               std::optional<v1::Finished> finished) {
  // The client may start its session's next turn the moment it hears of the end.
  if (turn_.has_value() && choice.number() == 0 && !ranks()) turn_->Release();
  {
    absl::MutexLock lock(&mutex_);
    --telling_choices_;
  }
  if (finished.has_value()) choice.Close(*std::move(finished));
  bool last;
  std::optional<scheduler::RequestId> fails;
  absl::Status failure;
  {
    absl::MutexLock lock(&mutex_);
    if (!status.ok() && failure_.ok()) {
      failure_ = status;
      fails = running_;
    }
    failure = failure_;
    last = --open_choices_ == 0;
  }
  if (!last) {
    if (fails.has_value()) CancelChoices(fails);
    Pump();
  } else if (!failure.ok() || !ranks()) {
    End(failure);
  } else if (turn_.has_value()) {
    environment_->io->Run([call = shared_from_this()] { call->CommitBest(); });
  } else {
    CloseRanked(std::nullopt);
  }
}

// Those that wait for the first one's prompt go before it, so that none takes its state over.
void GenerateCall::CancelChoices(std::optional<scheduler::RequestId> first) {
  if (!first.has_value()) return;
  for (size_t i = choices_.size(); i > 0; --i) model_->scheduler->Cancel(*first + i - 1);
}

absl::Status GenerateCall::StoreTurn(Choice& choice, scheduler::RequestResult& result,
                                     v1::Finished* finished) {
  const absl::Time start = environment_->clock->Now();
  SessionTurn::Standing end;
  end.state = *std::move(result.state);
  end.prompt = std::move(prompt_);
  end.generated = std::move(result.generated);
  end.seed = choice.seed();
  end.detokenizer = choice.detokenizer();
  auto commit = turn_->Commit(*model_, std::move(end));
  report_.commit = environment_->clock->Now() - start;
  if (!commit.ok()) {
    // Whose session was deleted meanwhile has wanted it so.
    environment_->log->log(
        absl::IsNotFound(commit.status()) ? spdlog::level::info : spdlog::level::warn,
        "turn of {} not committed: {}", ForLog(request_.session()), ForLog(commit.status()));
    return commit.status();
  }
  if (finished == nullptr) return absl::OkStatus();
  *finished->mutable_commit() = *std::move(commit);
  finished->mutable_timeline()->set_commit_seconds(absl::ToDoubleSeconds(report_.commit));
  return absl::OkStatus();
}

void GenerateCall::Commit(Choice& choice, scheduler::RequestResult result) {
  {
    absl::MutexLock lock(&mutex_);
    if (!doomed_.ok()) result.status = doomed_;
  }
  if (absl::IsAborted(result.status)) {
    CloseChoice(choice, result.status, std::nullopt);
    return;
  }
  std::optional<v1::Finished> finished;
  if (result.status.ok()) {
    finished = MakeFinished(choice, result);
  } else {
    choice.Flush();
  }
  const absl::Status stored =
      StoreTurn(choice, result, finished.has_value() ? &*finished : nullptr);
  if (!stored.ok()) finished.reset();
  // A call that failed anyway keeps its own reason.
  CloseChoice(choice, result.status.ok() ? stored : result.status, std::move(finished));
}

// The turn was interrupted within its prompt: its session stands there until a repeat goes on.
void GenerateCall::CommitPartial(Choice& choice, scheduler::RequestResult result) {
  bool doomed;
  {
    absl::MutexLock lock(&mutex_);
    doomed = !doomed_.ok();
  }
  if (!doomed) {
    SessionTurn::Standing standing;
    standing.state = *std::move(result.state);
    standing.prompt.assign(prompt_.begin(), prompt_.begin() + result.prompt_tokens_in_state);
    standing.seed = seed_;
    standing.detokenizer = choice.detokenizer();
    const absl::Status stored = turn_->CommitCheckpoint(*model_, std::move(standing));
    turn_->Finish();
    if (!stored.ok()) {
      environment_->log->warn("the part of a prompt of {} not stored: {}",
                              ForLog(request_.session()), ForLog(stored));
    } else if (absl::IsUnavailable(result.status)) {
      result.status = MakeError(v1::ERROR_REASON_DRAINING,
                                "the server is shutting down; the session keeps what was computed "
                                "of the prompt");
    }
  }
  CloseChoice(choice, result.status, std::nullopt);
}

void GenerateCall::CommitBest() {
  Ranked best{};
  {
    absl::MutexLock lock(&mutex_);
    std::swap(best, ranked_.front());
    ranked_.front().choice = best.choice;
  }
  v1::Finished finished = MakeFinished(*best.choice, best.result);
  const absl::Status stored = StoreTurn(*best.choice, best.result, &finished);
  if (!stored.ok()) {
    End(stored);
    return;
  }
  CloseRanked(std::move(finished));
}

// `best` is that of the first one, if it has been made already.
void GenerateCall::CloseRanked(std::optional<v1::Finished> best) {
  std::vector<Ranked> ranked;
  int64_t discarded;
  {
    absl::MutexLock lock(&mutex_);
    ranked.swap(ranked_);
    discarded = discarded_tokens_;
  }
  for (size_t i = 0; i < ranked.size(); ++i) {
    Choice& choice = *ranked[i].choice;
    v1::Finished finished =
        best.has_value() && i == 0 ? *std::move(best) : MakeFinished(choice, ranked[i].result);
    if (i == 0) {
      finished.mutable_usage()->set_discarded_tokens(discarded);
    } else {
      finished.clear_prompt_logprobs();
    }
    choice.Renumber(static_cast<int>(i));
    choice.Close(std::move(finished));
  }
  if (turn_.has_value()) turn_->Release();
  {
    absl::MutexLock lock(&mutex_);
    for (const Ranked& entry : ranked) writers_.push_back(entry.choice);
  }
  End(absl::OkStatus());
}

v1::Finished GenerateCall::MakeFinished(Choice& choice, const scheduler::RequestResult& result) {
  v1::Finished message;
  v1::Finished* finished = &message;
  finished->set_reason(ReasonToProto(result, *model_, request_.stop()));
  if (result.reason == scheduler::FinishReason::kStopString) {
    finished->set_stop_string(choice.stop_string());
  } else if (result.reason == scheduler::FinishReason::kStopToken) {
    finished->set_stop_token(result.stop_token);
  }
  finished->set_text(choice.Flush());
  finished->set_seed(choice.seed());
  const bool first = ranks() || choice.number() == 0;
  for (const kernels::SampledToken& token : result.prompt_logprobs) {
    if (!first) break;
    *finished->add_prompt_logprobs() = DescribeToken(token, model_->tokenizer.get());
  }
  const bool scored = WantsLogprobs(request_.output()) || request_.best_of() > 0;
  if (scored && !result.generated.empty() && choice.replayed_tokens() == 0) {
    finished->set_mean_logprob(choice.mean_logprob());
  }
  v1::Usage* usage = finished->mutable_usage();
  usage->set_prompt_tokens(static_cast<int32_t>(prompt_tokens_));
  usage->set_completion_tokens(static_cast<int32_t>(choice.replayed_tokens() +
                                                    static_cast<int64_t>(result.generated.size())));
  usage->set_restored_tokens(restored_tokens_);
  usage->set_computed_tokens(result.computed_tokens);
  usage->set_cached_tokens(result.reuse.cached_tokens);
  usage->set_shared_tokens(result.reuse.shared_tokens);
  if (result.reuse.cached_tokens == 0 && result.reuse.shared_tokens == 0 &&
      result.reuse.miss != scheduler::PrefixMiss::kDisabled) {
    usage->set_reuse_miss_reason(scheduler::PrefixMissName(result.reuse.miss));
  }
  v1::Timeline* timeline = finished->mutable_timeline();
  const scheduler::Timeline& times = result.timeline;
  const bool generated = !result.generated.empty();
  timeline->set_queue_seconds(absl::ToDoubleSeconds(times.queue));
  timeline->set_load_seconds(absl::ToDoubleSeconds(times.load));
  timeline->set_restore_seconds(absl::ToDoubleSeconds(times.restore));
  timeline->set_prefill_seconds(absl::ToDoubleSeconds(times.prefill));
  timeline->set_time_to_first_token_seconds(
      absl::ToDoubleSeconds(generated ? times.time_to_first_token : absl::ZeroDuration()));
  timeline->set_decode_seconds(absl::ToDoubleSeconds(times.decode));
  {
    absl::MutexLock lock(&mutex_);
    timeline->set_checkpoints(checkpoints_);
  }
  return message;
}

void GenerateCall::End(absl::Status status) {
  // The client may start its session's next turn the moment it hears of the end.
  if (turn_.has_value()) turn_->Release();
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(ending_, true)) return;
    if (!doomed_.ok()) status = doomed_;
    running_.reset();
    const bool late = context_->deadline() <= std::chrono::system_clock::now();
    if (absl::IsCancelled(status) && late) {
      status = MakeError(v1::ERROR_REASON_DEADLINE_EXCEEDED, "the call's deadline has passed");
    }
  }
  // Before the client hears of it.
  Report(*environment_, report_, status, request_.session(), request_.request_id());
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    status_ = std::move(status);
  }
  Pump();
}

}  // namespace reprise::service
