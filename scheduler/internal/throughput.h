// Measured speeds, from which admission predicts.
#ifndef REPRISE_SCHEDULER_INTERNAL_THROUGHPUT_H_
#define REPRISE_SCHEDULER_INTERNAL_THROUGHPUT_H_

#include <cmath>
#include <cstdint>

#include "absl/time/time.h"

namespace reprise::scheduler {

// Events per second with a memory of about ten seconds. Not thread-safe.
class EventRate {
 public:
  void Note(absl::Time now) {
    rate_ = PerSecond(now) + 1.0 / kMemorySeconds;
    last_ = now;
  }
  double PerSecond(absl::Time now) const {
    if (rate_ == 0.0) return 0.0;
    return rate_ * std::exp(-absl::ToDoubleSeconds(now - last_) / kMemorySeconds);
  }

 private:
  static constexpr double kMemorySeconds = 10.0;
  double rate_ = 0.0;
  absl::Time last_;
};

// Prompt rows per second of a step that has plenty of them. Not thread-safe.
class PrefillSpeed {
 public:
  // A step that was not half full of prompt rows says only what the speed is at least.
  void Note(int prefill_rows, int budget, absl::Duration duration, absl::Time now) {
    const double seconds = absl::ToDoubleSeconds(duration);
    if (prefill_rows <= 0 || seconds <= 0.0) return;
    const double rate = prefill_rows / seconds;
    if (2 * prefill_rows < budget && rate <= rate_) return;
    if (2 * prefill_rows < budget && samples_ == 0) return;
    rate_ = samples_ == 0 ? rate : rate_ + kBlend * (rate - rate_);
    ++samples_;
    last_ = now;
  }
  // Zero unless several steps were measured, the last one not long ago: a refusal must not rest on
  // what may no longer be so, and where all are refused nothing is measured any more.
  double RowsPerSecond(absl::Time now) const {
    return samples_ < kEnough || now - last_ > kFresh ? 0.0 : rate_;
  }

 private:
  static constexpr double kBlend = 0.2;
  static constexpr int kEnough = 5;
  static constexpr absl::Duration kFresh = absl::Seconds(30);
  double rate_ = 0.0;
  int64_t samples_ = 0;
  absl::Time last_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_THROUGHPUT_H_
