// Numbers that the blocks of one kernel give each other, by way of DeviceQueue::exchange(). Words
// are ones until a number is there, so that whoever waits for a number looks at nothing else: no
// counter, and no fence, which would wait for all that its multiprocessor has asked for. NaNs that
// are ones become others.
//
// Numbers with one reader are taken: ones again. Those with many lie in one of two sets. Launches
// use them in turns, and each makes ones of what the launch before has used.
#ifndef REPRISE_KERNELS_CUDA_EXCHANGE_CUH_
#define REPRISE_KERNELS_CUDA_EXCHANGE_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/device_queue.h"

namespace reprise::kernels::cuda {

constexpr size_t kExchangeSetBytes = DeviceQueue::kExchangeBytes / 4;
// What lies before the two sets is for numbers with one reader.
constexpr size_t kExchangeTakenBytes = DeviceQueue::kExchangeBytes - 2 * kExchangeSetBytes;

struct Exchange {
  struct State {
    uint32_t launches;
    uint32_t used[2];  // 16 bytes each, of the sets
    uint32_t ended;    // blocks of this launch
  };
  static_assert(sizeof(State) <= sizeof(uint32_t) * DeviceQueue::kExchangeState);

  State* state = nullptr;
  char* sets = nullptr;
  uint32_t uses = 0;  // of its set, by this launch

  // After WaitForPrevious: this launch's set.
  __device__ int Set() const { return static_cast<int>(__ldcg(&state->launches) % 2); }
  // By one warp of each block: what the launch before has used.
  __device__ void ClearOther() const {
    const int other = Set() ^ 1;
    const uint32_t count = __ldcg(&state->used[other]);
    auto* const words = reinterpret_cast<uint4*>(sets + other * kExchangeSetBytes);
    for (uint32_t i = blockIdx.x * 32 + threadIdx.x % 32; i < count; i += gridDim.x * 32) {
      words[i] = make_uint4(kOnes, kOnes, kOnes, kOnes);
    }
  }
  // By one thread of each block, when all of the block have done their work.
  __device__ void End() const {
    if (atomicAdd(&state->ended, 1) + 1 != gridDim.x) return;
    const int set = Set();
    state->used[set] = uses;
    state->used[set ^ 1] = 0;
    state->ended = 0;
    ++state->launches;
  }

  static constexpr uint32_t kOnes = 0xffffffff;
};

// Until is_there(). A minute without progress is an error that ends the process's use of the
// device.
template <typename IsThere>
__device__ __forceinline__ void Await(const IsThere& is_there) {
  if (is_there()) return;
  constexpr uint64_t kMinute = uint64_t{60} * 1000 * 1000 * 1000;
  const auto now = [] {
    uint64_t nanoseconds;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
    return nanoseconds;
  };
  const uint64_t begin = now();
  for (uint32_t tries = 1; !is_there(); ++tries) {
    if (tries % 65536 == 0 && now() - begin > kMinute) __trap();
  }
}

__device__ __forceinline__ void LoadRelaxed(const void* from, uint32_t (&words)[4]) {
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "l"(from)
               : "memory");
}
__device__ __forceinline__ bool AllThere(const uint32_t (&words)[4]) {
  constexpr uint32_t kOnes = Exchange::kOnes;
  return words[0] != kOnes && words[1] != kOnes && words[2] != kOnes && words[3] != kOnes;
}

// Four numbers to one other thread.
__device__ __forceinline__ void Give(uint4* to, const float* four) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = __float_as_uint(four[i]);
    if (words[i] == Exchange::kOnes) words[i] = 0x7fffffff;
  }
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}
// Takes from `count` places, `stride` apart.
template <int kMost>
__device__ __forceinline__ void Take(uint4* from, int count, int stride, float (&fours)[kMost][4]) {
  uint32_t words[kMost][4];
  Await([&] {
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i < count) LoadRelaxed(from + i * stride, words[i]);
    }
    bool there = true;
#pragma unroll
    for (int i = 0; i < kMost; ++i) there = there && (i >= count || AllThere(words[i]));
    return there;
  });
  constexpr uint32_t kOnes = Exchange::kOnes;
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    if (i >= count) break;
    __stcg(from + i * stride, make_uint4(kOnes, kOnes, kOnes, kOnes));
#pragma unroll
    for (int c = 0; c < 4; ++c) fours[i][c] = __uint_as_float(words[i][c]);
  }
}

// By a warp: until `count` words, `stride` apart, are there.
__device__ __forceinline__ void AwaitWords(const void* from, int count, int stride = 1) {
  constexpr int kAtOnce = 10;
  const auto* const words = static_cast<const uint32_t*>(from);
  for (int first = static_cast<int>(threadIdx.x % 32); first < count; first += 32 * kAtOnce) {
    Await([&] {
      uint32_t found[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = first + 32 * i;
        if (at >= count) break;
        asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                     : "=r"(found[i])
                     : "l"(words + int64_t{at} * stride)
                     : "memory");
      }
      bool there = true;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) there = there && found[i] != Exchange::kOnes;
      return there;
    });
  }
  __syncwarp();
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_EXCHANGE_CUH_
