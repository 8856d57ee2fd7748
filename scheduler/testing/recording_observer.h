// An observer that keeps what it hears.
#ifndef REPRISE_SCHEDULER_TESTING_RECORDING_OBSERVER_H_
#define REPRISE_SCHEDULER_TESTING_RECORDING_OBSERVER_H_

#include <atomic>
#include <functional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "scheduler/request.h"

namespace reprise::scheduler {

// Thread-safe. Counts OnFinish calls, so that a test sees a second one.
class RecordingObserver final : public RequestObserver {
 public:
  bool MayStop() const override { return on_token != nullptr; }
  bool Writable() override { return writable; }
  Verdict OnToken(const kernels::SampledToken& token) override;
  void OnCheckpoint(Checkpoint checkpoint) override;
  void OnFinish(RequestResult result) override;

  std::vector<int32_t> tokens() const;
  std::vector<kernels::SampledToken> sampled() const;
  struct KeptCheckpoint {
    SequenceState state;
    int64_t prompt_tokens = 0;
    std::vector<int32_t> new_tokens;
    size_t tokens_before = 0;  // that OnToken had reported
  };
  std::vector<KeptCheckpoint> checkpoints() const;
  int finishes() const;
  // Of the finished request.
  RequestResult result() const;
  // True when OnFinish came before the timeout.
  bool WaitFinished(absl::Duration timeout) const;

  std::atomic<bool> writable = true;
  // Decides the verdict when set.
  std::function<Verdict(const kernels::SampledToken&)> on_token;

 private:
  mutable absl::Mutex mutex_;
  std::vector<kernels::SampledToken> sampled_ ABSL_GUARDED_BY(mutex_);
  std::vector<KeptCheckpoint> checkpoints_ ABSL_GUARDED_BY(mutex_);
  RequestResult result_ ABSL_GUARDED_BY(mutex_);
  int finishes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_TESTING_RECORDING_OBSERVER_H_
