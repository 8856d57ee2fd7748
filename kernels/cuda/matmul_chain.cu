// Chains of products as one kernel whose blocks stay: while what a product reads is not there yet,
// the weights of the next ones stream into shared memory.
//
// A block has a multiprocessor to itself and a fixed share of each product's tiles, or of the
// segments of tiles where a product feeds the residual stream and has few. One warp fetches weights
// as fast as stages of a ring become free, another one x, which other blocks give it by way of the
// exchange. Two such teams take the segments in turns, so that one sums while the other stores.
//
// All blocks must be on the device at the same time, since they wait for each other: see
// DeviceQueue::MayWaitAcrossBlocks.
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul_chain.cuh"
#include "kernels/cuda/matmul_store.cuh"
#include "kernels/cuda/tensor_map.h"

namespace reprise::kernels::cuda {
namespace chain {
namespace {

using tile::kPieceStride;

// For Store.
template <typename F, bool kGated_>
struct Stored {
  static constexpr int kRows = chain::kRows, kPieceRows = chain::kRows;
  static constexpr bool kGated = kGated_, kE4m3 = F::kE4m3;
};

// Of a block.
struct Shared {
  uint32_t handed, taken;  // of two places for totals
  uint32_t factor_barriers;
  char* totals;
  float* pieces;
  float* factors;
};

template <typename F>
class Multiplying {
 public:
  __device__ __forceinline__ Multiplying(const Params& p, const Shared& shared, int team,
                                         const Ring& ring)
      : p_(p), shared_(shared), team_(team), set_(p.exchange.Set()), ring_(ring) {
    first_a_ = static_cast<uint32_t>(PlainMatrix(ring.stages, 128, kStripBytes));
    first_b_ = static_cast<uint32_t>(SwizzledMatrix(ring.stages + F::kWeightBytes));
    lane_a_ = ring.stages + threadIdx.x % kTeam / 32 * F::kChunk + threadIdx.x % 32 * 16;
    piece_ = shared.pieces + team_ * kRows * kPieceStride;
  }

  __device__ __forceinline__ void Run() {
    int hand = 0;  // how many totals have been handed on before
    for (Units units(p_); units.Next();) {
      const bool hands_on = units.HandsOn();
      if (units.turn != team_) {
        hand += hands_on;
        continue;
      }
      const Link& link = p_.links[units.link];
      float sums[4];
      Sum(units.stages, sums);
      if (link.split) {
        AddSegments(link, units, sums);
        continue;
      }
      float total[4] = {};
      if (units.segment > 0) TakeOver(hand - 1, total);
#pragma unroll
      for (int c = 0; c < 4; ++c) total[c] = total[c] + sums[c];
      if (hands_on) {
        HandOn(hand, total);
        ++hand;
        continue;
      }
      Wait(shared_.factor_barriers + units.link * 8, 0);
      const tile::Place place = {0, 0, units.tile * kGroupTiles};
      const float* const factors = shared_.factors + units.link * kRows;
      if (link.gated) {
        tile::Store<Stored<F, true>>(link.output[set_], place, 1 + team_, piece_, factors, total);
      } else {
        tile::Store<Stored<F, false>>(link.output[set_], place, 1 + team_, piece_, factors, total);
      }
    }
  }

 private:
  // The segment's sums, from zero.
  __device__ __forceinline__ void Sum(int stages, float (&sums)[4]) {
    const int lane = threadIdx.x % 32;
    constexpr uint64_t kHighA = PlainMatrix(0, 128, kStripBytes) >> 32 << 32;
    constexpr uint64_t kHighB = SwizzledMatrix(0) >> 32 << 32;
    int previous = -1;
    const auto release = [&] {
      if (previous >= 0 && lane == 0) Arrive(ring_.empty + previous * 8);
    };
    for (int i = 0; i < stages; ++i) {
      Wait(ring_.weights + at_.stage * 8, at_.parity);
      Wait(ring_.x + at_.stage * 8, at_.parity);
      [[maybe_unused]] uint32_t a[kStageChunks][16];
      if constexpr (F::kE4m3) {
        // The matrix instructions of the stage before read their registers still.
        if (i > 0) WgmmaWait<0>();
#pragma unroll
        for (int c = 0; c < kStageChunks; ++c) {
          const uint32_t from = lane_a_ + at_.stage * F::kStageBytes + c * kGroupTiles * F::kChunk;
          uint32_t low[4], high[4];
          LoadWords(low, from);
          LoadWords(high, from + StripBytes(true));
#pragma unroll
          for (int s = 0; s < 4; ++s) {
            WidenStep(low[s], high[s], a[c][4 * s], a[c][4 * s + 1], a[c][4 * s + 2],
                      a[c][4 * s + 3]);
          }
        }
      }
      Pin(sums);
      WgmmaBegin();
      const uint32_t moved = at_.stage * (F::kStageBytes / 16);
#pragma unroll
      for (int c = 0; c < kStageChunks; ++c) {
#pragma unroll
        for (int s = 0; s < kChunkInputs / 16; ++s) {
          const uint64_t b =
              kHighB | (first_b_ + moved + c * (F::kXChunkBytes / 16) + s * (32 / 16));
          const bool add = i != 0 || c != 0 || s != 0;
          if constexpr (F::kE4m3) {
            WgmmaRegisters<kRows>(sums, a[c] + 4 * s, b, add);
          } else {
            const uint32_t from = moved + c * (kGroupTiles * F::kChunk / 16) + s * (256 / 16);
            Wgmma<kRows>(sums, kHighA | (first_a_ + from), b, add);
          }
        }
      }
      WgmmaCommit();
      Pin(sums);
      if (i > 0) {
        WgmmaWait<1>();
        release();
      }
      previous = at_.stage;
      at_.Advance();
    }
    WgmmaWait<0>();
    Pin(sums);
    release();
  }

  // What a team hands to the other lies in two places, in turns.
  __device__ __forceinline__ float4* Totals(int hand) const {
    return reinterpret_cast<float4*>(shared_.totals + hand % 2 * F::kTotalsBytes) +
           threadIdx.x % kTeam;
  }
  // The total so far from the other team, whose threads have the same outputs and rows.
  __device__ __forceinline__ void TakeOver(int hand, float (&total)[4]) {
    Wait(shared_.handed + hand % 2 * 8, hand / 2 % 2);
    const float4 four = *Totals(hand);
    total[0] = four.x;
    total[1] = four.y;
    total[2] = four.z;
    total[3] = four.w;
    ArriveForWarp(shared_.taken + hand % 2 * 8);
  }
  __device__ __forceinline__ void HandOn(int hand, const float (&total)[4]) {
    Wait(shared_.taken + hand % 2 * 8, hand / 2 % 2 ^ 1);
    *Totals(hand) = make_float4(total[0], total[1], total[2], total[3]);
    ArriveForWarp(shared_.handed + hand % 2 * 8);
  }

  // Gives a segment's sums to whoever has the last one of the tile, or, with that, adds all of them
  // in order and the total to the residual stream.
  __device__ __forceinline__ void AddSegments(const Link& link, const Units& units,
                                              const float (&sums)[4]) {
    const int thread = threadIdx.x % kTeam, lane = thread % 32;
    const int others = link.layout.segments - 1;
    uint4* const parts = link.parts + int64_t{units.tile} * others * kTeam + thread;
    const bool has_rows = lane % 4 * 2 < p_.rows;
    if (units.segment < others) {
      if (has_rows) Give(parts + units.segment * kTeam, sums);
      return;
    }
    // In the end a thread has four outputs of one row, as WriteStream wants it.
    const tile::MatMulOutput& o = link.output[set_];
    const ResidualStream& r = o.residual;
    const int row = thread / 16, j = units.tile * kGroupOutputs + thread % 16 * 4;
    const bool is_row = row < p_.rows;
    const int64_t stream_at = int64_t{units.tile} * kTeam + thread;
    float old[1][4] = {};
    if (is_row && link.stream_from == nullptr) {
      const Floats<4> four = LoadFloats<4>(r.stream + int64_t{row} * o.n + j);
#pragma unroll
      for (int c = 0; c < 4; ++c) old[0][c] = four.v[c];
    } else if (is_row) {
      Take(link.stream_from + stream_at, 1, 0, old);
    }
    const Floats<4> weight = LoadFloats<4>(r.weight + j);
    Floats<4> bias = {}, scale = {};
    if (o.bias != nullptr) bias = LoadFloats<4>(o.bias + j);
    if (F::kE4m3) scale = LoadFloats<4>(o.scales + j);

    float total[4] = {};
    if (has_rows) {
      float given[kMostSegments - 1][4];
      Take(parts, others, kTeam, given);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int s = 0; s < kMostSegments - 1; ++s) {
          if (s < others) total[c] = total[c] + given[s][c];
        }
        total[c] = total[c] + sums[c];
      }
    }
    Wait(shared_.factor_barriers + units.link * 8, 0);
    SyncSome(1 + team_, kTeam);  // what lay there has been read
    float* const turned =
        piece_ + lane % 4 * 2 * kPieceStride + thread / 32 * kTileOutputs + lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      turned[i * kPieceStride] = total[i];
      turned[i * kPieceStride + kStripOutputs] = total[i + 2];
    }
    SyncSome(1 + team_, kTeam);
    if (!is_row) return;
    Floats<4> values = LoadFloats<4>(piece_ + row * kPieceStride + thread % 16 * 4);
    const float factor = shared_.factors[units.link * kRows + row];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      values.v[c] *= factor;
      if constexpr (F::kE4m3) values.v[c] *= scale.v[c];
      values.v[c] += bias.v[c];
      values.v[c] = old[0][c] + values.v[c];
    }
    WriteStream(r, row, j, o.n, /*vectors=*/true, weight, values);
    if (link.stream_to != nullptr) Give(link.stream_to + stream_at, values.v);
  }

  const Params& p_;
  const Shared& shared_;
  const int team_, set_;
  const Ring ring_;
  // Low words of descriptors: addresses in units of 16 bytes, and nothing else that changes.
  uint32_t first_a_, first_b_;
  uint32_t lane_a_;  // of e4m3 weights: what this lane widens
  float* piece_;
  RingPlace<F> at_;
};

template <typename F>
__global__ void __launch_bounds__(kThreads, 1)
    ChainKernel(const __grid_constant__ Maps maps, const __grid_constant__ Params p) {
  extern __shared__ char shared_memory[];
  char* const ring = shared_memory + (1024 - SharedAddress(shared_memory) % 1024) % 1024;
  char* const pieces = ring + kTeams * F::kRingBytes;
  char* const totals = pieces + kTeams * F::kPieceBytes;
  char* const factors = totals + 2 * F::kTotalsBytes;
  auto* const barriers = reinterpret_cast<Barrier*>(factors + kMostProducts * kRows * 4);
  Barrier* const handed = barriers + F::kStageBarriers * kTeams * F::kStages;
  Barrier* const factor_barriers = handed + 4;
  // Read through a shuffle, so that the compiler knows it to be the same in a warp.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTeams * F::kStages; ++i) {
      const auto init = [&](int kind, int arrivals) {
        InitBarrier(&barriers[kind * kTeams * F::kStages + i], arrivals);
      };
      init(0, 1);
      init(1, 1);
      init(2, kWarpArrivals);
      init(3, kTeam / 32);
    }
    for (int i = 0; i < 4; ++i) InitBarrier(&handed[i], kTeam / 32 * kWarpArrivals);
    for (int i = 0; i < kMostProducts; ++i) InitBarrier(&factor_barriers[i], kWarpArrivals);
    PublishBarriers();
  }
  __syncthreads();
  Shared shared;
  const uint32_t all_barriers = SharedAddress(barriers);
  shared.handed = all_barriers + F::kStageBarriers * kTeams * F::kStages * 8;
  shared.taken = shared.handed + 2 * 8;
  shared.factor_barriers = shared.handed + 4 * 8;
  shared.totals = totals;
  shared.pieces = reinterpret_cast<float*>(pieces);
  shared.factors = reinterpret_cast<float*>(factors);
  // Warpgroups first, then the other warps, those of a kind side by side, then the one for the
  // factors.
  constexpr int kWarps = kTeams * kTeam / 32;
  const int team = warp < kWarps ? warp / (kTeam / 32) : warp % kTeams;
  const int kind = (warp - kWarps) / kTeams;
  Ring own;
  own.stages = tile::Uniform(SharedAddress(ring) + team * F::kRingBytes);
  own.weights = tile::Uniform(all_barriers + team * F::kStages * 8);
  own.x_fetched = own.weights + kTeams * F::kStages * 8;
  own.x = own.x_fetched + kTeams * F::kStages * 8;
  own.empty = own.x + kTeams * F::kStages * 8;
  if (warp < kWarps) {
    WaitForPrevious();
    Multiplying<F>(p, shared, team, own).Run();
  } else if (kind == 0) {
    FetchWeights<F>(p, maps, team, own);
  } else if (kind == 1) {
    FetchX<F>(p, maps, team, own);
  } else if (kind == 2) {
    CheckX<F>(p, maps, team, own);
  } else {
    ComputeFactors(p, shared.factors, shared.factor_barriers);
  }
  __syncthreads();
  if (threadIdx.x == 0) p.exchange.End();
}

// x [rows, k] as [chunks of 64 inputs, rows, 64], in boxes of [2, all rows, 64].
absl::StatusOr<CUtensorMap> MapX(const void* x, int64_t stride, int k, int rows, int box_rows) {
  return MakeMap<3>(
      CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x,
      {kChunkInputs, static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(k / kChunkInputs)},
      {stride * sizeof(BF16), kChunkInputs * sizeof(BF16)},
      {kChunkInputs, static_cast<cuuint32_t>(box_rows), kStageChunks}, CU_TENSOR_MAP_SWIZZLE_128B);
}

// The packed weights as [chunks, tiles, a chunk], in boxes of [2, 4, 1].
absl::StatusOr<CUtensorMap> MapWeights(const PackedMatrix& w, const PackedLayout& layout) {
  const auto chunk_bytes = static_cast<cuuint64_t>(ChunkBytes(layout.e4m3));
  return MakeMap<3>(
      CU_TENSOR_MAP_DATA_TYPE_INT64, w.data(),
      {chunk_bytes / tile::kElement, static_cast<cuuint64_t>(layout.tiles),
       static_cast<cuuint64_t>(layout.chunks)},
      {static_cast<cuuint64_t>(layout.TileBytes()), chunk_bytes},
      {static_cast<cuuint32_t>(chunk_bytes / tile::kElement), kGroupTiles, kStageChunks},
      CU_TENSOR_MAP_SWIZZLE_NONE);
}

template <typename F>
absl::Status LaunchChain(absl::Span<const MatMulParams> products, const Params& p, int grid,
                         DeviceQueue& queue) {
  Maps maps = {};
  for (size_t l = 0; l < products.size(); ++l) {
    const MatMulParams& m = products[l];
    const Link& link = p.links[l];
    ASSIGN_OR_RETURN(maps.weights[l], MapWeights(*m.weight, link.layout));
    for (int set = 0; set < 2; ++set) {
      ASSIGN_OR_RETURN(maps.x[set][l], link.x[set] != nullptr
                                           ? MapX(link.x[set], link.k, link.k, p.rows, kRows)
                                           : MapX(m.x_bf16, m.x_stride, link.k, p.rows, kRows));
    }
  }
  const auto kernel = ChainKernel<F>;
  RETURN_IF_ERROR(Check(AllowSharedBytes(kernel, F::kSharedBytes), "shared memory of a chain"));
  return Check(Launch(kernel, grid, kThreads, F::kSharedBytes, queue, maps, p), "MatMulChain[rows ",
               p.rows, ", products ", p.count, "]");
}

int Results(const PackedMatrix& w) { return w.gated() ? w.n() / 2 : w.n(); }

// Whether the kernel takes this product.
bool IsLink(const MatMulParams& m) {
  const PackedMatrix& w = *m.weight;
  const tile::MatMulOutput output = tile::OutputOf(m);
  return w.blocks() == 1 && w.n() % kGroupOutputs == 0 && w.k() % kStageInputs == 0 &&
         m.softcap == 0.0f && output.vectors && Aligned(m.x_bf16, m.x_stride, 16) &&
         Aligned(m.bias, 0, 16);
}
// Whether it reads what `before` makes, all of it.
bool Follows(const MatMulParams& m, const MatMulParams& before) {
  const PackedMatrix& w = *m.weight;
  const ResidualStream& r = before.residual;
  if (m.num_rows != before.num_rows || w.dtype() != before.weight->dtype()) return false;
  if (w.k() != Results(*before.weight)) return false;
  if (r.stream != nullptr) {
    return m.x_bf16 == r.weighted && m.x_stride == w.k() &&
           (m.norm.squares == nullptr || m.norm.squares == r.squares);
  }
  return m.x_bf16 == before.out_bf16 && m.x_stride == before.out_stride &&
         m.norm.squares == nullptr;
}

}  // namespace
}  // namespace chain

bool CanMatMulChain(absl::Span<const MatMulParams> products, const DeviceQueue& queue) {
  if (products.size() < 2 || products.size() > chain::kMostProducts) return false;
  if (products[0].num_rows < 1 || products[0].num_rows > chain::kRows) return false;
  if (queue.exchange() == nullptr) return false;
  size_t taken = 0, shared = 0;
  for (size_t l = 0; l < products.size(); ++l) {
    const MatMulParams& m = products[l];
    if (!chain::IsLink(m) || (l > 0 && !chain::Follows(m, products[l - 1]))) return false;
    const PackedLayout layout = PackedLayout::Of(m.weight->n(), m.weight->k());
    const size_t row_bytes = layout.tiles * kTileOutputs * sizeof(float);
    if (m.residual.stream != nullptr) taken += chain::kRows * row_bytes * layout.segments;
    shared += chain::kRows * row_bytes;
  }
  return taken <= kExchangeTakenBytes && shared <= kExchangeSetBytes && queue.MayWaitAcrossBlocks();
}

absl::Status MatMulChain(absl::Span<const MatMulParams> products, DeviceQueue& queue) {
  using chain::Link;
  chain::Params p;
  p.count = static_cast<int>(products.size());
  p.rows = products[0].num_rows;
  const int grid = queue.info().multiprocessors;
  auto* taken = static_cast<uint4*>(queue.exchange());
  p.exchange.state = reinterpret_cast<Exchange::State*>(queue.exchange_state());
  p.exchange.sets = static_cast<char*>(queue.exchange()) + kExchangeTakenBytes;
  size_t used = 0;  // bytes of a set
  // Room for `bytes` in both sets.
  const auto share = [&](size_t bytes, auto*& first, auto*& second) {
    using T = std::remove_reference_t<decltype(first)>;
    first = reinterpret_cast<T>(p.exchange.sets + used);
    second = reinterpret_cast<T>(p.exchange.sets + kExchangeSetBytes + used);
    used += (bytes + 127) / 128 * 128;
  };
  int64_t before = 0;  // blocks that have items of the products before, one after the other
  for (int l = 0; l < p.count; ++l) {
    const MatMulParams& m = products[l];
    const PackedMatrix& w = *m.weight;
    Link& link = p.links[l];
    link.layout = PackedLayout::Of(w.n(), w.k(), w.dtype() == DType::kE4M3);
    link.output[0] = link.output[1] = tile::OutputOf(m);
    link.eps = m.norm.eps;
    link.k = w.k();
    link.split = m.residual.stream != nullptr;
    link.gated = w.gated();
    if (l == 0) {
      link.squares[0] = link.squares[1] = m.norm.squares;
    } else {
      for (int set = 0; set < 2; ++set) {
        const tile::MatMulOutput& o = p.links[l - 1].output[set];
        link.x[set] =
            p.links[l - 1].split ? o.residual.weighted : reinterpret_cast<const BF16*>(o.out_bf16);
        if (m.norm.squares != nullptr) link.squares[set] = o.residual.squares;
      }
    }
    const int tiles = link.layout.tiles / chain::kGroupTiles;
    link.items = tiles * (link.split ? link.layout.segments : 1);
    // As many to each block, and the first product's to the first blocks: the last begin late, on
    // multiprocessors that the kernel before has used.
    const int most = (link.items + grid - 1) / grid;
    link.blocks = (link.items + most - 1) / most;
    link.offset = static_cast<int>((grid - before % grid) % grid);
    before += link.blocks;
    if (link.split) {
      link.parts = taken;
      taken += int64_t{tiles} * (link.layout.segments - 1) * chain::kTeam;
      for (int e = l - 1; e >= 0; --e) {
        if (products[e].residual.stream != m.residual.stream) continue;
        link.stream_from = p.links[e].stream_to = taken;
        taken += int64_t{tiles} * chain::kTeam;
        break;
      }
    }
    if (l + 1 == p.count) break;
    tile::MatMulOutput& first = link.output[0];
    tile::MatMulOutput& second = link.output[1];
    const int results = chain::Results(w);
    if (link.split) {
      share(sizeof(BF16) * p.rows * results, first.residual.weighted, second.residual.weighted);
      share(sizeof(float) * p.rows * SquareGroups(results), first.residual.squares,
            second.residual.squares);
    } else {
      share(sizeof(BF16) * p.rows * results, first.out_bf16, second.out_bf16);
      first.stride = second.stride = results;
    }
  }
  p.exchange.uses = static_cast<uint32_t>(used / sizeof(uint4));
  const bool e4m3 = products[0].weight->dtype() == DType::kE4M3;
  const auto launch =
      e4m3 ? chain::LaunchChain<chain::Form<true>> : chain::LaunchChain<chain::Form<false>>;
  return launch(products, p, grid, queue);
}

}  // namespace reprise::kernels::cuda
