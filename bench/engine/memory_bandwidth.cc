#include "bench/engine/memory_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/time/clock.h"

namespace reprise::bench {

double ReadBandwidth(kernels::ThreadPool& pool, size_t bytes) {
  const int64_t words = static_cast<int64_t>(bytes / sizeof(uint64_t));
  std::vector<uint64_t> buffer(words, 1);
  std::atomic<uint64_t> sink = 0;
  double best = 0;
  for (int pass = 0; pass < 12; ++pass) {
    const absl::Time begin = absl::Now();
    const int64_t share = (words / pool.size() + 7) / 8 * 8 + 8;
    pool.Run(words, share, [&](int64_t from, int64_t to, int) {
      // Eight sums, so that the loop waits for memory and not for the additions.
      uint64_t sums[8] = {};
      int64_t i = from;
      for (; i + 8 <= to; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += buffer[i + j];
      }
      uint64_t total = 0;
      for (; i < to; ++i) total += buffer[i];
      for (uint64_t sum : sums) total += sum;
      sink += total;
    });
    best = std::max(best, words * sizeof(uint64_t) / absl::ToDoubleSeconds(absl::Now() - begin));
  }
  return sink == 0 ? 0 : best;
}

}  // namespace reprise::bench
