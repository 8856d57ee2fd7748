// Window attention: how the work is cut, where it lies in shared memory, and how groups of keys are
// merged. The whole is described in attention_window.cu.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_WINDOW_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_WINDOW_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/attention.h"

namespace reprise::kernels::cuda::window {

constexpr int kTile = 64;  // rows of a tile, and keys of a block
static_assert(kTile == kGridTokens);
constexpr int kGroupTokens = kSplitBlocks * kTile;
constexpr int kCopyThreads = 128;      // one warpgroup of producers
constexpr float kLog2E = 1.44269504f;  // exponentials are to base 2
constexpr float kMinusInfinity = -__builtin_huge_valf();

// Most groups that a tile of so many tokens sees: window + 1 keys and one more per further token.
inline int64_t MostGroups(int window, int64_t tokens) {
  return (window + tokens - 1 + kGroupTokens - 1) / kGroupTokens + 1;
}

// Whether there are twice as many tiles as multiprocessors, or nearly: then whole tiles leave none
// idle for long.
inline bool KeepsBusy(int64_t tiles, int multiprocessors) {
  return tiles >= int64_t{multiprocessors} * 15 / 8;
}

// kDim: head_dim rounded up to whole panels; columns beyond head_dim are zeros.
template <int kDim>
struct Shape {
  static constexpr int kTeams = kDim > 128 ? 2 : 1;  // warpgroups of consumers
  static constexpr int kTeamDims = kDim / kTeams;
  static constexpr int kSums = kTeamDims / 2;  // of one thread
  static constexpr int kThreads = kCopyThreads + 128 * kTeams;
  static constexpr int kBlocks = kTeams == 2 ? 1 : 2;  // per multiprocessor
  static constexpr uint32_t kUnitBytes = kTile * kDim * 2;
  static constexpr int kUnits = kTeams == 2 ? 5 : 4;  // blocks of keys or of values in flight
  static constexpr int kCopyRegisters = 40;
  static constexpr int kTeamRegisters = kTeams == 2 ? 232 : 216;
  // Two tiles of queries and the units, from a multiple of 1024 on, and the barriers.
  static constexpr size_t kSharedBytes = 1024 + (2 + kUnits) * size_t{kUnitBytes} + 256;
};

// Where the split form keeps its sums.
struct Partials {
  int groups = 0;            // most groups that a tile sees; 0: the whole form
  float* sums = nullptr;     // [num_rows, heads, groups, head_dim]
  float2* scales = nullptr;  // [num_rows, heads, groups]: maximum and sum of exponentials
};

struct Tiling {
  int per_sequence = 0;  // tiles of the longest sequence and one kv head
  int groups = 0;        // split form: most groups that a tile sees
  // Split form: a tile's first and last group, which are parts of one group's length, are taken
  // together.
  bool paired = false;
  int tiles = 0, units = 0;  // of work; those of all tiles' first groups come first
};

// The keys that a tile of rows sees.
struct TileKeys {
  int64_t low, first, last;  // the lowest key; positions of the first and the last row

  __device__ __forceinline__ TileKeys(const WindowAttentionParams& p, int64_t start, int begin,
                                      int end) {
    const int per_token = p.heads / p.kv_heads;
    first = start + begin / per_token;
    last = start + (end - 1) / per_token;
    low = max(first - p.window, int64_t{0});
  }
};

// A tile and the blocks of keys that it goes through. Positions are relative to `base`, the first
// of these blocks' first.
struct Task {
  int64_t first_row;  // of the sequence
  int64_t slot;
  int64_t base;
  int kv_head;
  int begin, end;  // rows of the tile among the sequence's pairs
  int group;       // split form: the group's number among those that the tile sees
  int blocks;
  int start;        // the sequence's first position in this step
  int low, high;    // keys that some row sees
  int first, last;  // positions of the tile's first and last token
};

// Of tile `number`. False where there is nothing to do.
__device__ __forceinline__ bool MakeTask(const WindowAttentionParams& p, const Tiling& tiling,
                                         int number, int group_number, Task& task) {
  task.group = group_number;
  const int tile = number % tiling.per_sequence;
  number /= tiling.per_sequence;
  task.kv_head = number % p.kv_heads;
  const int s = number / p.kv_heads;
  task.first_row = p.rows.seq_offsets[s];
  const int64_t pairs = (p.rows.seq_offsets[s + 1] - task.first_row) * (p.heads / p.kv_heads);
  task.slot = p.rows.slots[s];
  const int64_t start = p.rows.start_positions[s];
  if (task.slot < 0 || int64_t{tile} * kTile >= pairs) return false;
  task.begin = tile * kTile;
  task.end = static_cast<int>(min(pairs, int64_t{task.begin} + kTile));
  const TileKeys keys(p, start, task.begin, task.end);
  int64_t first_block = keys.low / kTile, last_block = keys.last / kTile;
  if (tiling.groups > 0) {
    const int64_t group = keys.low / kGroupTokens + task.group;
    first_block = max(first_block, group * kSplitBlocks);
    last_block = min(last_block, (group + 1) * kSplitBlocks - 1);
    if (first_block > last_block) return false;
  }
  task.base = first_block * kTile;
  task.blocks = static_cast<int>(last_block - first_block) + 1;
  task.start = static_cast<int>(start - task.base);
  task.low = static_cast<int>(max(keys.low - task.base, int64_t{0}));
  task.high = static_cast<int>(keys.last - task.base);
  task.first = static_cast<int>(keys.first - task.base);
  task.last = task.high;
  return true;
}

// Calls fn(task) for all tasks of this block, in the same order in all its threads.
template <class Fn>
__device__ __forceinline__ void ForTasks(const WindowAttentionParams& p, const Tiling& tiling,
                                         const Fn& fn) {
  bool second = false;  // of a pair
  for (int i = blockIdx.x; i < tiling.units;) {
    int group = i / tiling.tiles;
    const int tile = i - group * tiling.tiles;
    const bool again = tiling.paired && group == 0 && !second;
    if (second) group = tiling.groups - 1;
    Task task;
    if (MakeTask(p, tiling, tile, group, task)) fn(task);
    if (!again) i += gridDim.x;
    second = again;
  }
}

// Shared memory: tiles of queries, units, barriers.
template <int kDim>
struct Memory {
  using S = Shape<kDim>;
  uint32_t base;
  __device__ __forceinline__ uint32_t Queries(uint32_t i) const { return base + i * S::kUnitBytes; }
  __device__ __forceinline__ uint32_t Unit(uint32_t i) const {
    return base + (2 + i) * S::kUnitBytes;
  }
  __device__ __forceinline__ uint32_t Barriers() const { return Unit(S::kUnits); }
  __device__ __forceinline__ uint32_t Full(uint32_t i) const { return Barriers() + i * 8; }
  __device__ __forceinline__ uint32_t Empty(uint32_t i) const {
    return Barriers() + (S::kUnits + i) * 8;
  }
  __device__ __forceinline__ uint32_t QueriesEmpty(uint32_t i) const {
    return Barriers() + (2 * S::kUnits + i) * 8;
  }
};

// Goes round a ring of kCount places.
template <int kCount>
struct Cursor {
  uint32_t place = 0, phase = 0;
  __device__ __forceinline__ void Next() {
    if (++place < kCount) return;
    place = 0;
    phase ^= 1;
  }
};

// 2^x, 2 ulp, exactly 1 at 0: exponentials are taken to base 2, the scale of the scores includes
// log2 e.
__device__ __forceinline__ float Exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// Sum over the four threads that share a row of a product.
__device__ __forceinline__ float RowSum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}
__device__ __forceinline__ float RowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// What exponentials of a row are taken relative to; any number serves where it saw nothing yet.
__device__ __forceinline__ float Reference(float max) { return max == kMinusInfinity ? 0.0f : max; }

// Factors by which what was merged so far, and what is merged into it, are multiplied.
struct MergeFactors {
  float old, fresh;
};

// Merges a group's maximum and sum into the running ones.
__device__ __forceinline__ MergeFactors MergeScales(float group_max, float group_sum, float& max,
                                                    float& sum) {
  const float top = fmaxf(max, group_max), reference = Reference(top);
  const MergeFactors factors = {Exp2(max - reference), Exp2(group_max - reference)};
  sum = fmaf(sum, factors.old, group_sum * factors.fresh);
  max = top;
  return factors;
}

__device__ __forceinline__ float Merge(const MergeFactors& factors, float fresh, float old) {
  return fmaf(old, factors.old, fresh * factors.fresh);
}

// The zero keeps -0, which depends on how often a vanishing sum was rescaled, out of the result.
__device__ __forceinline__ float Quotient(float sum, float weight) { return sum / weight + 0.0f; }

}  // namespace reprise::kernels::cuda::window

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_WINDOW_CUH_
