// What callers ask of the scheduler, and what they hear from it.
#ifndef REPRISE_SCHEDULER_REQUEST_H_
#define REPRISE_SCHEDULER_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "scheduler/prefix_cache/prefix_stats.h"
#include "scheduler/sequence_state.h"
#include "scheduler/state_future.h"
#include "scheduler/timeline.h"

namespace reprise::scheduler {

// A higher class gets a slot before a lower one, and takes it from a lower one; its prompt rows
// weigh more. Waiting too long overrules it (SchedulerOptions::max_wait), so that none starves.
enum class Priority : uint8_t { kLow, kNormal, kHigh };
inline constexpr int kNumPriorities = 3;

enum class FinishReason { kMaxTokens, kStopToken, kStopString, kDrained };

// A running sequence's state, handed out between two steps.
struct Checkpoint {
  // Exact, and sound: to go on from here, submit it with prompt[prompt_tokens..] and with what is
  // left of max_tokens (and with earlier_prompt and earlier_answer, if penalties are set).
  SequenceState state;
  // Tokens of Request::prompt that the state holds, its pending one included.
  int64_t prompt_tokens = 0;
  // Tokens of the sequence since the last checkpoint, or since the start: the prompt's, then those
  // that OnToken reported, up to the pending one. Valid during the call.
  absl::Span<const int32_t> new_tokens;
};

// Tokens of a request whose state did not have to be computed, beyond the state that it brought.
// With computed_tokens they are all that its sequence has consumed.
struct PrefixReuse {
  int64_t cached_tokens = 0;                // from the prefix cache
  int64_t shared_tokens = 0;                // from the request that this one is a fork of
  PrefixMiss miss = PrefixMiss::kDisabled;  // why cached_tokens is not more
};

// How a request ended.
struct RequestResult {
  // OK; CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE (SchedulerError::kDraining, kDeviceFailed),
  // INTERNAL (non-finite logits, failed forward) or what its state_source said. Without OK,
  // `reason` means nothing.
  absl::Status status;
  FinishReason reason = FinishReason::kMaxTokens;
  int32_t stop_token = -1;                             // for kStopToken
  std::vector<int32_t> generated;                      // all tokens drawn, stop token included
  std::vector<kernels::SampledToken> prompt_logprobs;  // of prompt[1..] (prompt[0..] after a state)
  int64_t computed_tokens = 0;                         // rows that went through the model
  PrefixReuse reuse;
  // Where the sequence stands, exact at its position. Present when export_state was asked for and
  // the state is sound: on OK, and on CANCELLED or DEADLINE_EXCEEDED after at least one token was
  // generated. With keep_partial also when the prompt was interrupted (CANCELLED,
  // DEADLINE_EXCEEDED, UNAVAILABLE), if a part of it was computed.
  std::optional<SequenceState> state;
  int64_t prompt_tokens_in_state = 0;  // of Request::prompt, the pending one included
  Timeline timeline;
};

// Receives one request's events, in order, on the scheduler's thread: must not block and must not
// call the scheduler (Cancel excepted). OnFinish comes exactly once and last.
class RequestObserver {
 public:
  enum class Verdict { kContinue, kStop };  // kStop: a stop string is complete

  virtual ~RequestObserver() = default;
  // Whether OnToken may say kStop; asked once, before the first event. Who never does may hear of a
  // step while the next one runs (SchedulerOptions::delivery).
  virtual bool MayStop() const { return true; }
  // False pauses the sequence (its client reads too slowly) until SchedulerThread::Wake.
  virtual bool Writable() { return true; }
  virtual Verdict OnToken(const kernels::SampledToken& token) = 0;
  // As Request::checkpoint_every_tokens asked. While decoding it follows the OnToken of the token
  // that is pending in it.
  virtual void OnCheckpoint(Checkpoint /*checkpoint*/) {}
  virtual void OnFinish(RequestResult result) = 0;
};

// Another answer to the same prompt.
struct Fork {
  kernels::SamplingParams sampling;
  std::shared_ptr<RequestObserver> observer;
  bool export_state = true;  // if the request wants it
};
inline constexpr int kMostForks = 127;
inline constexpr int kMostCacheMarks = 32;

struct Request {
  std::string tenant;
  Priority priority = Priority::kNormal;
  // Tokens to feed; with a state they follow its tokens. At least one unless the state has a
  // pending one.
  std::vector<int32_t> prompt;
  std::optional<SequenceState> state;  // where to start; absent = empty sequence
  // Instead of `state`: one that is still being loaded. The request takes its place in the queue at
  // once, starts when the state is there, and ends with the source's status if loading failed. Its
  // prompt may be empty; what is wrong with the state then shows in OnFinish.
  std::shared_ptr<StateFuture> state_source;
  // Tokens of this very request that the state already holds, for one that goes on from a
  // checkpoint: penalties count them; they are not fed.
  std::vector<int32_t> earlier_prompt, earlier_answer;
  // False: neither looks for a kept prefix nor keeps one (SchedulerOptions::prefix_cache).
  bool use_prefix_cache = true;
  // Keep the state after so many tokens of `prompt`, each 1..prompt.size().
  std::vector<int64_t> cache_marks;
  // Each is a request of its own, equal to this one but for what a Fork says; they share one
  // prefill and one state until they differ. Fork i has the id of this request + 1 + i. Want
  // max_tokens >= 1.
  std::vector<Fork> forks;
  kernels::SamplingParams sampling;
  int32_t max_tokens = 0;            // >= 0; 0 = feed only
  std::vector<int32_t> stop_tokens;  // the model's EOS is one of them unless it is ignored
  bool logprobs = false;
  int top_logprobs = 0;
  bool prompt_logprobs = false;
  bool export_state = false;
  bool keep_partial = false;  // see RequestResult::state; wants export_state
  // > 0: whenever a step leaves the sequence at least this many tokens further than the last
  // checkpoint (or the start), OnCheckpoint gets the state, in the prompt and in the answer; not
  // after the last step, whose state is in the result. 0 = never.
  int64_t checkpoint_every_tokens = 0;
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<RequestObserver> observer;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_REQUEST_H_
