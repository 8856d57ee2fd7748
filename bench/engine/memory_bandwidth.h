// The ceiling of decode at batch 1: how fast this machine reads memory.
#ifndef REPRISE_BENCH_ENGINE_MEMORY_BANDWIDTH_H_
#define REPRISE_BENCH_ENGINE_MEMORY_BANDWIDTH_H_

#include <cstddef>

#include "kernels/kernels.h"

namespace reprise::bench {

// Bytes per second at which the pool's threads sum a buffer of `bytes`, best of several passes. A
// buffer of the model's size, so that what caches hold of the weights, they hold of it too.
double ReadBandwidth(kernels::ThreadPool& pool, size_t bytes);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_ENGINE_MEMORY_BANDWIDTH_H_
