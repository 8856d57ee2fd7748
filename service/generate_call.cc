#include "service/generate_call.h"

#include <openssl/rand.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "service/errors.h"
#include "service/generate_request.h"
#include "service/status_to_grpc.h"
#include "service/wire_codec.h"

namespace reprise::service {
namespace {

// Of the call, or infinite.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

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

constexpr int64_t kDefaultCheckpointTokens = 256;

// The kernels say so in words only.
bool IsNonFinite(const absl::Status& status) {
  return absl::IsInternal(status) && absl::StartsWith(status.message(), "logits: ");
}

}  // namespace

GenerateCall* GenerateCall::Start(Environment* environment, grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request) {
  auto call = std::make_shared<GenerateCall>(environment, context);
  call->self_ = call;
  auto admitted = Admit(environment, *context);
  if (!admitted.ok()) {
    call->End(admitted.status(), std::nullopt);
    return call.get();
  }
  call->admission_ = *std::move(admitted);
  call->tenant_ = call->admission_.identity.tenant;
  call->report_.tenant = call->tenant_;
  const bool accepted = environment->io->TryRun([call, bytes = *request]() mutable {
    absl::Status status = ParseMessage(&bytes, &call->request_);
    if (status.ok()) status = call->Prepare();
    if (!status.ok()) call->End(std::move(status), std::nullopt);
  });
  if (!accepted) {
    call->End(MakeError(v1::ERROR_REASON_QUEUE_FULL, "too many calls wait to be read"),
              std::nullopt);
  }
  return call.get();
}

GenerateCall::GenerateCall(Environment* environment, grpc::CallbackServerContext* context)
    : environment_(environment), context_(context) {
  report_.trace = BeginTrace(context);
  report_.started = environment->clock->Now();
}

absl::Status GenerateCall::Prepare() {
  RETURN_IF_ERROR(CheckFields(request_, environment_->limits));
  if (!request_.session().empty()) {
    ASSIGN_OR_RETURN(turn_, SessionTurn::Begin(environment_, tenant_, request_));
    if (turn_->already_committed().has_value()) {
      v1::GenerateResponse response;
      *response.mutable_finished()->mutable_commit() = *turn_->already_committed();
      End(absl::OkStatus(), std::move(response));
      return absl::OkStatus();
    }
  }
  const std::string& name =
      request_.model().empty() && turn_.has_value() ? turn_->model_name() : request_.model();
  ASSIGN_OR_RETURN(model_, environment_->models->Find(name, "model"));
  RETURN_IF_ERROR(CheckVocabulary(request_, *model_));
  if (turn_.has_value()) {
    RETURN_IF_ERROR(turn_->ReadHead(*model_));
    const auto bytes = static_cast<int64_t>(model_->layout().bytes());
    ASSIGN_OR_RETURN(room_, environment_->quotas->Reserve(tenant_, 0, bytes));
  }
  const bool continues = turn_.has_value() && turn_->continues();
  ASSIGN_OR_RETURN(std::vector<int32_t> prompt,
                   EncodePrompt(request_, *model_, environment_->limits, continues));
  return Submit(std::move(prompt));
}

absl::Status GenerateCall::Submit(std::vector<int32_t> prompt) {
  const v1::StopConditions& stop = request_.stop();
  seed_ = ChooseSeed();
  prompt_tokens_ = static_cast<int64_t>(prompt.size());
  RETURN_IF_ERROR(environment_->quotas->SpendPrompt(tenant_, prompt_tokens_));
  scheduler::Request work;
  work.tenant = tenant_;
  work.sampling = ToSampling(request_.sampling(), seed_);
  work.max_tokens =
      stop.has_max_tokens() ? stop.max_tokens() : environment_->limits.default_max_tokens;
  work.stop_tokens = StopTokens(stop, *model_);
  work.top_logprobs = request_.output().top_logprobs();
  work.logprobs = request_.output().logprobs() || work.top_logprobs > 0;
  work.prompt_logprobs = request_.output().prompt_logprobs();
  work.export_state = turn_.has_value();
  work.use_prefix_cache = !request_.no_prefix_cache();
  if (work.use_prefix_cache) {
    const bool continues = turn_.has_value() && turn_->continues();
    ASSIGN_OR_RETURN(work.cache_marks,
                     CacheMarks(request_, *model_, environment_->limits, continues, prompt));
  }
  work.deadline = DeadlineOf(*context_);
  work.observer = shared_from_this();

  TokenStream::Options options;
  options.stop_strings = {stop.stop_strings().begin(), stop.stop_strings().end()};
  options.silent_tokens = work.stop_tokens;
  options.logprobs = work.logprobs;
  options.omit_text = request_.output().omit_text();
  stream_.emplace(model_->tokenizer.get(), std::move(options));
  std::shared_ptr<scheduler::StateFuture> future;
  StateOrigin origin;
  scheduler::SequenceState loading;
  if (turn_.has_value()) {
    // Copies: once the scheduler has the request, the turn may end at any moment.
    origin = turn_->origin();
    loading = turn_->legs().sequence;
    ASSIGN_OR_RETURN(future, StartFrom(std::move(prompt), &work));
  } else {
    work.prompt = std::move(prompt);
  }
  request_.clear_prompt();  // may be megabytes, and the stream may be long
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return MakeError(v1::ERROR_REASON_CANCELLED, "cancelled before it started");
  }
  report_.model = model_;
  report_.prompt_tokens = prompt_tokens_;
  report_.restored_tokens = restored_tokens_;
  report_.submitted = environment_->clock->Now();
  // From here on the scheduler's thread may have the call.
  ASSIGN_OR_RETURN(const scheduler::RequestId id, model_->scheduler->Submit(std::move(work)));
  bool cancelled;
  {
    absl::MutexLock lock(&mutex_);
    running_ = id;
    cancelled = cancelled_;
  }
  if (cancelled) model_->scheduler->Cancel(id);
  // What fails now ends the request in the scheduler's hands.
  if (future != nullptr) {
    future->Set(LoadState(environment_->store, *model_, origin, std::move(loading)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<scheduler::StateFuture>> GenerateCall::StartFrom(
    std::vector<int32_t> prompt, scheduler::Request* work) {
  turn_->SetPrompt(prompt);
  const scheduler::SequenceState& start = turn_->legs().sequence;
  std::string detokenizer = turn_->legs().detokenizer;
  const bool continues_answer = prompt.empty();
  if (const auto& resumed = turn_->resumed(); resumed.has_value()) {
    const auto done = static_cast<size_t>(resumed->prompt_done);
    if (static_cast<int64_t>(prompt.size()) != resumed->prompt_tokens ||
        scheduler::ExtendTokenHash(Sha256Digest{}, prompt) != resumed->prompt_hash) {
      return MakeError(v1::ERROR_REASON_REQUEST_ID_REUSED,
                       "the unfinished turn under this request_id has another prompt");
    }
    work->earlier_prompt.assign(prompt.begin(), prompt.begin() + done);
    work->earlier_answer = resumed->generated;
    prompt.erase(prompt.begin(), prompt.begin() + done);
    replayed_tokens_ = static_cast<int64_t>(resumed->generated.size());
    work->max_tokens =
        std::max<int32_t>(0, work->max_tokens - static_cast<int32_t>(replayed_tokens_));
    work->cache_marks.clear();  // they are places of the whole prompt
    detokenizer = resumed->start_detokenizer;
  }
  if (continues_answer && start.token_count() > 0) RETURN_IF_ERROR(stream_->Resume(detokenizer));
  if (replayed_tokens_ > 0) {
    v1::Tokens replay;
    for (const int32_t id : turn_->resumed()->generated) {
      if (id < 0 || id >= model_->vocab_size()) {
        return MakeError(v1::ERROR_REASON_CORRUPT_SNAPSHOT,
                         "the checkpoint names a token that the model does not have");
      }
      kernels::SampledToken token;
      token.id = id;
      stream_->Append(token, &replay);
    }
    replay.clear_logprobs();
    replay.set_replayed(true);
    absl::MutexLock lock(&mutex_);
    replay_ = std::move(replay);
  }
  prompt_ = prompt;
  work->prompt = std::move(prompt);
  restored_tokens_ = start.position;
  if (request_.durability() == v1::DURABILITY_EVERY_N_TOKENS) {
    work->checkpoint_every_tokens =
        request_.checkpoint_tokens() > 0 ? request_.checkpoint_tokens() : kDefaultCheckpointTokens;
    work->max_tokens = std::min<int32_t>(work->max_tokens, kMaxCheckpointedTokens);
    checkpointer_.emplace(
        environment_->io,
        [this](SessionTurn::Standing standing) { StoreCheckpoint(std::move(standing)); },
        [this] { model_->scheduler->Wake(); });
  }
  if (start.position == 0) {
    if (start.pending.has_value()) work->state = start;
    return nullptr;
  }
  work->state_source = std::make_shared<scheduler::StateFuture>();
  return work->state_source;
}

uint64_t GenerateCall::ChooseSeed() const {
  if (turn_.has_value() && turn_->resumed().has_value()) return turn_->legs().seed;
  if (request_.sampling().has_seed()) return request_.sampling().seed();
  if (turn_.has_value() && turn_->legs().sequence.token_count() > 0) return turn_->legs().seed;
  uint64_t seed = 0;
  // A failing generator leaves 0: a legal seed, if not a surprising one.
  RAND_bytes(reinterpret_cast<unsigned char*>(&seed), sizeof(seed));
  return seed;
}

bool GenerateCall::Writable() {
  if (checkpointer_.has_value() && checkpointer_->behind()) return false;  // it wakes us
  const absl::Time now = environment_->clock->Now();
  bool stalled = false;
  bool paused;
  {
    absl::MutexLock lock(&mutex_);
    const bool was_paused = paused_;
    paused =
        !broken_ && pending_tokens_ + written_tokens_ >= environment_->limits.max_unwritten_tokens;
    paused_ = paused;
    if (!paused || !was_paused) {
      paused_since_ = now;
    } else if (!stalled_ && now - paused_since_ > environment_->limits.stall) {
      stalled = stalled_ = true;
    }
  }
  if (stalled) {
    environment_->log->warn("cancelling a call whose client does not read: request_id={}",
                            ForLog(request_.request_id()));
    context_->TryCancel();  // comes back as OnCancel
  }
  return !paused;
}

scheduler::RequestObserver::Verdict GenerateCall::OnToken(const kernels::SampledToken& token) {
  bool stop;
  environment_->quotas->SpendAnswer(tenant_, 1);
  if (checkpointer_.has_value()) generated_.push_back(token.id);
  {
    absl::MutexLock lock(&mutex_);
    v1::Tokens nobody;
    stop = stream_->Append(token, broken_ ? &nobody : &pending_);
    if (!broken_) ++pending_tokens_;
  }
  Pump();
  return stop ? Verdict::kStop : Verdict::kContinue;
}

void GenerateCall::OnCheckpoint(scheduler::Checkpoint checkpoint) {
  SessionTurn::Standing standing;
  standing.state = std::move(checkpoint.state);
  standing.prompt.assign(prompt_.begin(), prompt_.begin() + checkpoint.prompt_tokens);
  standing.generated = generated_;
  standing.seed = seed_;
  standing.detokenizer = stream_->state();
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
                          ForLog(stored.ToString()));
  // Computing on would be for nothing.
  if (running.has_value()) model_->scheduler->Cancel(*running);
}

void GenerateCall::OnFinish(scheduler::RequestResult result) {
  report_.NoteResult(result);
  const bool generated = !result.generated.empty() || replayed_tokens_ > 0;
  if (result.status.ok() && result.reason == scheduler::FinishReason::kDrained && !generated) {
    // Stopped within its prompt: there is nothing to show, and half a prompt is not a turn.
    result.status = MakeError(v1::ERROR_REASON_DRAINING, "the server is shutting down");
  }
  if (IsNonFinite(result.status)) {
    result.status = MakeError(v1::ERROR_REASON_NON_FINITE,
                              "the model's logits are not finite; nothing was stored");
  }
  const bool commit =
      turn_.has_value() && result.state.has_value() && (result.status.ok() || generated);
  auto call = shared_from_this();
  auto shared = std::make_shared<scheduler::RequestResult>(std::move(result));
  if (!commit) {
    const auto end = [call, shared] {
      std::optional<v1::GenerateResponse> finished;
      if (shared->status.ok()) finished = call->MakeFinished(*shared);
      call->End(shared->status, std::move(finished));
    };
    // A session must not be let go of while a checkpoint of it is being stored.
    if (checkpointer_.has_value()) {
      checkpointer_->Close(end);
    } else {
      end();
    }
    return;
  }
  const auto finish = [call, shared] { call->Commit(std::move(*shared)); };
  if (checkpointer_.has_value()) {
    checkpointer_->Close(finish);
  } else {
    environment_->io->Run(finish);
  }
}

void GenerateCall::Commit(scheduler::RequestResult result) {
  const absl::Time start = environment_->clock->Now();
  {
    absl::MutexLock lock(&mutex_);
    if (!doomed_.ok()) result.status = doomed_;
  }
  if (absl::IsAborted(result.status)) {
    End(result.status, std::nullopt);
    return;
  }
  std::optional<v1::GenerateResponse> finished;
  if (result.status.ok()) {
    finished = MakeFinished(result);
  } else {
    stream_->Finish();
  }
  SessionTurn::Standing end;
  end.state = *std::move(result.state);
  end.prompt = std::move(prompt_);
  end.generated = std::move(result.generated);
  end.seed = seed_;
  end.detokenizer = stream_->state();
  auto commit = turn_->Commit(*model_, std::move(end));
  report_.commit = environment_->clock->Now() - start;
  if (!commit.ok()) {
    environment_->log->warn("turn of {} not committed: {}", ForLog(request_.session()),
                            ForLog(commit.status().ToString()));
    // A call that failed anyway keeps its own reason.
    End(result.status.ok() ? commit.status() : result.status, std::nullopt);
    return;
  }
  if (finished.has_value()) {
    auto* last = finished->mutable_finished();
    *last->mutable_commit() = *std::move(commit);
    last->mutable_timeline()->set_commit_seconds(absl::ToDoubleSeconds(report_.commit));
  }
  End(result.status, std::move(finished));
}

v1::GenerateResponse GenerateCall::MakeFinished(const scheduler::RequestResult& result) {
  v1::GenerateResponse response;
  v1::Finished* finished = response.mutable_finished();
  finished->set_reason(ReasonToProto(result, *model_, request_.stop()));
  if (result.reason == scheduler::FinishReason::kStopString) {
    finished->set_stop_string(stream_->stop_string());
  } else if (result.reason == scheduler::FinishReason::kStopToken) {
    finished->set_stop_token(result.stop_token);
  }
  finished->set_text(stream_->Finish());
  finished->set_seed(seed_);
  for (const kernels::SampledToken& token : result.prompt_logprobs) {
    *finished->add_prompt_logprobs() = DescribeToken(token, model_->tokenizer.get());
  }
  v1::Usage* usage = finished->mutable_usage();
  usage->set_prompt_tokens(static_cast<int32_t>(prompt_tokens_));
  usage->set_completion_tokens(
      static_cast<int32_t>(replayed_tokens_ + static_cast<int64_t>(result.generated.size())));
  usage->set_restored_tokens(restored_tokens_);
  usage->set_computed_tokens(result.computed_tokens);
  usage->set_cached_tokens(result.reuse.cached_tokens);
  if (restored_tokens_ == 0 && result.reuse.cached_tokens == 0 &&
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
  return response;
}

void GenerateCall::End(absl::Status status, std::optional<v1::GenerateResponse> finished) {
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
    finished_ = std::move(finished);
  }
  Pump();
}

void GenerateCall::Pump() {
  enum class Next { kNothing, kWrite, kFinish, kLast } next = Next::kNothing;
  grpc::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (writing_ || finishing_) return;
    if (replay_.has_value() && !broken_) {
      v1::GenerateResponse response;
      *response.mutable_tokens() = *std::exchange(replay_, std::nullopt);
      writing_ = true;
      in_flight_ = SerializeMessage(response);
      next = Next::kWrite;
    } else if (pending_tokens_ > 0 && !broken_) {
      v1::GenerateResponse response;
      response.mutable_tokens()->Swap(&pending_);
      pending_.Clear();
      written_tokens_ = std::exchange(pending_tokens_, 0);
      writing_ = true;
      in_flight_ = SerializeMessage(response);
      next = Next::kWrite;
    } else if (ended_) {
      finishing_ = true;
      if (status_.ok() && finished_.has_value() && !broken_) {
        in_flight_ = SerializeMessage(*finished_);
        finished_.reset();
        next = Next::kLast;
      } else {
        status = ToGrpcStatus(status_);
        next = Next::kFinish;
      }
    }
  }
  // gRPC may call back at once, from this very call.
  switch (next) {
    case Next::kNothing:
      break;
    case Next::kWrite:
      StartWrite(&in_flight_);
      break;
    case Next::kLast:
      StartWriteAndFinish(&in_flight_, grpc::WriteOptions(), grpc::Status::OK);
      break;
    case Next::kFinish:
      Finish(status);
      break;
  }
}

void GenerateCall::OnWriteDone(bool ok) {
  bool wake;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    written_tokens_ = 0;
    if (!ok) {
      broken_ = true;  // OnCancel comes too, and ends the sequence
      pending_.Clear();
      pending_tokens_ = 0;
    }
    wake = std::exchange(paused_, false);
  }
  Pump();
  if (wake) model_->scheduler->Wake();
}

void GenerateCall::OnCancel() {
  std::optional<scheduler::RequestId> running;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    running = running_;
  }
  if (running.has_value()) model_->scheduler->Cancel(*running);
}

void GenerateCall::OnDone() {
  room_ = {};
  admission_ = {};
  self_.reset();  // may be the last reference: nothing after this line
}

}  // namespace reprise::service
