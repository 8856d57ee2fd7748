#include "service/choice.h"

#include <limits>
#include <utility>

namespace reprise::service {

uint64_t ChoiceSeed(uint64_t seed, int index) {
  if (index == 0) return seed;
  // SplitMix64, Steele et al. 2014: neighbouring seeds give unrelated choices.
  uint64_t z = seed + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

Choice::Choice(ChoiceOwner* owner, const Clock* clock, const models::Tokenizer* tokenizer,
               Options options)
    : owner_(owner),
      clock_(clock),
      options_(std::move(options)),
      may_stop_(!options_.stream.stop_strings.empty()),
      stream_(tokenizer, options_.stream),
      index_(options_.number) {}

void Choice::Replay(const std::vector<int32_t>& generated) {
  Event event;
  v1::Tokens* tokens = event.message.mutable_tokens();
  for (const int32_t id : generated) {
    kernels::SampledToken token;
    token.id = id;
    stream_.Append(token, tokens);
  }
  tokens->clear_logprobs();
  tokens->set_replayed(true);
  replayed_tokens_ = static_cast<int64_t>(generated.size());
  absl::MutexLock lock(&mutex_);
  events_.push_back(std::move(event));
}

bool Choice::Writable() {
  if (!owner_->MayGoOn()) return false;
  const absl::Time now = clock_->Now();
  bool stalled = false;
  bool paused;
  {
    absl::MutexLock lock(&mutex_);
    const bool was_paused = paused_;
    paused = options_.paced && !broken_ &&
             pending_tokens_ + written_tokens_ >= options_.max_unwritten_tokens;
    paused_ = paused;
    if (!paused || !was_paused) {
      paused_since_ = now;
    } else if (!stalled_ && now - paused_since_ > options_.stall) {
      stalled = stalled_ = true;
    }
  }
  if (stalled) owner_->OnStalled();
  return !paused;
}

Choice::Event& Choice::OpenEvent() {
  const bool full =
      !events_.empty() && !options_.paced && events_.back().tokens >= options_.max_unwritten_tokens;
  if (events_.empty() || !events_.back().open || full) {
    events_.emplace_back();
    events_.back().open = true;
  }
  return events_.back();
}

scheduler::RequestObserver::Verdict Choice::OnToken(const kernels::SampledToken& token) {
  bool stop;
  if (options_.keep_generated) generated_.push_back(token.id);
  logprob_sum_ += token.logprob;
  ++scored_tokens_;
  {
    absl::MutexLock lock(&mutex_);
    if (broken_) {
      v1::Tokens nobody;
      stop = stream_.Append(token, &nobody);
    } else {
      Event& event = OpenEvent();
      stop = stream_.Append(token, event.message.mutable_tokens());
      ++event.tokens;
      ++pending_tokens_;
    }
  }
  owner_->OnToken();
  return stop ? Verdict::kStop : Verdict::kContinue;
}

void Choice::OnCheckpoint(scheduler::Checkpoint checkpoint) {
  owner_->OnCheckpoint(*this, std::move(checkpoint));
}

void Choice::OnFinish(scheduler::RequestResult result) { owner_->OnEnd(*this, std::move(result)); }

double Choice::mean_logprob() const {
  if (scored_tokens_ == 0) return std::numeric_limits<double>::lowest();
  return logprob_sum_ / static_cast<double>(scored_tokens_);
}

void Choice::Close(v1::Finished finished) {
  absl::MutexLock lock(&mutex_);
  if (broken_) return;
  Event event;
  *event.message.mutable_finished() = std::move(finished);
  events_.push_back(std::move(event));
}

std::optional<v1::GenerateResponse> Choice::TakeEvent() {
  absl::MutexLock lock(&mutex_);
  if (events_.empty()) return std::nullopt;
  Event event = std::move(events_.front());
  events_.pop_front();
  pending_tokens_ -= event.tokens;
  written_tokens_ = event.tokens;
  if (event.message.has_tokens()) event.message.mutable_tokens()->set_choice(index_);
  if (event.message.has_finished()) event.message.mutable_finished()->set_choice(index_);
  return std::move(event.message);
}

bool Choice::HasEvent() const {
  absl::MutexLock lock(&mutex_);
  return !events_.empty();
}

bool Choice::NoteWritten() {
  absl::MutexLock lock(&mutex_);
  written_tokens_ = 0;
  return std::exchange(paused_, false);
}

void Choice::NoteProgress() {
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  paused_since_ = now;
}

void Choice::Renumber(int index) {
  absl::MutexLock lock(&mutex_);
  index_ = index;
}

void Choice::Break() {
  absl::MutexLock lock(&mutex_);
  broken_ = true;
  events_.clear();
  pending_tokens_ = 0;
}

}  // namespace reprise::service
