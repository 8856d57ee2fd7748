// Snapshots and a clock for tests of whatever uses a store.
#ifndef REPRISE_STATE_STORE_TESTING_BUILDERS_H_
#define REPRISE_STATE_STORE_TESTING_BUILDERS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "state_store/session_store.h"

namespace reprise::state_store {

// Bytes that depend on the seed only.
std::string PatternBytes(uint64_t seed, size_t size);

// A snapshot of model "test-model" with parts "layers.0.rg_lru" (96 bytes) and
// "layers.1.kv_window.k" (`window_bytes`), and legs; all of it depends on the seed only, and the
// position is seed + 1.
Snapshot MakeTestSnapshot(uint64_t seed, size_t window_bytes = 2000);

// What a test compares: whether `read` holds the state that was put as `put`.
bool SameState(const Snapshot& put, const Snapshot& read);

// Thread-safe; moves only by Advance.
class FakeClock {
 public:
  absl::Time Now() const { return absl::FromUnixMicros(micros_); }
  void Advance(absl::Duration d) { micros_ += absl::ToInt64Microseconds(d); }
  std::function<absl::Time()> AsFunction() {
    return [this] { return Now(); };
  }

 private:
  std::atomic<int64_t> micros_ = 1'700'000'000'000'000;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TESTING_BUILDERS_H_
