// Benchmarks of the Redis store. Each prints one table of Markdown; main.cc has the flags.
#ifndef REPRISE_BENCH_STATE_STORE_BENCH_H_
#define REPRISE_BENCH_STATE_STORE_BENCH_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/must.h"
#include "state_store/redis/redis_store.h"

namespace reprise::state_store::redis::bench {

using reprise::bench::Must;

template <typename F>
double Seconds(const F& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

inline double Percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(p * values.size()))];
}

// Bytes that neither compress nor repeat; the same for the same seed.
void FillRandom(uint64_t seed, std::string& bytes);

// A snapshot with the parts of a state of `bytes` bytes: half of them recurrent, half a window.
Snapshot MakeState(uint64_t seed, size_t bytes);

std::unique_ptr<RedisStore> Open(const std::string& url, uint32_t chunk_bytes);

// Snapshot and resume beside raw SET and GET of the same bytes by plain hiredis, turn by turn, and
// forks. `unix_path` and `port` are of one server.
void RunTransfer(const std::string& unix_path, uint16_t port, int repetitions, uint32_t chunk_bytes,
                 size_t only_bytes);
// What sessions cost that nobody talks to.
void RunIdle(const std::string& url, int sessions);
// Bytes stored for successive turns and forks of one session.
void RunSharing(const std::string& url, uint32_t chunk_bytes);

}  // namespace reprise::state_store::redis::bench

#endif  // REPRISE_BENCH_STATE_STORE_BENCH_H_
