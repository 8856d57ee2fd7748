// What the benchmarks of kernels share: the measured ceiling of memory, and timing by the best of
// many short runs, since the machine may be shared.
#ifndef REPRISE_BENCH_KERNELS_BENCH_UTIL_H_
#define REPRISE_BENCH_KERNELS_BENCH_UTIL_H_

#include <benchmark/benchmark.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "kernels/kernels.h"

namespace reprise::kernels::bench {

// The pool of `threads` threads that all benchmarks share.
ThreadPool* Pool(int threads);

// Bytes per second that `threads` threads read from a buffer far larger than the caches: the best
// of some passes made now and of all made before in this process.
double ReadBandwidth(int threads);

// Best seconds of `runs` calls.
double BestSeconds(int runs, const std::function<void()>& fn);

// Random floats in [-1, 1), the same in every process.
std::vector<float> Numbers(size_t count);
std::vector<uint16_t> BF16Numbers(size_t count);

// Runs `fn` under Google Benchmark with manual time and reports from the best iteration: GB/s, and
// its share of ReadBandwidth(threads).
void ReportBytes(benchmark::State& state, int threads, double bytes,
                 const std::function<void()>& fn);

}  // namespace reprise::kernels::bench

#endif  // REPRISE_BENCH_KERNELS_BENCH_UTIL_H_
