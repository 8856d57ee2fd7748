// One answer of a Generate call: makes events of its tokens, and keeps them until they are written.
#ifndef REPRISE_SERVICE_CHOICE_H_
#define REPRISE_SERVICE_CHOICE_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "models/tokenizer/tokenizer.h"
#include "reprise/v1/generation.pb.h"
#include "scheduler/request.h"
#include "service/token_stream.h"

namespace reprise::service {

class Choice;

// What a choice tells its call, on the scheduler's thread.
class ChoiceOwner {
 public:
  virtual ~ChoiceOwner() = default;
  // False holds the sequence up, for a reason other than its reader.
  virtual bool MayGoOn() = 0;
  // Its reader has not read for too long; once.
  virtual void OnStalled() = 0;
  // One token more, and maybe an event to take.
  virtual void OnToken() = 0;
  virtual void OnCheckpoint(Choice& choice, scheduler::Checkpoint checkpoint) = 0;
  virtual void OnEnd(Choice& choice, scheduler::RequestResult result) = 0;
};

// The seed of choice `index` of a request with `seed`; see GenerateRequest.n.
uint64_t ChoiceSeed(uint64_t seed, int index);

// The scheduler's calls come on its thread, the others on any; TakeEvent and what follows it are
// thread-safe, the rest belongs to whoever has the sequence.
class Choice final : public scheduler::RequestObserver {
 public:
  struct Options {
    int number = 0;  // of the request's answers; its index on the wire unless it is renumbered
    uint64_t seed = 0;
    // Tokens that may wait for the reader, > 0. Without `paced` they wait however many they are, in
    // events of that size.
    int max_unwritten_tokens = 64;
    bool paced = true;
    absl::Duration stall = absl::InfiniteDuration();
    bool keep_generated = false;  // for checkpoints
    TokenStream::Options stream;
  };
  // All are borrowed; the tokenizer may be null.
  Choice(ChoiceOwner* owner, const Clock* clock, const models::Tokenizer* tokenizer,
         Options options);

  int number() const { return options_.number; }
  uint64_t seed() const { return options_.seed; }

  // Before the sequence starts. Goes on in the middle of a character.
  absl::Status Resume(const std::string& detokenizer_state) {
    return stream_.Resume(detokenizer_state);
  }
  // Before the sequence starts: what an earlier try generated goes out first.
  void Replay(const std::vector<int32_t>& generated);
  int64_t replayed_tokens() const { return replayed_tokens_; }

  // scheduler::RequestObserver
  bool MayStop() const override { return may_stop_; }
  bool Writable() override;
  Verdict OnToken(const kernels::SampledToken& token) override;
  void OnCheckpoint(scheduler::Checkpoint checkpoint) override;
  void OnFinish(scheduler::RequestResult result) override;

  const std::vector<int32_t>& generated() const { return generated_; }  // keep_generated
  const std::string& stop_string() const { return stream_.stop_string(); }
  const std::string& detokenizer() const { return stream_.state(); }
  // The text that is left at the end. Once.
  std::string Flush() { return stream_.Finish(); }
  // Meaningful when log-probabilities were asked for; of no token, the lowest number there is.
  double mean_logprob() const;

  // The last event.
  void Close(v1::Finished finished);

  // The next event to write, if any; NoteWritten must follow before the next TakeEvent.
  std::optional<v1::GenerateResponse> TakeEvent();
  bool HasEvent() const;
  // True when the sequence waits for it.
  bool NoteWritten();
  // Some of the call's events were written: its reader reads.
  void NoteProgress();
  // Its index on the wire, in events that are taken from now on.
  void Renumber(int index);
  // Nothing can be written any more: events are dropped.
  void Break();

 private:
  struct Event {
    v1::GenerateResponse message;
    int tokens = 0;
    bool open = false;  // more tokens may join
  };

  Event& OpenEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  ChoiceOwner* const owner_;
  const Clock* const clock_;
  const Options options_;
  const bool may_stop_;
  TokenStream stream_;
  std::vector<int32_t> generated_;
  int64_t replayed_tokens_ = 0;
  double logprob_sum_ = 0;
  int64_t scored_tokens_ = 0;

  mutable absl::Mutex mutex_;
  int index_ ABSL_GUARDED_BY(mutex_);
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);
  int pending_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // in events_
  int written_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // in the event that is being written
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;  // the scheduler was told to wait
  absl::Time paused_since_ ABSL_GUARDED_BY(mutex_);
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_CHOICE_H_
