// What the sampling kernel is made of: the order of ranks, exact weights, and sums, scans and sorts
// of a block and of a cluster of blocks.
//
// A row is sampled by one cluster. Everything that is summed over a row is an integer (counts, and
// weights in fixed point), so that no order of threads, and no number of blocks, can change a bit.
#ifndef REPRISE_KERNELS_CUDA_SAMPLING_BLOCK_CUH_
#define REPRISE_KERNELS_CUDA_SAMPLING_BLOCK_CUH_

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace reprise::kernels::cuda {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// ---- Ranks: 52 bits that ascend as a ranking does, highest logit first, lowest id among equals.

inline constexpr int kIdBits = 20;
inline constexpr uint64_t kNoRank = ~uint64_t{0};  // after all others
inline constexpr uint64_t kUnsound = 0;            // before all others: the key of no number < inf

// Descends as the number ascends; -0 is +0. Not for NaN.
__device__ __forceinline__ uint32_t KeyOf(float x) {
  const uint32_t bits = x == 0.0f ? 0u : __float_as_uint(x);
  return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}
__device__ __forceinline__ float NumberOf(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}
__device__ __forceinline__ uint64_t RankOf(float x, int id) {
  return static_cast<uint64_t>(KeyOf(x)) << kIdBits | static_cast<uint32_t>(id);
}
__device__ __forceinline__ float LogitOf(uint64_t rank) {
  return NumberOf(static_cast<uint32_t>(rank >> kIdBits));
}
__device__ __forceinline__ int IdOf(uint64_t rank) {
  return static_cast<int>(rank & ((1u << kIdBits) - 1));
}

// ---- Weights

// exp((x - max) / temperature) in units of 2^-44. Rounding of the difference and of the product is
// carried along, so that the relative error is that of expf (under 2.4e-7) down to a weight of
// 2^-21, and the absolute one 2^-45 below. A row of 2^18 weights sums to less than 2^63.
struct Weighting {
  static constexpr double kUnit = 17592186044416.0;  // 2^44

  float max, inverse, inverse_rest;

  __device__ __forceinline__ Weighting(float max_logit, float temperature) : max(max_logit) {
    const double exact = 1.0 / static_cast<double>(temperature);
    inverse = exact < FLT_MAX ? static_cast<float>(exact) : FLT_MAX;
    inverse_rest = exact < FLT_MAX ? static_cast<float>(exact - inverse) : 0.0f;
  }

  __device__ __forceinline__ uint64_t operator()(float x) const {
    const float difference = x - max;
    const float t = difference * inverse;
    if (!(t >= -32.0f)) return 0;  // under half a unit, or -inf
    // x - max = difference + rest, exactly (Knuth's sum of two).
    const float back = difference - x;
    const float rest = (x - (difference - back)) + (-max - back);
    const float error =
        fmaf(difference, inverse, -t) + fmaf(difference, inverse_rest, rest * inverse);
    const float weight = expf(t);
    return __float2ull_rn(fmaf(weight, error, weight) * static_cast<float>(kUnit));
  }
};

// ---- Operations on 64-bit integers

struct Sum {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct Min {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const {
    return a < b ? a : b;
  }
};
struct Max {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const {
    return a > b ? a : b;
  }
};

__device__ __forceinline__ int Lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int Warp() { return threadIdx.x / 32; }

template <typename Op>
__device__ __forceinline__ uint64_t WarpReduce(uint64_t value, Op op) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value = op(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

// Inclusive.
__device__ __forceinline__ uint64_t WarpScan(uint64_t value) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, value, step);
    if (Lane() >= step) value += before;
  }
  return value;
}

// Inclusive over the block's threads; all of them call. `warps`: [kSampleWarps], free again after
// the next barrier. Returns the sum of all in `total`.
__device__ __forceinline__ uint64_t BlockScan(uint64_t value, uint64_t* warps, uint64_t* total) {
  const uint64_t scanned = WarpScan(value);
  if (Lane() == 31) warps[Warp()] = scanned;
  __syncthreads();
  const uint64_t of_warps = WarpScan(warps[Lane()]);
  *total = __shfl_sync(kAllLanes, of_warps, 31);
  const uint64_t before = __shfl_sync(kAllLanes, of_warps, Warp() == 0 ? 0 : Warp() - 1);
  return Warp() == 0 ? scanned : scanned + before;
}

// Sorts values[0, count) upwards in shared memory that has room for the next power of two; all
// threads of the block call, after a barrier, and there is one at the end.
__device__ __forceinline__ void BlockSort(uint64_t* values, int count) {
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += kSampleThreads) values[i] = kNoRank;
  __syncthreads();
  for (int span = 2; span <= size; span *= 2) {
    for (int step = span / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kSampleThreads) {
        const int a = (i & ~(step - 1)) * 2 + (i & (step - 1)), b = a + step;
        const uint64_t low = values[a], high = values[b];
        if ((low > high) == ((a & span) == 0)) {
          values[a] = high;
          values[b] = low;
        }
      }
      __syncthreads();
    }
  }
}

// ---- Clusters of kBlocks blocks that run at once and reach each other's shared memory.

template <int kBlocks>
struct Cluster {
  __device__ __forceinline__ static int Rank() { return blockIdx.x % kBlocks; }

  // All threads of the cluster; what any wrote before is seen by all after.
  __device__ __forceinline__ static void Sync() {
    Arrive();
    Wait();
  }
  __device__ __forceinline__ static void Arrive() {
    if constexpr (kBlocks > 1) {
      asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    }
  }
  __device__ __forceinline__ static void Wait() {
    if constexpr (kBlocks > 1) {
      asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
    } else {
      __syncthreads();
    }
  }

  // The same place in the shared memory of block `rank`.
  template <typename T>
  __device__ __forceinline__ static T* Of(T* here, int rank) {
    if constexpr (kBlocks == 1) return here;
    uint64_t there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<uint64_t>(here)), "r"(rank));
    return reinterpret_cast<T*>(there);
  }
};

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_SAMPLING_BLOCK_CUH_
