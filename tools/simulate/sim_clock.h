// Simulated time.
#ifndef REPRISE_TOOLS_SIMULATE_SIM_CLOCK_H_
#define REPRISE_TOOLS_SIMULATE_SIM_CLOCK_H_

#include <cmath>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"

namespace reprise::simulate {

// Nanoseconds since the trace's start.
using SimTime = int64_t;

inline SimTime FromSeconds(double seconds) {
  return static_cast<SimTime>(std::llround(seconds * 1e9));
}

// One for all replicas of a simulation, which runs them in turn. Not thread-safe.
class SimClock final : public Clock {
 public:
  absl::Time Now() const override { return At(now_); }
  static absl::Time At(SimTime time) {
    return absl::FromUnixSeconds(1'700'000'000) + absl::Nanoseconds(time);
  }
  SimTime now() const { return now_; }
  void Set(SimTime now) { now_ = now; }
  void Advance(SimTime by) { now_ += by; }

 private:
  SimTime now_ = 0;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_SIM_CLOCK_H_
