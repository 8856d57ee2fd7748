// Window attention of a decode step (attention_step.cu): who has what part of it, and where it lies
// in shared memory.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_STEP_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_STEP_CUH_

#include "kernels/attention_step.h"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_window.cuh"

namespace reprise::kernels::cuda::window {

constexpr int kMostBlocks = 8;  // of a cluster
constexpr int kMostGroups = kMostBlocks + 1;
constexpr int kStepHeads = 16;  // of a kv head: columns of the products
constexpr int kTeam = 128;      // threads of a warpgroup

struct StepParams {
  WindowAttentionParams attention;
  RopeParams rope;
  int tiles = 0;   // pairs of a sequence and a kv head
  int blocks = 0;  // of a cluster
  float scale = 0.0f;

  __device__ __forceinline__ int PerToken() const { return attention.heads / attention.kv_heads; }
};

// A tile and the keys that its row sees, all of it known before the kernel before is over. Blocks
// and positions count from the block of the lowest key on.
struct Tile {
  bool live = false;  // not padding, nor behind the last
  int sequence = 0, kv_head = 0;
  int64_t slot = 0;
  int low = 0, start = 0;  // the lowest key, and the row's own position
  int phase = 0;           // blocks of the first group that come before
  int ring_block = 0;      // where the first block lies

  __device__ __forceinline__ Tile(const StepParams& p, int number) {
    const WindowAttentionParams& a = p.attention;
    if (number >= p.tiles) return;
    sequence = number / a.kv_heads;
    kv_head = number - sequence * a.kv_heads;
    slot = a.rows.slots[sequence];
    live = slot >= 0;
    const int64_t position = a.rows.start_positions[sequence];
    const int64_t lowest = max(position - a.window, int64_t{0});
    const uint64_t block = static_cast<uint64_t>(lowest) / kTile;
    low = static_cast<int>(lowest % kTile);
    start = static_cast<int>(position - lowest) + low;
    phase = static_cast<int>(block % kSplitBlocks);
    // block % ring_blocks in 32 bits: 34 of the block's are in use, and 14 of the other.
    constexpr uint32_t kHalf = 1 << 17;
    const auto blocks = static_cast<uint32_t>(a.ring_blocks);
    const uint32_t high = static_cast<uint32_t>(block / kHalf) % blocks;
    ring_block = (high * kHalf + static_cast<uint32_t>(block % kHalf)) % blocks;
  }

  // A group's blocks, if it has any: first is not beyond last.
  __device__ __forceinline__ int First(int group) const {
    return group == 0 ? 0 : group * kSplitBlocks - phase;
  }
  __device__ __forceinline__ int Last(int group) const {
    return min((group + 1) * kSplitBlocks - phase - 1, start / kTile);
  }
  __device__ __forceinline__ int Groups() const {
    return (phase + start / kTile) / kSplitBlocks + 1;
  }
  // Where a block of keys or values lies in a slot's ring, in rows.
  __device__ __forceinline__ int RingRow(const StepParams& p, int block) const {
    const int at = ring_block + block, blocks = p.attention.ring_blocks;
    return ((at < blocks ? at : at - blocks) * p.attention.kv_heads + kv_head) * kTile;
  }
};

// Block r of a cluster has group r, and block 0 the last group besides, of which the first is the
// rest. As that is more to do, the blocks' numbers turn from tile to tile.
struct Roles {
  int rank, blocks;
  int turn = 0;  // below `blocks`

  __device__ __forceinline__ void Next() { turn = turn + 1 == blocks ? 0 : turn + 1; }
  __device__ __forceinline__ int Own() const {
    const int own = rank + turn;
    return own < blocks ? own : own - blocks;
  }
  // Who has a group's sums, in which place.
  __device__ __forceinline__ int Place(int group) const { return group == blocks; }
  __device__ __forceinline__ int Rank(int group) const {
    const int rank = (group == blocks ? 0 : group) - turn;
    return rank < 0 ? rank + blocks : rank;
  }
};

// Calls fn(group, place) for the groups of a tile that are this block's.
template <class Fn>
__device__ __forceinline__ void ForGroups(const Tile& tile, const Roles& roles, const Fn& fn) {
  const int own = roles.Own(), groups = tile.Groups();
#pragma unroll 1
  for (int place = 0; place < 2; ++place) {
    const int group = place == 0 ? own : roles.blocks;
    if (group < groups && (place == 0 || own == 0)) fn(group, place);
  }
}

// By a team that has met: `arrive` at each block of the cluster, by as many threads of it as
// barriers expect.
constexpr int kTeamArrivals = kWarpArrivals == 1 ? 1 : kTeam;
template <typename Arrive>
__device__ __forceinline__ void ForBlocks(int blocks, const Arrive& arrive) {
  const int thread = static_cast<int>(threadIdx.x % kTeam);
  if constexpr (kTeamArrivals == 1) {
    if (thread < blocks) arrive(thread);
  } else {
    for (int block = 0; block < blocks; ++block) arrive(block);
  }
}

// Queries of two tiles, units, weights of two blocks of keys, all as products want them; scores of
// two blocks; sums and scales of two groups; the step's keys and values of two tiles; barriers.
template <int kDim>
struct StepMemory {
  using S = Shape<kDim>;
  static constexpr uint32_t kQueryPanel = kStepHeads * 128;
  static constexpr uint32_t kQueriesBytes = kDim / 64 * kQueryPanel;
  static constexpr uint32_t kWeightsBytes = kStepHeads * kTile * 2;
  // Padded, so that a warp's accesses go to different banks.
  static constexpr uint32_t kScoresStride = (kTile + 8) * 4;
  static constexpr uint32_t kSumsStride = (kDim + 4) * 4;
  static constexpr uint32_t kUnitsAt = 2 * kQueriesBytes;
  static constexpr uint32_t kWeightsAt = kUnitsAt + S::kUnits * S::kUnitBytes;
  static constexpr uint32_t kScoresAt = kWeightsAt + 2 * kWeightsBytes;
  static constexpr uint32_t kSumsAt = kScoresAt + 2 * kStepHeads * kScoresStride;
  static constexpr uint32_t kStepRowsAt = kSumsAt + 2 * kStepHeads * kSumsStride;
  static constexpr uint32_t kScalesAt = kStepRowsAt + 4 * kDim * 2;
  static constexpr uint32_t kFactorsAt = kScalesAt + 2 * kStepHeads * 8;
  static constexpr uint32_t kBarriersAt = kFactorsAt + 2 * kStepHeads * 4;
  static constexpr int kBarriers = 2 * S::kUnits + 8;
  static constexpr size_t kBytes = 1024 + size_t{kBarriersAt} + 8 * kBarriers;

  uint32_t base;  // a multiple of 1024

  __device__ __forceinline__ uint32_t Queries(uint32_t i) const { return base + i * kQueriesBytes; }
  __device__ __forceinline__ uint32_t Unit(uint32_t i) const {
    return base + kUnitsAt + i * S::kUnitBytes;
  }
  __device__ __forceinline__ uint32_t Weights(uint32_t i) const {
    return base + kWeightsAt + i * kWeightsBytes;
  }
  __device__ __forceinline__ uint32_t Score(int i, int head, int key) const {
    return base + kScoresAt + (i * kStepHeads + head) * kScoresStride + key * 4;
  }
  __device__ __forceinline__ uint32_t Sum(int place, int head, int column) const {
    return base + kSumsAt + (place * kStepHeads + head) * kSumsStride + column * 4;
  }
  __device__ __forceinline__ uint32_t Scale(int place, int head) const {
    return base + kScalesAt + (place * kStepHeads + head) * 8;
  }
  // By which sums are multiplied before the block of keys is added.
  __device__ __forceinline__ uint32_t Factor(int i, int head) const {
    return base + kFactorsAt + (i * kStepHeads + head) * 4;
  }
  // The step's key (`value` 0) or value (1).
  __device__ __forceinline__ uint32_t StepRow(int i, int value) const {
    return base + kStepRowsAt + (i * 2 + value) * (kDim * 2);
  }

  __device__ __forceinline__ uint32_t Full(uint32_t i) const { return base + kBarriersAt + i * 8; }
  __device__ __forceinline__ uint32_t Empty(uint32_t i) const { return Full(S::kUnits + i); }
  __device__ __forceinline__ uint32_t QueriesFull(uint32_t i) const {
    return Full(2 * S::kUnits + i);
  }
  __device__ __forceinline__ uint32_t WeightsFull(uint32_t i) const {
    return Full(2 * S::kUnits + 2 + i);
  }
  __device__ __forceinline__ uint32_t WeightsEmpty(uint32_t i) const {
    return Full(2 * S::kUnits + 4 + i);
  }
  // Of the sums and scales of all blocks of the cluster.
  __device__ __forceinline__ uint32_t SumsFull() const { return Full(2 * S::kUnits + 6); }
  __device__ __forceinline__ uint32_t SumsEmpty() const { return Full(2 * S::kUnits + 7); }

  // By one thread.
  __device__ __forceinline__ void InitBarriers(int blocks) const {
    constexpr int kWarps = kTeam / 32 * kWarpArrivals;
    for (int i = 0; i < S::kUnits; ++i) {
      InitBarrier(Full(i), kWarps);
      InitBarrier(Empty(i), kWarps);
    }
    for (int i = 0; i < 2; ++i) {
      InitBarrier(QueriesFull(i), kWarps);
      InitBarrier(WeightsFull(i), 2 * kWarpArrivals);
      InitBarrier(WeightsEmpty(i), kWarps);
    }
    InitBarrier(SumsFull(), 2 * kTeamArrivals * blocks);
    InitBarrier(SumsEmpty(), kTeamArrivals * blocks);
    FenceBarriers();
  }
};

}  // namespace reprise::kernels::cuda::window

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_STEP_CUH_
