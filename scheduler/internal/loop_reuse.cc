#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "scheduler/internal/loop.h"

namespace reprise::scheduler {

bool Loop::UsesCache(const Sequence& sequence) const {
  return cache_ != nullptr && sequence.request.use_prefix_cache && sequence.context.has_value();
}

PrefixScope Loop::ScopeOf(const Sequence& sequence) const {
  return {sequence.request.tenant, model_name_, *sequence.context};
}

// The longest prefix that leaves at least one row to compute: the one whose logits are wanted, or,
// of a request that only feeds, any.
int64_t Loop::MostReused(const Sequence& sequence) {
  return static_cast<int64_t>(sequence.feed().size()) - (sequence.request.max_tokens == 0 ? 2 : 1);
}

// True when the sequence now waits for a state from the spill.
bool Loop::FetchPrefix(Sequence& sequence) {
  if (!UsesCache(sequence) || !cache_->has_spill() || sequence.looked_up || sequence.fetching ||
      sequence.request.prompt_logprobs) {
    return false;
  }
  sequence.fetching = true;  // once
  const PrefixScope scope = ScopeOf(sequence);
  const int64_t most = MostReused(sequence);
  const auto image_bytes = static_cast<int64_t>(model_->state_layout().bytes());
  const auto arrived = [id = sequence.id, arrivals = arrivals_] { arrivals->Add(id); };
  const Phase before = std::exchange(sequence.phase, Phase::kLoading);
  if (cache_->FetchLongest(scope, sequence.feed(), most, image_bytes, arrived)) return true;
  sequence.phase = before;
  if (cache_->shares()) return false;
  // Another replica may have spilled at a mark: callers set the same ones everywhere.
  int64_t tokens = 0;
  for (int64_t mark : sequence.request.cache_marks) {
    const int64_t length = sequence.prompt_begin() + mark;
    if (length <= most) tokens = std::max(tokens, length);
  }
  const absl::Span<const int32_t> path = sequence.feed().first(tokens);
  if (tokens == 0 || cache_->Touch(scope, path)) return false;
  sequence.phase = Phase::kLoading;
  cache_->Fetch(scope, {path.begin(), path.end()}, image_bytes,
                [arrived](const absl::StatusOr<StateImage>&) { arrived(); });
  return true;
}

// Before the sequence's first slot: what it need not compute, and where it will leave states.
void Loop::FindPrefix(Sequence& sequence) {
  if (std::exchange(sequence.looked_up, true) || !UsesCache(sequence)) return;
  KeepInput input;
  input.length = static_cast<int64_t>(sequence.feed().size());
  input.longest = input.length - (sequence.request.max_tokens == 0 ? 1 : 0);
  if (sequence.request.prompt_logprobs) {
    sequence.reuse.miss = PrefixMiss::kEveryRow;
  } else {
    PrefixMatch match = cache_->Lookup(ScopeOf(sequence), sequence.feed(), MostReused(sequence));
    sequence.reuse.miss = match.miss;
    input.known = match.known;
    if (match.tokens > sequence.fed()) {
      const int64_t saved = match.tokens - sequence.fed();
      sequence.reuse.cached_tokens += saved;
      counts_.cached_tokens += saved;
      sequence.Reuse(match.tokens, std::move(match.image));
      sequence.ticket.Fed(saved);
    }
  }
  input.reused = sequence.kept = sequence.fed();
  std::vector<int64_t> marks;
  for (int64_t mark : sequence.request.cache_marks) marks.push_back(sequence.prompt_begin() + mark);
  input.marks = marks;
  sequence.keeps = PlanKeeps(input, options_.keep_policy);
}

// After a step: keeps the state if it is one that was planned.
void Loop::KeepPrefix(Sequence& sequence) {
  if (sequence.keeps.empty() || sequence.keeps.front() > sequence.fed()) return;
  sequence.keeps.erase(sequence.keeps.begin());
  GivePrefix(sequence, nullptr);
}

// At the end of a request: the state after its answer, if it was worth computing.
void Loop::KeepLastPrefix(Sequence& sequence, const RequestResult& result) {
  const absl::Status& status = result.status;
  if (sequence.phase != Phase::kRunning || !UsesCache(sequence) ||
      sequence.fed() - sequence.kept < options_.keep_policy.min_tokens ||
      !(status.ok() || absl::IsCancelled(status) || absl::IsDeadlineExceeded(status))) {
    return;
  }
  StateImage image;
  if (result.state.has_value()) {
    image = std::make_shared<const Bytes>(result.state->image);
  }
  GivePrefix(sequence, std::move(image));
}

// A null image is exported first, unless the cache has it already. No request fails for a state
// that could not be kept.
void Loop::GivePrefix(Sequence& sequence, StateImage image) {
  const absl::Span<const int32_t> path = sequence.feed().first(sequence.fed());
  sequence.kept = sequence.fed();
  if (cache_->Touch(ScopeOf(sequence), path)) return;
  if (image != nullptr) {
    counts_.kept_prefixes += cache_->Insert(ScopeOf(sequence), path, std::move(image));
    return;
  }
  const absl::Time begin = clock_->Now();
  (void)mover_.BeginCopy(sequence, [this, scope = ScopeOf(sequence),
                                    tokens = std::vector<int32_t>(path.begin(), path.end())](
                                       absl::StatusOr<SequenceState> state) {
    if (!state.ok()) return;
    counts_.kept_prefixes +=
        cache_->Insert(scope, tokens, std::make_shared<const Bytes>(std::move(state->image)));
  });
  sequence.timeline.snapshot += clock_->Now() - begin;
}

// Its logits were not finite: what was kept on the way may be as bad.
void Loop::DropPrefixes(const Sequence& sequence) {
  if (UsesCache(sequence)) {
    cache_->Erase(ScopeOf(sequence), sequence.feed().first(sequence.fed()));
  }
}

// A sequence's state as something to share; null at position 0.
absl::StatusOr<StateImage> Loop::ShareState(const Sequence& sequence) {
  if (sequence.position() == 0) return nullptr;
  if (sequence.slot.valid()) {
    ASSIGN_OR_RETURN(SequenceState state, mover_.Copy(sequence));
    return std::make_shared<const Bytes>(std::move(state.image));
  }
  if (sequence.shared_image != nullptr) return sequence.shared_image;
  RETURN_IF_ERROR(sequence.lost);
  return std::make_shared<const Bytes>(sequence.image);
}

void Loop::BeginAsFork(Sequence& fork, const Sequence& leader) {
  fork.Follow(leader);
  fork.timeline.load = now_ - fork.submitted;
  fork.phase = Phase::kQueued;
  fork.waiting_since = now_;
  fork.place = next_place_++;  // with the time: a line of the queue is in the order of both
}

// The leader, in its slot, is at the last token of the prompt: from here each goes its own way.
// Free slots that nobody waits for are filled by copies in place; for the others the state is
// exported once.
void Loop::ReleaseForks(Sequence& leader) {
  if (leader.forks.empty() || !leader.at_fork()) return;
  std::optional<absl::StatusOr<StateImage>> shared;
  for (RequestId id : std::exchange(leader.forks, {})) {
    const auto entry = sequences_.find(id);
    if (entry == sequences_.end() || entry->second->phase != Phase::kLoading) continue;
    Sequence& fork = *entry->second;
    BeginAsFork(fork, leader);
    fork.looked_up = true;
    counts_.shared_tokens += fork.fed();
    const bool enters = mover_.free_slots() > 0 && queue_.size() == 0;
    queue_.Push(&fork);
    if (enters) {
      EnterSlot(fork, false, &leader);
      continue;
    }
    if (!shared.has_value()) shared = ShareState(leader);
    if (shared->ok()) {
      fork.shared_image = **shared;
    } else {
      FinishUnsound(fork, shared->status());
    }
  }
}

// The leader ends before it came to the last token of the prompt: the first of its forks goes on in
// its place, from where it is. If there is no state to go on from, or it is not sound, nobody can.
void Loop::PassOnForks(Sequence& leader, const absl::Status& status) {
  if (leader.forks.empty()) return;
  std::vector<RequestId> forks = std::exchange(leader.forks, {});
  const bool at_source = leader.phase == Phase::kLoading && leader.feed().empty();
  const bool interrupted = status.ok() || absl::IsCancelled(status) ||
                           absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status);
  const bool goes_on = interrupted && !(at_source && leader.request.state_source == nullptr);
  while (!forks.empty()) {
    const auto entry = sequences_.find(forks.front());
    forks.erase(forks.begin());
    if (entry == sequences_.end() || entry->second->phase != Phase::kLoading) continue;
    Sequence& heir = *entry->second;
    if (!goes_on) {
      FinishUnsound(heir, status);
      continue;
    }
    heir.forks = std::move(forks);
    if (at_source) {
      heir.request.state_source = std::move(leader.request.state_source);
      heir.request.state_source->NotifyWhenReady(
          [id = heir.id, arrivals = arrivals_] { arrivals->Add(id); });
      return;
    }
    absl::StatusOr<StateImage> state = ShareState(leader);
    if (!state.ok()) {
      FinishUnsound(heir, state.status());  // and with it the rest
      return;
    }
    BeginAsFork(heir, leader);
    heir.shared_image = *std::move(state);
    BeginWaiting(heir);
    return;
  }
}

}  // namespace reprise::scheduler
