// A request on its way: what is left to feed, where its state lies, what it has drawn so far.
#ifndef REPRISE_SCHEDULER_INTERNAL_SEQUENCE_H_
#define REPRISE_SCHEDULER_INTERNAL_SEQUENCE_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/bytes.h"
#include "models/state_slots.h"
#include "scheduler/internal/admission.h"
#include "scheduler/internal/tenants.h"
#include "scheduler/prefix_cache/prefix_spill.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {

// Plain bookkeeping for one request; belongs to the stepping thread once it has left the inbox.
// `feed` holds every token of the request in order: the state's pending one, the prompt, then each
// token drawn. The first `fed` of them are in the state. Prefill and decode differ only in how many
// are left.
class Sequence {
 public:
  enum class Phase {
    kLoading,  // its state is not there yet: from a source, the spill, or the one it is a fork of
    kQueued,   // waits for a slot: for the first time, or parked
    kPaused,   // parked, and its client does not read
    kRunning,  // has a slot
    kEnded,
  };

  // A fork waits in kLoading until Follow tells it where to go on.
  Sequence(RequestId id, Request&& request, Admission::Ticket ticket, absl::Time submitted,
           bool is_fork = false);

  const RequestId id;
  const bool is_fork;
  Request request;
  Admission::Ticket ticket;
  Tenant* tenant = nullptr;

  Phase phase = Phase::kQueued;
  bool started = false;      // has had a slot
  models::SlotHandle slot;   // while kRunning
  Bytes image;               // the state at position() while it has no slot; empty at position 0
  bool leaving = false;      // parked, and its image is still on its way from the slot
  absl::Status lost;         // why it never arrived
  StateImage shared_image;   // instead of `image`, one that others have, too
  uint64_t place = 0;        // in the queue: lower is earlier
  absl::Time waiting_since;  // for a slot
  absl::Time slot_since;
  absl::Time protected_until = absl::InfinitePast();  // holds its slot at least until then
  absl::Time paused_since = absl::InfiniteFuture();   // its client has not read since
  int64_t last_moved_step = -1;                       // got or lost its slot
  int64_t last_served_step = 0;                       // got rows, or its slot
  bool served_in_slot = false;                        // got rows since it got its slot
  bool hears_late = false;                            // its events go through the outbox

  // The timeline's durations, and what they are computed from.
  Timeline timeline;
  absl::Time submitted, admitted, first_token, last_token, parked_since;
  absl::Duration first_restore;

  std::vector<int32_t> generated;
  std::vector<kernels::SampledToken> prompt_logprobs;
  int64_t computed_tokens = 0;

  // Prefix cache and forks, loop_reuse.cc. Lengths are of the part of feed() that a state holds.
  // Names the state that feed() follows: empty at position 0, absent when it has no name.
  std::optional<std::string> context;
  PrefixReuse reuse;
  bool looked_up = false, fetching = false;
  std::vector<int64_t> keeps;  // ascending; those still to come
  int64_t kept = 0;            // the longest that is known to be kept
  std::vector<RequestId> forks;

  // The state that request.state_source brought; ends kLoading.
  void Deliver(SequenceState state);

  // Goes on from where `leader` is, of which it is a fork.
  void Follow(const Sequence& leader);
  // Goes on after `tokens` of feed(), whose state is `image`.
  void Reuse(int64_t tokens, StateImage image);

  // A fork that has not heard of its leader yet.
  bool waits_for_leader() const {
    return phase == Phase::kLoading && is_fork && feed_.empty() && request.state_source == nullptr;
  }

  absl::Span<const int32_t> feed() const { return feed_; }
  int64_t fed() const { return fed_; }
  int64_t prompt_begin() const { return prompt_begin_; }
  // All but the last token of the prompt are in the state.
  bool at_fork() const { return fed_ == prompt_end_ - 1; }

  // Tokens in the state.
  int64_t position() const { return start_position_ + fed_; }
  // Rows that it can feed now. A feed-only request leaves its last token pending.
  int64_t rows_left() const {
    return static_cast<int64_t>(feed_.size()) - fed_ - (request.max_tokens == 0 ? 1 : 0);
  }
  // Rows that its next chunk may have: a chunk ends where the state is to be kept or shared.
  int64_t rows_in_chunk() const {
    int64_t rows = rows_left();
    if (!keeps.empty()) rows = std::min(rows, keeps.front() - fed_);
    if (!forks.empty() && !at_fork()) rows = std::min(rows, prompt_end_ - 1 - fed_);
    return rows;
  }
  bool decoding() const { return !generated.empty(); }
  // The token that row `offset` of the next chunk feeds.
  int32_t token_to_feed(int64_t offset) const { return feed_[fed_ + offset]; }
  // The prompt token that the logits of that row predict, or -1 when it is past the prompt.
  int32_t predicted_prompt_token(int64_t offset) const;
  void MarkFed(int64_t rows);

  // What Sample needs for the token that comes `rows` after what is fed.
  kernels::SampleRequest sample_request(int64_t rows) const;
  void AppendGenerated(const kernels::SampledToken& token);

  // The state as callers keep it, without the image.
  SequenceState state_without_image() const;
  // Tokens of the request's prompt in that state.
  int64_t prompt_tokens_in_state() const;
  bool checkpoint_due() const {
    return request.checkpoint_every_tokens > 0 &&
           held() - checkpointed_ >= request.checkpoint_every_tokens;
  }
  // Tokens in that state since the last call, or since the start.
  absl::Span<const int32_t> TakeNewTokens();

 private:
  void Start(SequenceState* state);
  void Count(int32_t id, int32_t in_answer);
  // Length of the part of feed_ that the state holds, its pending token included.
  int64_t held() const { return std::min(fed_ + 1, static_cast<int64_t>(feed_.size())); }

  int64_t start_position_ = 0;
  std::vector<int32_t> feed_;
  int64_t fed_ = 0;
  int64_t prompt_begin_ = 0, prompt_end_ = 0;  // indices in feed_
  int64_t checkpointed_ = 0;                   // index in feed_ after the last checkpoint
  bool counts_tokens_ = false;
  std::vector<kernels::TokenCount> counts_;
  absl::flat_hash_map<int32_t, size_t> count_index_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_SEQUENCE_H_
