#include "service/generate_call.h"

#include <openssl/rand.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/fault_point.h"
#include "base/status_macros.h"
#include "service/errors.h"
#include "service/generate_request.h"
#include "service/wire_codec.h"

namespace reprise::service {
namespace {

constexpr int64_t kDefaultCheckpointTokens = 256;

// Of the call, or infinite.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace

GenerateCall* GenerateCall::Start(Environment* environment, grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request) {
  auto call = std::make_shared<GenerateCall>(environment, context);
  call->self_ = call;
  auto admitted = Admit(environment, *context);
  if (!admitted.ok()) {
    call->End(admitted.status());
    return call.get();
  }
  call->admission_ = *std::move(admitted);
  call->tenant_ = call->admission_.identity.tenant;
  call->report_.tenant = call->tenant_;
  const bool accepted = environment->io->TryRun([call, bytes = *request]() mutable {
    absl::Status status = ParseMessage(&bytes, &call->request_);
    if (status.ok()) status = call->Prepare();
    if (!status.ok()) call->End(std::move(status));
  });
  if (!accepted) {
    call->End(MakeError(v1::ERROR_REASON_QUEUE_FULL, "too many calls wait to be read"));
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
  // Before the session is held: it is another server's now.
  RETURN_IF_ERROR(environment_->models->CheckDevices());
  if (!request_.session().empty()) {
    ASSIGN_OR_RETURN(turn_, SessionTurn::Begin(environment_, tenant_, request_));
    if (turn_->already_committed().has_value()) {
      request_.clear_n();
      request_.clear_best_of();
      MakeChoices({});
      v1::Finished finished;
      *finished.mutable_commit() = *turn_->already_committed();
      choices_[0]->Close(std::move(finished));
      End(absl::OkStatus());
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
    ASSIGN_OR_RETURN(admission_.places.room, environment_->quotas->Reserve(tenant_, 0, bytes));
  }
  const bool continues = turn_.has_value() && turn_->continues();
  ASSIGN_OR_RETURN(std::vector<int32_t> prompt,
                   EncodePrompt(request_, *model_, environment_->limits, continues));
  return Submit(std::move(prompt));
}

absl::Status GenerateCall::Submit(std::vector<int32_t> prompt) {
  const v1::StopConditions& stop = request_.stop();
  const bool checkpoints = request_.durability() == v1::DURABILITY_EVERY_N_TOKENS;
  seed_ = ChooseSeed();
  prompt_tokens_ = static_cast<int64_t>(prompt.size());
  RETURN_IF_ERROR(environment_->quotas->SpendPrompt(tenant_, prompt_tokens_));
  scheduler::Request work;
  work.tenant = tenant_;
  work.priority = ToPriority(request_.priority());
  work.max_tokens =
      stop.has_max_tokens() ? stop.max_tokens() : environment_->limits.default_max_tokens;
  work.stop_tokens = StopTokens(stop, *model_);
  work.top_logprobs = request_.output().top_logprobs();
  work.logprobs = WantsLogprobs(request_.output()) || request_.best_of() > 0;
  work.prompt_logprobs = request_.output().prompt_logprobs();
  work.export_state = turn_.has_value();
  work.keep_partial = request_.keep_partial() || checkpoints;
  work.use_prefix_cache = !request_.no_prefix_cache();
  if (work.use_prefix_cache) {
    const bool continues = turn_.has_value() && turn_->continues();
    ASSIGN_OR_RETURN(work.cache_marks,
                     CacheMarks(request_, *model_, environment_->limits, continues, prompt));
  }
  work.deadline = DeadlineOf(*context_);
  MakeChoices(work);
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
  for (const auto& choice : choices_) {
    // The call lives as long as one of its choices is in the scheduler's hands.
    std::shared_ptr<scheduler::RequestObserver> observer(shared_from_this(), choice.get());
    kernels::SamplingParams sampling = ToSampling(request_.sampling(), choice->seed());
    if (choice->number() == 0) {
      work.observer = std::move(observer);
      work.sampling = std::move(sampling);
    } else {
      // Of answers that are not ranked, the first is the one that is stored.
      work.forks.push_back({std::move(sampling), std::move(observer), ranks()});
    }
  }
  request_.clear_prompt();  // may be megabytes, and the stream may be long
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return MakeError(v1::ERROR_REASON_CANCELLED, "cancelled before it started");
    open_choices_ = telling_choices_ = choices_.size();
  }
  report_.model = model_;
  report_.prompt_tokens = prompt_tokens_;
  report_.restored_tokens = restored_tokens_;
  report_.submitted = environment_->clock->Now();
  // From here on the scheduler's thread may have the call.
  ASSIGN_OR_RETURN(const scheduler::RequestId id, model_->scheduler->Submit(std::move(work)));
  REPRISE_FAULT_POINT("generate.submitted");
  bool cancelled;
  {
    absl::MutexLock lock(&mutex_);
    running_ = id;
    // Its first checkpoint may have failed for good before anybody could cancel it by its id.
    cancelled = cancelled_ || !failure_.ok() || !doomed_.ok();
  }
  if (cancelled) CancelChoices(id);
  // What fails now ends the request in the scheduler's hands.
  if (future != nullptr) {
    future->Set(LoadState(environment_->store, *model_, origin, std::move(loading)));
  }
  return absl::OkStatus();
}

void GenerateCall::MakeChoices(const scheduler::Request& work) {
  const int count = std::max({request_.n(), request_.best_of(), 1});
  Choice::Options options;
  options.max_unwritten_tokens = environment_->limits.max_unwritten_tokens;
  options.paced = count == 1 || request_.best_of() == 0;  // nobody reads before they are ranked
  options.stall = environment_->limits.stall;
  options.keep_generated = request_.durability() == v1::DURABILITY_EVERY_N_TOKENS;
  const auto& stop_strings = request_.stop().stop_strings();
  options.stream.stop_strings = {stop_strings.begin(), stop_strings.end()};
  options.stream.silent_tokens = work.stop_tokens;
  options.stream.logprobs = WantsLogprobs(request_.output());
  options.stream.omit_text = request_.output().omit_text();
  const models::Tokenizer* tokenizer = model_ == nullptr ? nullptr : model_->tokenizer.get();
  ChoiceOwner* const owner = this;
  for (int i = 0; i < count; ++i) {
    options.number = i;
    options.seed = ChoiceSeed(seed_, i);
    choices_.push_back(std::make_unique<Choice>(owner, environment_->clock, tokenizer, options));
  }
  if (ranks()) return;  // they write when they are ranked
  absl::MutexLock lock(&mutex_);
  for (const auto& choice : choices_) writers_.push_back(choice.get());
}

absl::StatusOr<std::shared_ptr<scheduler::StateFuture>> GenerateCall::StartFrom(
    std::vector<int32_t> prompt, scheduler::Request* work) {
  turn_->SetPrompt(prompt);
  const scheduler::SequenceState& start = turn_->legs().sequence;
  if (turn_->resumed().has_value()) {
    RETURN_IF_ERROR(GoOnFrom(*turn_->resumed(), &prompt, work));
  } else if (prompt.empty() && start.token_count() > 0) {
    for (const auto& choice : choices_) {
      RETURN_IF_ERROR(choice->Resume(turn_->legs().detokenizer));
    }
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

// An earlier try of this turn was interrupted there.
absl::Status GenerateCall::GoOnFrom(const TurnProgress& progress, std::vector<int32_t>* prompt,
                                    scheduler::Request* work) {
  const auto done = static_cast<size_t>(progress.prompt_done);
  if (static_cast<int64_t>(prompt->size()) != progress.prompt_tokens ||
      scheduler::ExtendTokenHash(Sha256Digest{}, *prompt) != progress.prompt_hash) {
    return MakeError(v1::ERROR_REASON_REQUEST_ID_REUSED,
                     "the unfinished turn under this request_id has another prompt");
  }
  if (choices_.size() > 1 && !progress.generated.empty()) {
    return MakeError(v1::ERROR_REASON_REQUEST_ID_REUSED,
                     "the unfinished turn under this request_id has begun its one answer");
  }
  for (const int32_t id : progress.generated) {
    if (id < 0 || id >= model_->vocab_size()) {
      return MakeError(v1::ERROR_REASON_CORRUPT_SNAPSHOT,
                       "the checkpoint names a token that the model does not have");
    }
  }
  const bool continues_answer = prompt->empty();
  work->earlier_prompt.assign(prompt->begin(), prompt->begin() + done);
  work->earlier_answer = progress.generated;
  prompt->erase(prompt->begin(), prompt->begin() + done);
  work->max_tokens =
      std::max<int32_t>(0, work->max_tokens - static_cast<int32_t>(progress.generated.size()));
  work->cache_marks.clear();  // they are places of the whole prompt
  for (const auto& choice : choices_) {
    if (continues_answer) RETURN_IF_ERROR(choice->Resume(progress.start_detokenizer));
    if (!progress.generated.empty()) choice->Replay(progress.generated);
  }
  return absl::OkStatus();
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

}  // namespace reprise::service
