#include "scheduler/internal/sequence.h"

#include <utility>

namespace reprise::scheduler {

Sequence::Sequence(RequestId id, Request&& request_in, Admission::Ticket ticket_in,
                   absl::Time submitted, bool is_fork)
    : id(id),
      is_fork(is_fork),
      request(std::move(request_in)),
      ticket(std::move(ticket_in)),
      waiting_since(submitted),
      submitted(submitted),
      admitted(absl::InfiniteFuture()),
      first_token(absl::InfiniteFuture()) {
  const kernels::SamplingParams& sampling = request.sampling;
  counts_tokens_ = sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0.0f ||
                   sampling.frequency_penalty != 0.0f;
  if (sampling.repetition_penalty != 1.0f) {
    for (int32_t token : request.earlier_prompt) Count(token, 0);
    for (int32_t token : request.prompt) Count(token, 0);
  }
  if (counts_tokens_) {
    for (int32_t token : request.earlier_answer) Count(token, 1);
  }
  if (request.state_source != nullptr || is_fork) {
    phase = Phase::kLoading;
  } else {
    Start(request.state.has_value() ? &*request.state : nullptr);
  }
}

void Sequence::Deliver(SequenceState state) {
  phase = Phase::kQueued;
  Start(&state);
}

void Sequence::Follow(const Sequence& leader) {
  start_position_ = leader.start_position_;
  feed_.reserve(leader.feed_.size() + static_cast<size_t>(std::min(request.max_tokens, 1024)));
  feed_.assign(leader.feed_.begin(), leader.feed_.begin() + leader.prompt_end_);
  fed_ = leader.fed_;
  prompt_begin_ = checkpointed_ = leader.prompt_begin_;
  prompt_end_ = leader.prompt_end_;
  request.prompt = {};
  prompt_logprobs = leader.prompt_logprobs;
  context = leader.context;
  kept = leader.kept;
  reuse = leader.reuse;
  reuse.cached_tokens = 0;
  reuse.shared_tokens = fed_;
}

void Sequence::Reuse(int64_t tokens, StateImage state) {
  fed_ = tokens;
  image = {};
  shared_image = std::move(state);
}

void Sequence::Start(SequenceState* state) {
  const size_t longest_answer = static_cast<size_t>(std::min(request.max_tokens, 1024));
  feed_.reserve(1 + request.prompt.size() + longest_answer);
  if (state != nullptr) {
    start_position_ = state->position;
    if (state->pending.has_value()) feed_.push_back(*state->pending);
    image = std::move(state->image);
    if (!state->name.empty()) context = std::move(state->name);
    request.state.reset();
  }
  if (start_position_ == 0) context = "";
  prompt_begin_ = checkpointed_ = static_cast<int64_t>(feed_.size());
  feed_.insert(feed_.end(), request.prompt.begin(), request.prompt.end());
  prompt_end_ = static_cast<int64_t>(feed_.size());
  request.prompt = {};
}

int32_t Sequence::predicted_prompt_token(int64_t offset) const {
  const int64_t next = fed_ + offset + 1;
  return next < prompt_end_ ? feed_[next] : -1;
}

void Sequence::MarkFed(int64_t rows) {
  fed_ += rows;
  computed_tokens += rows;
}

kernels::SampleRequest Sequence::sample_request(int64_t rows) const {
  kernels::SampleRequest sample;
  sample.params = &request.sampling;
  sample.counts = counts_;
  sample.index = static_cast<uint64_t>(position() + rows);
  sample.want_logprob = request.logprobs;
  sample.top_logprobs = request.top_logprobs;
  return sample;
}

void Sequence::AppendGenerated(const kernels::SampledToken& token) {
  feed_.push_back(token.id);
  generated.push_back(token.id);
  if (counts_tokens_) Count(token.id, 1);
}

SequenceState Sequence::state_without_image() const {
  SequenceState state;
  state.position = position();
  if (fed_ < static_cast<int64_t>(feed_.size())) state.pending = feed_[fed_];
  return state;
}

int64_t Sequence::prompt_tokens_in_state() const {
  return std::clamp(held(), prompt_begin_, prompt_end_) - prompt_begin_;
}

absl::Span<const int32_t> Sequence::TakeNewTokens() {
  const int64_t begin = std::exchange(checkpointed_, held());
  return absl::MakeConstSpan(feed_).subspan(begin, checkpointed_ - begin);
}

void Sequence::Count(int32_t token, int32_t in_answer) {
  auto [entry, inserted] = count_index_.try_emplace(token, counts_.size());
  if (inserted) counts_.push_back({token, 0});
  counts_[entry->second].in_answer += in_answer;
}

}  // namespace reprise::scheduler
