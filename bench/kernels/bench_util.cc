#include "bench/kernels/bench_util.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>

namespace reprise::kernels::bench {
namespace {

using Vector = float __attribute__((vector_size(64)));

// The sum of `count` vectors (a multiple of 8) with loads as wide as the machine's.
__attribute__((target_clones("default", "avx2", "avx512f"))) float SumOf(const Vector* data,
                                                                         int64_t count) {
  Vector sum[4] = {};
  for (int64_t i = 0; i < count; i += 4) {
    for (int j = 0; j < 4; ++j) sum[j] += data[i + j];
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3]))[0];
}

double Now(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double Seconds(const std::function<void()>& fn) {
  static const clockid_t clock =
      std::getenv("REPRISE_BENCH_CPU_TIME") != nullptr ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  const double start = Now(clock);
  fn();
  return Now(clock) - start;
}

double MeasureBandwidth(int threads) {
  constexpr size_t kBytes = size_t{512} << 20;
  static const Buffer* buffer = [] {
    auto* owned = new Buffer(Buffer::Allocate(Device::kCpu, kBytes).value());
    std::memset(owned->data(), 1, kBytes);
    return owned;
  }();
  const Vector* data = static_cast<const Vector*>(buffer->data());
  std::atomic<float> sink{0.0f};
  const double best = BestSeconds(8, [&] {
    Pool(threads)->Run(kBytes / sizeof(Vector), 16384, [&](int64_t begin, int64_t end, int) {
      sink.store(SumOf(data + begin, end - begin), std::memory_order_relaxed);
    });
  });
  return kBytes / best;
}

}  // namespace

ThreadPool* Pool(int threads) {
  static auto* pools = new std::map<int, std::unique_ptr<ThreadPool>>();
  std::unique_ptr<ThreadPool>& pool = (*pools)[threads];
  if (pool == nullptr) pool = ThreadPool::Create(threads).value();
  return pool.get();
}

double ReadBandwidth(int threads) {
  static auto* known = new std::map<int, double>();
  double& bandwidth = (*known)[threads];
  bandwidth = std::max(bandwidth, MeasureBandwidth(threads));
  return bandwidth;
}

double BestSeconds(int runs, const std::function<void()>& fn) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) best = std::min(best, Seconds(fn));
  return best;
}

std::vector<float> Numbers(size_t count) {
  std::minstd_rand random(1);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
  return values;
}

std::vector<uint16_t> BF16Numbers(size_t count) {
  const std::vector<float> wide = Numbers(count);
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &wide[i], sizeof(bits));
    values[i] = static_cast<uint16_t>(bits >> 16);
  }
  return values;
}

void ReportBytes(benchmark::State& state, int threads, double bytes,
                 const std::function<void()>& fn) {
  ReadBandwidth(threads);
  fn();
  double best = std::numeric_limits<double>::infinity();
  for (auto _ : state) {
    const double seconds = Seconds(fn);
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  const double ceiling = ReadBandwidth(threads);
  state.counters["best_us"] = best * 1e6;
  state.counters["GB/s"] = bytes / best * 1e-9;
  state.counters["of_memory"] = bytes / best / ceiling;
}

}  // namespace reprise::kernels::bench
