// Products: the shapes of their kernel, how it deals out its work, and the warps that fetch
// (matmul_tile.cu).
#ifndef REPRISE_KERNELS_CUDA_MATMUL_TILE_CUH_
#define REPRISE_KERNELS_CUDA_MATMUL_TILE_CUH_

#include <cuda.h>

#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/tensor_core.cuh"

namespace reprise::kernels::cuda::tile {

constexpr int kGroupOutputs = 64;  // of one warpgroup
constexpr int kGroupTiles = kGroupOutputs / kTileOutputs;
// Results are turned around in shared memory: 4 words of padding put a warp's stores into 32
// different banks.
constexpr int kPieceStride = kGroupOutputs + 4;
constexpr int kElement = 8;  // bytes of an element of the weights' tensor map

// How the blocks of a cluster share a product.
enum class Sharing {
  kNone,      // clusters of one
  kX,         // neighbours in outputs fetch their rows of x together, two of them
  kSegments,  // each sums one segment of the same tile
};

// kRows of x by 64 kGroups_ outputs.
template <int kRows_, int kGroups_, Sharing kSharing_, bool kGated_, bool kE4m3_>
struct Shape {
  static constexpr int kRows = kRows_, kGroups = kGroups_;
  static constexpr bool kGated = kGated_, kE4m3 = kE4m3_;
  static constexpr Sharing kSharing = kSharing_;
  static constexpr bool kSplit = kSharing == Sharing::kSegments;
  static_assert(!(kSplit && kGated));
  static constexpr int kXBlocks = kSharing == Sharing::kX ? 2 : 1;  // that fetch x together
  static constexpr int kTiles = kGroups * kGroupTiles;
  static constexpr int kMultiplying = kGroups * 128;  // threads
  // Narrow tiles leave room for a second block; wide ones fetch as far ahead as there is room for.
  static constexpr int kBlocks = kGroups == 1 && kSplit ? 2 : 1;
  // Two warpgroups that have a multiprocessor to themselves take registers from the fetching warps,
  // which must be a whole warpgroup then: threads start with 168, and have these.
  static constexpr bool kTakeRegisters = kGroups == 2;
  static constexpr int kThreads = kMultiplying + (kTakeRegisters ? 128 : 96);
  static constexpr int kRegisters = 232, kFetchRegisters = 40;
  static constexpr int kFactorWarps = (kThreads - kMultiplying) / 32 - 2;

  // A stage is one chunk of inputs.
  static constexpr int kChunk = ChunkBytes(kE4m3);
  static constexpr int kWeightBytes = kTiles * kChunk;
  static constexpr int kXBytes = kRows * kChunkInputs * 2;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kPieceRows = kBlocks == 2 ? 16 : 32;  // rows that are turned at a time
  // Sums of segments lie in the ring when it is done.
  static constexpr int kPieceBytes = kSplit ? 0 : kGroups * kPieceRows * kPieceStride * 4;
  static constexpr int kMostBytes = (kBlocks == 2 ? 113 << 10 : 227 << 10) - kPieceBytes - 2048;
  static constexpr int kStages = std::min(kMostBytes / kStageBytes, 18);
  // 1 KiB to align the ring.
  static constexpr int kBarriers = 2 * kStages + 4;
  static constexpr int kSharedBytes =
      1024 + kStages * kStageBytes + kPieceBytes + 8 * kBarriers + 8 * kRows;
  static constexpr int kSumsStride = kGroups * kGroupOutputs + 4;  // padded like pieces
  static_assert(!kSplit || kRows * kSumsStride * 4 <= kStages * kStageBytes);
};

// Where sums go.
struct MatMulOutput {
  int rows = 0;
  int n = 0;  // sums per block
  int64_t stride = 0;
  const float* scales = nullptr;  // of e4m3 weights: sums are multiplied by them first
  const float* bias = nullptr;
  Activation activation = Activation::kGeluTanh;
  float softcap = 0.0f;  // not of split tiles
  float* out = nullptr;
  __nv_bfloat16* out_bf16 = nullptr;
  ResidualStream residual;  // of split tiles
  bool vectors = false;     // rows are aligned for 4 results, and their number is too
};

struct TileParams {
  PackedLayout layout;
  int x_blocks = 0;
  int64_t x_block_stride = 0;
  int sharing = 1;       // blocks of the grid that fetch x together
  int output_tiles = 0;  // of the kernel's size times sharing, per block of the matrix
  int output_count = 0;  // all blocks
  int row_tiles = 0;
  bool rows_first = false;  // neighbouring work shares weights rather than x
  bool split = false;
  int k = 0;
  RowNorm norm;
  MatMulOutput output;
  NextStart next_start = NextStart::kEarly;

  __device__ int Tiles() const { return output_count * row_tiles; }
};

// The tiles and segments of one block of the grid, in the same order for all its warps.
class Work {
 public:
  __device__ explicit Work(const TileParams& p) : p_(p) {
    next_ = blockIdx.x / (p.split ? p.layout.segments : p.sharing);
    end_ = p.split ? next_ + 1 : p.Tiles();
  }
  // Moves to the next tile, of which the segments [begin, end) are this block's.
  __device__ bool Next() {
    if (next_ >= end_) return false;
    begin = 0;
    end = p_.layout.segments;
    const int tile = next_;
    if (p_.split) {
      begin = static_cast<int>(blockIdx.x) % end;
      end = begin + 1;
      ++next_;
    } else {
      next_ += static_cast<int>(gridDim.x) / p_.sharing;
    }
    const int outputs = p_.rows_first ? tile / p_.row_tiles : tile % p_.output_count;
    row_tile = p_.rows_first ? tile % p_.row_tiles : tile / p_.output_count;
    block = outputs / p_.output_tiles;
    output_tile = outputs % p_.output_tiles * p_.sharing + blockIdx.x % p_.sharing;
    return true;
  }

  int begin = 0, end = 0;
  int block = 0, output_tile = 0, row_tile = 0;

 private:
  const TileParams& p_;
  int next_, end_;
};

// Goes through the stages of a block's work: one chunk of each tile, and where it lies in the
// tensor maps.
template <typename S>
class Stages {
 public:
  static constexpr int kPartRows = S::kRows / S::kXBlocks;  // that this block fetches

  __device__ explicit Stages(const TileParams& p) : p_(p), work_(p) {}
  __device__ __forceinline__ bool Next() {
    if (++chunk < end_) return true;
    return NextRun();
  }

  int chunk = 0;
  int weight_tile = 0, x_block = 0, row = 0;

 private:
  __device__ bool NextRun() {
    if (!work_.Next()) return false;
    chunk = work_.begin * p_.layout.segment_chunks;
    end_ = min(work_.end * p_.layout.segment_chunks, p_.layout.chunks);
    weight_tile = work_.block * p_.layout.tiles + work_.output_tile * S::kTiles;
    x_block = work_.block % p_.x_blocks;
    row = work_.row_tile * S::kRows + static_cast<int>(blockIdx.x % S::kXBlocks) * kPartRows;
    return true;
  }

  const TileParams& p_;
  Work work_;
  int end_ = 0;
};

// The same in all lanes, and known as such to the compiler; not to be computed again.
__device__ __forceinline__ uint32_t Uniform(uint32_t value) {
  return __shfl_sync(0xffffffff, value, 0);
}

// Two warps fetch, one the weights, one x: a stage costs as much of one thread's time as of the
// tensor cores'. All lanes do the same, which keeps what the copy engine is told in registers of
// the warp, and one lane tells it.
template <typename S>
__device__ __forceinline__ void FetchWeights(const TileParams& p, const CUtensorMap* map,
                                             uint32_t ring, uint32_t full, uint32_t empty) {
  const bool one = threadIdx.x % 32 == 0;
  if (one) PrefetchTensorMap(map);
  __syncwarp();
  int stage = 0;
  uint32_t parity = 1;  // the phase before the first counts as over
  for (Stages<S> at(p); at.Next();) {
    Wait(empty + stage * 8, parity);
    const uint32_t target = ring + stage * S::kStageBytes, barrier = full + stage * 8;
    const int element = at.chunk * (S::kChunk / kElement);
    if (one) {
      ArriveAndExpect(barrier, S::kWeightBytes);
      TensorLoad(target, map, element, at.weight_tile, barrier);
    }
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  if (p.next_start == NextStart::kLate) LetNextStart();
  __syncwarp();
  WaitForPrevious();
}

// Unlike weights, x is what the kernel before has made.
template <typename S>
__device__ __forceinline__ void FetchX(const TileParams& p, const CUtensorMap* map, uint32_t ring,
                                       uint32_t full, uint32_t empty) {
  const bool one = threadIdx.x % 32 == 0;
  if (one) PrefetchTensorMap(map);
  __syncwarp();
  WaitForPrevious();
  const uint32_t rows =
      ring + S::kWeightBytes +
      blockIdx.x % S::kXBlocks * (Stages<S>::kPartRows * kChunkInputs * sizeof(__nv_bfloat16));
  int stage = 0;
  uint32_t parity = 1;
  for (Stages<S> at(p); at.Next();) {
    Wait(empty + stage * 8, parity);
    const uint32_t target = rows + stage * S::kStageBytes, barrier = full + stage * 8;
    const int input = at.chunk * kChunkInputs;
    if (one) {
      ArriveAndExpect(barrier, S::kXBytes);  // of all that fetch it
      if constexpr (S::kXBlocks == 1) {
        TensorLoad(target, map, input, at.x_block, at.row, barrier);
      } else {
        TensorLoadToAll(target, map, input, at.x_block, at.row, barrier, (1 << S::kXBlocks) - 1);
      }
    }
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __syncwarp();
}

// The factor of a row with these sums of squares, by two neighbouring lanes, `half` 0 and 1, which
// have four of the eight partial sums each. kFresh: other blocks of this kernel have made them.
template <bool kFresh = false>
__device__ __forceinline__ float FactorOf(const float* squares, int groups, int k, float eps,
                                          int half) {
  float sums[4] = {};
  int g = 4 * half;
  if (groups % 8 == 0 && reinterpret_cast<uintptr_t>(squares) % 16 == 0) {
    constexpr int kAtOnce = 5;  // as many as there are registers for
    for (; g + 8 * (kAtOnce - 1) < groups; g += 8 * kAtOnce) {
      float4 fours[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const auto* const from = reinterpret_cast<const float4*>(squares + g + 8 * i);
        fours[i] = kFresh ? __ldcg(from) : *from;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        sums[0] += fours[i].x;
        sums[1] += fours[i].y;
        sums[2] += fours[i].z;
        sums[3] += fours[i].w;
      }
    }
  }
  for (; g < groups; g += 8) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (g + c < groups) sums[c] += kFresh ? __ldcg(squares + g + c) : squares[g + c];
    }
  }
  const unsigned lanes = 3u << (threadIdx.x % 32 / 2 * 2);
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[c] += __shfl_xor_sync(lanes, sums[c], 1);
  const float sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  return 1.0f / sqrtf(sum / static_cast<float>(k) + eps);
}

// By kFactorWarps warps: for every tile the factors of the norm, one for each of its rows, in two
// places that take turns, [2][kRows]. Barriers: full of both, then empty of both.
template <typename S>
__device__ __forceinline__ void ComputeFactors(const TileParams& p, int warp, float* factors,
                                               uint32_t barriers) {
  WaitForPrevious();
  if (p.norm.squares == nullptr) return;
  const int groups = SquareGroups(p.k), lane = threadIdx.x % 32;
  int place = 0, held = -1, held_before = -1;  // tiles of rows here and in the other place
  uint32_t parity = 1;
  for (Work work(p); work.Next();) {
    Wait(barriers + 16 + place * 8, parity);
    if (work.row_tile != held) {
      for (int i = warp * 16 + lane / 2; i < S::kRows; i += 16 * S::kFactorWarps) {
        const int64_t row = work.row_tile * S::kRows + i;
        if (row >= p.output.rows) break;
        const float factor =
            FactorOf(p.norm.squares + row * groups, groups, p.k, p.norm.eps, lane % 2);
        if (lane % 2 == 0) factors[place * S::kRows + i] = factor;
      }
    }
    ArriveForWarp(barriers + place * 8);
    held = held_before;
    held_before = work.row_tile;
    place ^= 1;
    if (place == 0) parity ^= 1;
  }
}

}  // namespace reprise::kernels::cuda::tile

#endif  // REPRISE_KERNELS_CUDA_MATMUL_TILE_CUH_
