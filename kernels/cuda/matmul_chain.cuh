// Chains of products: how their work is dealt out, and the warps that fetch (matmul_chain.cu).
#ifndef REPRISE_KERNELS_CUDA_MATMUL_CHAIN_CUH_
#define REPRISE_KERNELS_CUDA_MATMUL_CHAIN_CUH_

#include <cuda.h>

#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_tile.cuh"

namespace reprise::kernels::cuda::chain {

using tile::kGroupOutputs;
using tile::kGroupTiles;

constexpr int kMostProducts = 4;
constexpr int kStageChunks = 2;
constexpr int kStageInputs = kStageChunks * kChunkInputs;

// Tiles of 64 outputs by up to kRows rows. Two teams take turns, a segment each; a team has a ring
// of stages, a warp that fetches weights, one that fetches x, one that looks whether all of x was
// there, and a warpgroup that multiplies. A thread of it has four sums: two outputs of two rows.
constexpr int kRows = 8;
constexpr int kTeams = 2;
constexpr int kTeam = 128;
constexpr int kThreads = kTeams * (kTeam + 3 * 32) + 32;

template <bool kE4m3_>
struct Form {
  static constexpr bool kE4m3 = kE4m3_;
  static constexpr int kChunk = ChunkBytes(kE4m3);
  static constexpr int kWeightBytes = kStageChunks * kGroupTiles * kChunk;
  static constexpr int kXChunkBytes = kRows * kChunkInputs * 2;
  static constexpr int kXBytes = kStageChunks * kXChunkBytes;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kPieceBytes = kRows * tile::kPieceStride * 4;  // of a team, see Store
  static constexpr int kTotalsBytes = kTeam * sizeof(float4);  // that a team hands to the other
  static constexpr int kOtherBytes =
      kTeams * kPieceBytes + 2 * kTotalsBytes + kMostProducts * kRows * 4;
  static constexpr int kStages =
      std::min(((227 << 10) - 2048 - kOtherBytes) / (kTeams * kStageBytes), 10);
  static constexpr int kRingBytes = kStages * kStageBytes;  // of a team
  static constexpr int kStageBarriers = 4;                  // see Ring
  static constexpr int kBarriers = kStageBarriers * kTeams * kStages + 4 + kMostProducts;
  static constexpr int kSharedBytes = 1024 + kTeams * kRingBytes + kOtherBytes + 8 * kBarriers;
  // Stages of weights that a team has asked for and not got. All that a multiprocessor asks for
  // waits behind them, and this many keep memory busy.
  static constexpr int kInFlight = (32 << 10) / kWeightBytes;
};

// A product of the chain. One that feeds a residual stream is split: each segment of a tile is an
// item of work, and whoever has the last adds them up. Of the others a tile is an item.
struct Link {
  PackedLayout layout;
  // What goes to the next product goes to a set of the exchange, see there.
  tile::MatMulOutput output[2];
  const BF16* x[2] = {};         // of the exchange, [rows, k]; null: what another kernel has made
  const float* squares[2] = {};  // null: no norm
  float eps = 0.0f;
  int k = 0;
  bool split = false, gated = false;
  int items = 0;
  int blocks = 0;  // of the grid, that have them in turns
  int offset = 0;  // block b begins with item (b + offset) mod grid, if that is below blocks
  uint4* parts = nullptr;  // [tile][segments - 1][kTeam], of split ones
  // [tile][kTeam]: the stream to and from another product of the chain, or null.
  uint4 *stream_to = nullptr, *stream_from = nullptr;
};

struct Params {
  Link links[kMostProducts];
  int count = 0;
  int rows = 0;
  Exchange exchange;
};

struct Maps {
  CUtensorMap weights[kMostProducts], x[2][kMostProducts];  // x by sets
};

// The segments that a block of the grid sums, in the same order for all its warps. Teams take them
// in turns.
class Units {
 public:
  __device__ explicit Units(const Params& p) : p_(p) {}

  // The first item of this block; no item, if it is beyond link.blocks.
  __device__ static int First(const Link& link) {
    const int first = static_cast<int>(blockIdx.x) + link.offset;
    return first >= static_cast<int>(gridDim.x) ? first - static_cast<int>(gridDim.x) : first;
  }
  __device__ static bool HasItems(const Link& link) { return First(link) < link.blocks; }

  __device__ __forceinline__ bool Next() {
    turn ^= 1;
    if (link >= 0) {
      const Link& l = p_.links[link];
      if (!l.split && segment + 1 < l.layout.segments) {
        ++segment;
        SetStages(l);
        return true;
      }
      item_ += l.blocks;
    }
    while (link < 0 || item_ >= p_.links[link].items) {
      if (++link == p_.count) return false;
      item_ = First(p_.links[link]);
      if (item_ >= p_.links[link].blocks) item_ = p_.links[link].items;
    }
    const Link& l = p_.links[link];
    tile = l.split ? item_ / l.layout.segments : item_;
    segment = l.split ? item_ - tile * l.layout.segments : 0;
    SetStages(l);
    return true;
  }
  // Whether the segment's sums go to whoever sums the next one of the tile.
  __device__ __forceinline__ bool HandsOn() const {
    const Link& l = p_.links[link];
    return !l.split && segment + 1 < l.layout.segments;
  }

  int turn = 1;  // the team's
  int link = -1, tile = 0, segment = 0;
  int first_chunk = 0, stages = 0;

 private:
  __device__ __forceinline__ void SetStages(const Link& l) {
    first_chunk = segment * l.layout.segment_chunks;
    stages = l.layout.SegmentChunks(segment) / kStageChunks;
  }

  const Params& p_;
  int item_ = 0;
};

// A place in the ring of stages.
template <typename F>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if (++stage < F::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// What a team fetches into: addresses in shared memory, of stages and of their barriers. x is
// fetched, and then known to be whole.
struct Ring {
  uint32_t stages, weights, x_fetched, x, empty;
};

// Between what the copy engine does and what threads do to global memory, in both directions.
__device__ __forceinline__ void FenceCopyEngine() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// Weights wait for nothing but room.
template <typename F>
__device__ __forceinline__ void FetchWeights(const Params& p, const Maps& maps, int team,
                                             const Ring& ring) {
  const bool one = threadIdx.x % 32 == 0;
  if (one) {
    for (int l = 0; l < p.count; ++l) PrefetchTensorMap(&maps.weights[l]);
  }
  __syncwarp();
  RingPlace<F> at, arrived;
  int asked = 0;
  for (Units units(p); units.Next();) {
    if (units.turn != team) continue;
    const CUtensorMap* const map = &maps.weights[units.link];
    const int first_tile = units.tile * kGroupTiles;
    for (int i = 0; i < units.stages; ++i) {
      if (asked++ >= F::kInFlight) {
        Wait(ring.weights + arrived.stage * 8, arrived.parity);
        arrived.Advance();
      }
      Wait(ring.empty + at.stage * 8, at.parity ^ 1);
      if (one) {
        const uint32_t barrier = ring.weights + at.stage * 8;
        ArriveAndExpect(barrier, F::kWeightBytes);
        TensorLoad(ring.stages + at.stage * F::kStageBytes, map, 0, first_tile,
                   units.first_chunk + i * kStageChunks, barrier);
      }
      at.Advance();
    }
  }
  LetNextStart();
  __syncwarp();
  WaitForPrevious();
}

template <typename F>
__device__ __forceinline__ void LoadX(const Maps& maps, int set, const Units& units, int i,
                                      const Ring& ring, int stage) {
  const uint32_t barrier = ring.x_fetched + stage * 8;
  ArriveAndExpect(barrier, F::kXBytes);
  TensorLoad(ring.stages + stage * F::kStageBytes + F::kWeightBytes, &maps.x[set][units.link], 0, 0,
             units.first_chunk + i * kStageChunks, barrier);
}

// x of a segment is fetched when it seems to be there: when some of each tile's results are.
template <typename F>
__device__ __forceinline__ void FetchX(const Params& p, const Maps& maps, int team,
                                       const Ring& ring) {
  const bool one = threadIdx.x % 32 == 0;
  if (one) {
    for (int l = 0; l < p.count; ++l) PrefetchTensorMap(&maps.x[0][l]);
  }
  __syncwarp();
  WaitForPrevious();
  const int set = p.exchange.Set();
  RingPlace<F> at;
  uint32_t seen = 0;  // segments, eight bits for each product
  for (Units units(p); units.Next();) {
    if (units.turn != team) continue;
    const Link& link = p.links[units.link];
    const uint32_t bit = 1u << (8 * units.link + units.segment);
    if (link.x[0] != nullptr && (seen & bit) == 0) {
      constexpr int kEvery = kGroupOutputs / 2;  // results of a gated tile
      const BF16* const last_row =
          link.x[set] + int64_t{p.rows - 1} * link.k + units.first_chunk * kChunkInputs;
      AwaitWords(last_row + kEvery - 2, units.stages * kStageInputs / kEvery, kEvery / 2);
      FenceCopyEngine();
      seen |= bit;
    }
    for (int i = 0; i < units.stages; ++i) {
      Wait(ring.empty + at.stage * 8, at.parity ^ 1);
      if (one) LoadX<F>(maps, set, units, i, ring, at.stage);
      at.Advance();
    }
  }
  __syncwarp();
}

// Looks whether all of x was there, and fetches it again until it is.
template <typename F>
__device__ __forceinline__ void CheckX(const Params& p, const Maps& maps, int team,
                                       const Ring& ring) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  WaitForPrevious();
  const int set = p.exchange.Set();
  RingPlace<F> at;
  uint32_t parities = 0;  // of the fetched stages' barriers
  for (Units units(p); units.Next();) {
    if (units.turn != team) continue;
    const bool given = p.links[units.link].x[0] != nullptr;
    for (int i = 0; i < units.stages; ++i) {
      const uint32_t from = ring.stages + at.stage * F::kStageBytes + F::kWeightBytes + lane * 16;
      while (true) {
        Wait(ring.x_fetched + at.stage * 8, parities >> at.stage & 1);
        parities ^= 1u << at.stage;
        if (!given) break;
        bool there = true;
#pragma unroll
        for (int j = 0; j < F::kXBytes; j += 32 * 16) {
          uint32_t words[4];
          LoadWords(words, from + j);
          there = there && AllThere(words);
        }
        if (__all_sync(0xffffffff, there)) break;
        // What was read must not change before.
        FenceForTensorCores();
        FenceCopyEngine();
        __syncwarp();
        if (lane == 0) LoadX<F>(maps, set, units, i, ring, at.stage);
      }
      ArriveForWarp(ring.x + at.stage * 8);
      at.Advance();
    }
  }
  __syncwarp();
}

// What comes before results, into the L2 cache before the weights are asked for.
__device__ __forceinline__ void PrefetchVectors(const Params& p) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto prefetch = [&](const float* from, int count) {
    if (from == nullptr || lane * 8 >= count) return;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + lane * 8));
  };
  for (Units units(p); units.Next();) {
    const Link& link = p.links[units.link];
    const tile::MatMulOutput& o = link.output[0];
    if (units.segment + 1 != link.layout.segments) continue;
    const int results = kGroupOutputs / (link.gated ? 2 : 1), first = units.tile * results;
    if (o.bias != nullptr) {
      prefetch(o.bias + first, results);
      if (link.gated) prefetch(o.bias + o.n / 2 + first, results);
    }
    if (link.split) prefetch(o.residual.weight + first, results);
  }
}

// The factors of every product that has a norm, [kMostProducts][kRows], by one warp.
__device__ __forceinline__ void ComputeFactors(const Params& p, float* factors, uint32_t barriers) {
  const int lane = threadIdx.x % 32;
  PrefetchVectors(p);
  WaitForPrevious();
  const int set = p.exchange.Set();
  p.exchange.ClearOther();
  for (int l = 0; l < p.count; ++l) {
    const Link& link = p.links[l];
    if (!Units::HasItems(link)) continue;
    float* const to = factors + l * kRows;
    const float* const squares = link.squares[set];
    if (squares == nullptr) {
      if (lane < kRows) to[lane] = 1.0f;
    } else {
      const int groups = SquareGroups(link.k);
      if (link.x[0] != nullptr) AwaitWords(squares, p.rows * groups);
      const int row = lane / 2;
      if (row < p.rows) {
        const float factor = tile::FactorOf</*kFresh=*/true>(squares + int64_t{row} * groups,
                                                             groups, link.k, link.eps, lane % 2);
        if (lane % 2 == 0) to[row] = factor;
      }
    }
    ArriveForWarp(barriers + l * 8);
  }
}

}  // namespace reprise::kernels::cuda::chain

#endif  // REPRISE_KERNELS_CUDA_MATMUL_CHAIN_CUH_
