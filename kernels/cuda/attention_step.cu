// Rotation and window attention of a step in which every sequence has one row, as one kernel.
//
// A cluster has one sequence and kv head, a tile, at a time, each of its blocks one group of keys
// or two. In a block one warpgroup copies keys and values, the old ones while the kernel before
// still runs; one scores and makes weights of the scores; one multiplies the values by them; and
// one rotates the next tile's queries and key, and merges: sums of groups stay in shared memory,
// where all blocks of the cluster read them, each for a part of the output.
#include <algorithm>

#include "kernels/cuda/attention_finish.cuh"
#include "kernels/cuda/attention_step.cuh"
#include "kernels/cuda/attention_step_teams.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rope.cuh"

namespace reprise::kernels::cuda {
namespace window {
namespace {

constexpr int kTeams = 4, kThreads = kTeams * kTeam;
enum Team { kScores, kValues, kMerges, kCopies };

// Rotates a tile's queries and its row's key, and keeps key and value: each of `warps` warps takes
// whole heads, of which it is number `warp`. The block that has the last group also writes key and
// value into the rings. Not inlined: what a step does once or twice costs most by the fetch of its
// code.
template <int kDim>
__device__ __noinline__ void Prepare(const StepParams& p, StepMemory<kDim> memory, Tile tile,
                                     bool keeps, int warp, int warps, int tile_place) {
  constexpr int kPieces = (kDim + 127) / 128, kAtOnce = 2;
  const WindowAttentionParams& a = p.attention;
  const int per_token = p.PerToken(), half = p.rope.rotary_dims / 2;
  Floats<4> cos[kPieces] = {}, sin[kPieces] = {};
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int element = threadIdx.x % 32 * 4 + i * 128;
    if (element < 2 * half) {
      const int angle = tile.sequence * half + element - (element < half ? 0 : half);
      cos[i] = LoadFloats<4>(p.rope.cos + angle);
      sin[i] = LoadFloats<4>(p.rope.sin + angle);
    }
  }
  const int rows = per_token + 2;  // queries, key, value
#pragma unroll 1
  for (int first = warp; first < rows; first += warps * kAtOnce) {
    Floats<4> values[kAtOnce][kPieces] = {}, others[kAtOnce][kPieces] = {};
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int row = min(first + j * warps, rows - 1);
      const int head = row < per_token ? tile.kv_head * per_token + row
                                       : a.heads + (row - per_token) * a.kv_heads + tile.kv_head;
      const float* const x = p.rope.x + tile.sequence * p.rope.x_stride + head * a.head_dim;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int element = threadIdx.x % 32 * 4 + i * 128;
        if (element < a.head_dim) values[j][i] = LoadFloats<4>(x + element);
        if (element < 2 * half) {
          others[j][i] = LoadFloats<4>(x + element + (element < half ? half : -half));
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int row = first + j * warps;
      if (row >= rows) break;
      const int value = row - per_token;  // 0: the key, 1: the value
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int element = threadIdx.x % 32 * 4 + i * 128;
        if (element >= a.head_dim) continue;
        Floats<4> out = values[j][i];
        if (value < 1 && element < 2 * half) {
          out = Turned(out, others[j][i], cos[i], sin[i], element < half);
        }
        const uint32_t low = PackBf16(out.v[0], out.v[1]), high = PackBf16(out.v[2], out.v[3]);
        if (value < 0) {
          StoreShared(memory.Queries(tile_place) +
                          ElementOffset(row, element, StepMemory<kDim>::kQueryPanel),
                      low, high);
          continue;
        }
        StoreShared(memory.StepRow(tile_place, value) + element * 2, low, high);
        if (!keeps) continue;
        BF16* const slot = value == 0 ? a.k_ring_bf16 + tile.slot * a.k_slot_stride
                                      : a.v_ring_bf16 + tile.slot * a.v_slot_stride;
        const int64_t at = tile.RingRow(p, tile.start / kTile) + tile.start % kTile;
        *reinterpret_cast<uint2*>(slot + at * a.head_dim + element) = make_uint2(low, high);
      }
    }
  }
  FenceForTensorCores();
}

// This block's part of a tile's output, from the sums of all blocks; of padding zeros.
template <int kDim>
__device__ __forceinline__ void MergeTile(const StepParams& p, const StepMemory<kDim>& memory,
                                          const Tile& tile, const Roles& roles) {
  const WindowAttentionParams& a = p.attention;
  const int per_token = p.PerToken(), groups = tile.Groups();
  BF16* const out = a.out_bf16 + int64_t{tile.sequence} * a.out_stride +
                    int64_t{tile.kv_head} * per_token * a.head_dim;
  for (int i = threadIdx.x % kTeam * p.blocks + roles.rank; i < per_token * a.head_dim / 4;
       i += kTeam * p.blocks) {
    Floats<4> total = {};
    if (tile.live) {
      const int head = i * 4 / a.head_dim, column = i * 4 - head * a.head_dim;
      float scales[kMostGroups][2], sums[kMostGroups][4], max = kMinusInfinity, sum = 0.0f;
#pragma unroll
      for (int g = 0; g < kMostGroups; ++g) {
        if (g >= groups) break;
        LoadFrom(roles.Rank(g), memory.Scale(roles.Place(g), head), scales[g]);
        LoadFrom(roles.Rank(g), memory.Sum(roles.Place(g), head, column), sums[g]);
      }
      MergeInOrder(scales, sums, 0, groups, max, sum, total);
#pragma unroll
      for (int c = 0; c < 4; ++c) total.v[c] = Quotient(total.v[c], sum);
    }
    StoreRounded<4>(out + i * 4, total);
  }
}

// grid: clusters of p.blocks blocks.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    AttentionStepKernel(const __grid_constant__ StepParams p) {
  extern __shared__ uint8_t shared[];
  const StepMemory<kDim> memory = {(SharedAddress(shared) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) memory.InitBarriers(p.blocks);
  // Rows of queries that are not written must be numbers.
  for (uint32_t at = threadIdx.x * 8; at < StepMemory<kDim>::kUnitsAt; at += kThreads * 8) {
    StoreShared(memory.base + at, 0.0f, 0.0f);
  }
  FenceForTensorCores();
  SyncCluster();
  const int clusters = gridDim.x / p.blocks;
  Roles roles = {static_cast<int>(blockIdx.x) % p.blocks, p.blocks};
  int number = blockIdx.x / p.blocks;
  const int team = __shfl_sync(~0u, threadIdx.x / kTeam, 0);
  Tile tile(p, number);
  const auto go_on = [&] {
    number += clusters;
    tile = Tile(p, number);
    roles.Next();
  };
  if (team == kCopies) {
    StepCopies<kDim> copies(p.attention, memory);
#pragma unroll 1
    for (; number < p.tiles; go_on()) {
      if (!tile.live) continue;
      ForGroups(tile, roles, [&](int group, int) { copies.Run(p, tile, group); });
    }
    LetNextStart();  // earlier, it would fetch its weights before these keys and values
    copies.Finish();
    WaitForPrevious();
    SyncCluster();
    return;
  }
  const auto prepare = [&](const Tile& of, const Roles& with, int warps, int place) {
    Prepare<kDim>(p, memory, of, with.Rank(of.Groups() - 1) == with.rank,
                  static_cast<int>(threadIdx.x / 32) % warps, warps, place);
  };
  WaitForPrevious();
  if (tile.live) prepare(tile, roles, (kTeams - 1) * kTeam / 32, 0);
  SyncSome(kPrepareBarrier, (kTeams - 1) * kTeam);
  Cursor<2> tiles;  // of queries
  Cursor<1> sums;
  const auto tell_sums = [&](int barrier) {
    SyncSome(barrier, kTeam);
    ForBlocks(p.blocks, [&](int block) { HandOver(memory.SumsFull(), block); });
    sums.Next();
    tiles.Next();
  };
  if (team == kMerges) {
    const auto tell = [&] {
      ArriveForWarp(memory.QueriesFull(tiles.place));
      tiles.Next();
    };
    if (tile.live) tell();
#pragma unroll 1
    while (number < p.tiles) {
      const Tile now = tile;
      const Roles now_roles = roles;
      go_on();
      if (tile.live) {
        prepare(tile, roles, kTeam / 32, tiles.place);
        tell();
      }
      if (now.live) TakeOver(memory.SumsFull(), sums.phase);
      MergeTile<kDim>(p, memory, now, now_roles);
      if (!now.live) continue;
      SyncSome(kMergeBarrier, kTeam);
      // What was read of other blocks has been used already: nothing is left to be released.
      ForBlocks(p.blocks, [&](int block) { ArriveAt(memory.SumsEmpty(), block); });
      sums.Next();
    }
  } else if (team == kScores) {
    ScoreTeam<kDim> scores(p, memory);
#pragma unroll 1
    for (; number < p.tiles; go_on()) {
      if (!tile.live) continue;
      Wait(memory.QueriesFull(tiles.place), tiles.phase);
      ForGroups(tile, roles, [&](int group, int place) {
        scores.Run(tile, group, tiles.place);
        TakeOver(memory.SumsEmpty(), sums.phase ^ 1);
        scores.Leave(place);
      });
      TakeOver(memory.SumsEmpty(), sums.phase ^ 1);
      tell_sums(kScoresBarrier);
    }
  } else {
    ValueTeam<kDim> values(p, memory);
#pragma unroll 1
    for (; number < p.tiles; go_on()) {
      if (!tile.live) continue;
      Wait(memory.QueriesFull(tiles.place), tiles.phase);
      ForGroups(tile, roles, [&](int group, int place) {
        values.Run(tile, group, tiles.place);
        TakeOver(memory.SumsEmpty(), sums.phase ^ 1);
        values.Leave(place);
      });
      TakeOver(memory.SumsEmpty(), sums.phase ^ 1);
      tell_sums(kValuesBarrier);
    }
  }
  SyncCluster();  // the others still read here, or come to barriers here
}

template <int kDim>
cudaError_t LaunchStep(const StepParams& p, const DeviceQueue& queue) {
  constexpr size_t kBytes = StepMemory<kDim>::kBytes;
  static_assert(kBytes <= 227 << 10);
  const auto kernel = AttentionStepKernel<kDim>;
  const cudaError_t error = AllowSharedBytes(kernel, kBytes);
  if (error != cudaSuccess) return error;
  int resident = 0;
  const cudaError_t counted = CountResidentClusters(p.blocks, kernel, kThreads, kBytes, resident);
  if (counted != cudaSuccess) return counted;
  // Where not one does, the launch says so.
  return LaunchClusters(p.blocks, kernel, std::clamp(resident, 1, p.tiles) * p.blocks, kThreads,
                        kBytes, queue, p);
}

}  // namespace
}  // namespace window

bool CanAttentionStep(const AttentionStepParams& params, const DeviceQueue& queue) {
  using namespace window;
  const WindowAttentionParams& p = params.attention;
  const RaggedRows& rows = p.rows;
  if (rows.num_rows < 1 || rows.num_seqs != rows.num_rows || rows.max_seq_rows != 1) return false;
  if (p.heads < 1 || p.kv_heads < 1 || p.window < 1) return false;
  // Then the whole form is as fast.
  if (KeepsBusy(int64_t{rows.num_rows} * p.kv_heads, queue.info().multiprocessors)) return false;
  constexpr int kMostRingBlocks = 1 << 14;
  return p.heads / p.kv_heads <= kStepHeads && MostGroups(p.window, 1) <= kMostGroups &&
         p.ring_blocks <= kMostRingBlocks && p.head_dim % 16 == 0 && p.head_dim <= 256 &&
         RotatesByFour(params.rope) && Aligned(p.k_ring_bf16, p.k_slot_stride, 16) &&
         Aligned(p.v_ring_bf16, p.v_slot_stride, 16) && Aligned(p.out_bf16, p.out_stride);
}

absl::Status AttentionStep(const AttentionStepParams& params, DeviceQueue& queue) {
  using namespace window;
  StepParams p;
  p.attention = params.attention;
  p.rope = params.rope;
  p.scale = p.attention.scale * kLog2E;
  p.tiles = p.attention.rows.num_rows * p.attention.kv_heads;
  p.blocks = static_cast<int>(MostGroups(p.attention.window, 1)) - 1;
  const int dim = p.attention.head_dim;
  return Check(dim <= 64    ? LaunchStep<64>(p, queue)
               : dim <= 128 ? LaunchStep<128>(p, queue)
                            : LaunchStep<256>(p, queue),
               "AttentionStep[rows ", p.attention.rows.num_rows, ", heads ", p.attention.heads,
               " of ", dim, ", window ", p.attention.window, "]");
}

}  // namespace reprise::kernels::cuda
