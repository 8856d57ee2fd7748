#include "scheduler/testing/recording_observer.h"

#include <utility>

namespace reprise::scheduler {

RequestObserver::Verdict RecordingObserver::OnToken(const kernels::SampledToken& token) {
  {
    absl::MutexLock lock(&mutex_);
    sampled_.push_back(token);
  }
  return on_token ? on_token(token) : Verdict::kContinue;
}

void RecordingObserver::OnCheckpoint(Checkpoint checkpoint) {
  absl::MutexLock lock(&mutex_);
  checkpoints_.push_back({std::move(checkpoint.state),
                          checkpoint.prompt_tokens,
                          {checkpoint.new_tokens.begin(), checkpoint.new_tokens.end()},
                          sampled_.size()});
}

void RecordingObserver::OnFinish(RequestResult result) {
  absl::MutexLock lock(&mutex_);
  result_ = std::move(result);
  ++finishes_;
}

std::vector<int32_t> RecordingObserver::tokens() const {
  absl::MutexLock lock(&mutex_);
  std::vector<int32_t> ids;
  for (const kernels::SampledToken& token : sampled_) ids.push_back(token.id);
  return ids;
}

std::vector<kernels::SampledToken> RecordingObserver::sampled() const {
  absl::MutexLock lock(&mutex_);
  return sampled_;
}

std::vector<RecordingObserver::KeptCheckpoint> RecordingObserver::checkpoints() const {
  absl::MutexLock lock(&mutex_);
  return checkpoints_;
}

int RecordingObserver::finishes() const {
  absl::MutexLock lock(&mutex_);
  return finishes_;
}

RequestResult RecordingObserver::result() const {
  absl::MutexLock lock(&mutex_);
  return result_;
}

bool RecordingObserver::WaitFinished(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto finished = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return finishes_ > 0; };
  return mutex_.AwaitWithTimeout(absl::Condition(&finished), timeout);
}

}  // namespace reprise::scheduler
