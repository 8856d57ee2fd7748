// A running request: what is left to feed, where its state lies, what it has drawn so far.
#ifndef REPRISE_SCHEDULER_INTERNAL_SEQUENCE_H_
#define REPRISE_SCHEDULER_INTERNAL_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "models/state_slots.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {

// Plain bookkeeping for one request; belongs to the stepping thread once it has left the inbox.
// `feed` holds every token of the request in order: the state's pending one, the prompt, then each
// token drawn. The first `fed` of them are in the state. Prefill and decode differ only in how many
// are left.
class Sequence {
 public:
  Sequence(RequestId id, Request&& request, absl::Time submitted);

  const RequestId id;
  Request request;
  models::SlotHandle slot;

  absl::Time submitted, admitted, first_token;
  absl::Duration restore;
  bool cancelled = false;

  std::vector<int32_t> generated;
  std::vector<kernels::SampledToken> prompt_logprobs;
  int64_t computed_tokens = 0;

  // Tokens in the state.
  int64_t position() const { return start_position_ + fed_; }
  // Rows that it can feed now. A feed-only request leaves its last token pending.
  int64_t rows_left() const {
    return static_cast<int64_t>(feed_.size()) - fed_ - (request.max_tokens == 0 ? 1 : 0);
  }
  bool decoding() const { return !generated.empty(); }
  // The token that row `offset` of the next chunk feeds.
  int32_t token_to_feed(int64_t offset) const { return feed_[fed_ + offset]; }
  // The prompt token that the logits of that row predict, or -1 when it is past the prompt.
  int32_t predicted_prompt_token(int64_t offset) const;
  void MarkFed(int64_t rows);

  // What Sample needs for the token that comes after everything fed.
  kernels::SampleRequest sample_request() const;
  void AppendGenerated(const kernels::SampledToken& token);

  // The state as callers keep it, without the image.
  SequenceState state_without_image() const;

 private:
  void Count(int32_t id, int32_t in_answer);

  int64_t start_position_ = 0;
  std::vector<int32_t> feed_;
  int64_t fed_ = 0;
  int64_t prompt_end_ = 0;  // index in feed_ after the prompt
  bool counts_tokens_ = false;
  std::vector<kernels::TokenCount> counts_;
  absl::flat_hash_map<int32_t, size_t> count_index_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_SEQUENCE_H_
