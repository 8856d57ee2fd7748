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
#include "kernels/sampling.h"

namespace reprise::scheduler {

// A sequence's state between two requests. The invariant that makes every continuation alike: the
// state has consumed all of the sequence's tokens but the last, which waits in `pending` and is the
// first to be fed when the sequence goes on.
struct SequenceState {
  std::vector<uint8_t> image;      // StateLayout().bytes(); empty = nothing consumed (zero state)
  int64_t position = 0;            // tokens consumed
  std::optional<int32_t> pending;  // absent only for a sequence without tokens

  int64_t token_count() const { return position + (pending.has_value() ? 1 : 0); }
};

enum class FinishReason { kMaxTokens, kStopToken, kStopString, kDrained };

// Zero where a phase did not happen. time_to_first_token counts from Submit, prefill from the slot.
struct Timeline {
  absl::Duration queue, restore, prefill, time_to_first_token, decode;
};

// How a request ended.
struct RequestResult {
  // OK; CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE (draining) or INTERNAL (non-finite logits, failed
  // forward). Without OK, `reason` means nothing.
  absl::Status status;
  FinishReason reason = FinishReason::kMaxTokens;
  int32_t stop_token = -1;                             // for kStopToken
  std::vector<int32_t> generated;                      // all tokens drawn, stop token included
  std::vector<kernels::SampledToken> prompt_logprobs;  // of prompt[1..] (prompt[0..] after a state)
  int64_t computed_tokens = 0;                         // rows that went through the model
  // Where the sequence stands; present when export_state was asked for and the state is sound: on
  // OK, and on CANCELLED or DEADLINE_EXCEEDED after at least one token was generated.
  std::optional<SequenceState> state;
  Timeline timeline;
};

// Receives one request's events, in order, on the scheduler's thread: must not block and must not
// call the scheduler (Cancel excepted). OnFinish comes exactly once and last.
class RequestObserver {
 public:
  enum class Verdict { kContinue, kStop };  // kStop: a stop string is complete

  virtual ~RequestObserver() = default;
  // False pauses the sequence (its client reads too slowly) until SchedulerThread::Wake.
  virtual bool Writable() { return true; }
  virtual Verdict OnToken(const kernels::SampledToken& token) = 0;
  virtual void OnFinish(RequestResult result) = 0;
};

struct Request {
  std::string tenant;
  // Tokens to feed; with a state they follow its tokens. At least one unless the state has a
  // pending one.
  std::vector<int32_t> prompt;
  std::optional<SequenceState> state;  // where to start; absent = empty sequence
  kernels::SamplingParams sampling;
  int32_t max_tokens = 0;            // >= 0; 0 = feed only
  std::vector<int32_t> stop_tokens;  // the model's EOS is one of them unless it is ignored
  bool logprobs = false;
  int top_logprobs = 0;
  bool prompt_logprobs = false;
  bool export_state = false;
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<RequestObserver> observer;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_REQUEST_H_
