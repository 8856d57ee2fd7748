// Products: wgmma with 64 outputs per warpgroup as the wide operand and the rows of x as columns,
// both from shared memory; e4m3 weights are widened on the way and come from registers.
//
// Two warps fetch stages of 64 inputs through a ring: boxes of two tensor maps, chunks of
// weights (packed_layout.h) and rows of x, with zeros for what lies outside. Warpgroups multiply.
// The sums of a segment are built from zero in the tensor cores' registers and added to the total
// in order. Another warp computes the factors of the rows' norm meanwhile.
//
// Work is dealt to the blocks of the grid by tile, or where tiles are few by segments of tiles:
// then the blocks of a tile are a cluster, and read each other's sums from shared memory to add
// them in order.
#include "kernels/cuda/matmul_store.cuh"
#include "kernels/cuda/tensor_map.h"

namespace reprise::kernels::cuda {
namespace tile {
namespace {

// By all lanes of a warp: a stage may be filled again, as far as the warp is concerned.
template <typename S>
__device__ __forceinline__ void Release(uint32_t empty, int lane) {
  if constexpr (S::kXBlocks == 1) {
    if (lane == 0) Arrive(empty);
  } else {
    if (lane < S::kXBlocks) ArriveAt(empty, lane);
  }
}

// Sums segments from the ring, by one warpgroup.
template <typename S>
class Summing {
 public:
  __device__ __forceinline__ Summing(int warp, const char* ring, uint32_t full, uint32_t empty)
      : full_(full), empty_(empty) {
    const int group = warp / 4;
    const uint32_t base = SharedAddress(ring);
    first_a_ = Uniform(static_cast<uint32_t>(
        PlainMatrix(base + group * kGroupTiles * kChunkBytes, 128, kStripBytes)));
    first_b_ = Uniform(static_cast<uint32_t>(SwizzledMatrix(base + S::kWeightBytes)));
    lane_a_ = base + (group * kGroupTiles + warp % 4) * S::kChunk + threadIdx.x % 32 * 16;
  }

  // The next `chunks`, from zero.
  __device__ __forceinline__ void Sum(int chunks, float (&sums)[S::kRows / 2]) {
    const int lane = threadIdx.x % 32;
    constexpr uint64_t kHighB = SwizzledMatrix(0) >> 32 << 32;
    int previous = -1;
    // `a`: room for widened weights, which the chunk before does not use.
    const auto multiply = [&](int chunk, [[maybe_unused]] uint32_t(&a)[16]) {
      Wait(full_ + stage_ * 8, parity_);
      if constexpr (S::kE4m3) {
        uint32_t low[4], high[4];
        LoadWords(low, lane_a_ + stage_ * S::kStageBytes);
        LoadWords(high, lane_a_ + stage_ * S::kStageBytes + StripBytes(true));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          WidenStep(low[i], high[i], a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]);
        }
      }
      Pin(sums);
      WgmmaBegin();
#pragma unroll
      for (int i = 0; i < kChunkInputs / 16; ++i) {
        const uint32_t moved = stage_ * (S::kStageBytes / 16);
        const uint64_t b = kHighB | (first_b_ + moved + i * (32 / 16));
        const bool add = chunk != 0 || i != 0;
        if constexpr (S::kE4m3) {
          WgmmaRegisters<S::kRows>(sums, a + 4 * i, b, add);
        } else {
          constexpr uint64_t kHighA = PlainMatrix(0, 128, kStripBytes) >> 32 << 32;
          Wgmma<S::kRows>(sums, kHighA | (first_a_ + moved + i * (256 / 16)), b, add);
        }
      }
      WgmmaCommit();
      Pin(sums);
      if (previous >= 0) {
        WgmmaWait<1>();
        Release<S>(empty_ + previous * 8, lane);
      }
      previous = stage_;
      if (++stage_ == S::kStages) {
        stage_ = 0;
        parity_ ^= 1;
      }
    };
    uint32_t a[2][16];
    if constexpr (S::kE4m3) {
      for (int chunk = 0; chunk < chunks; chunk += 2) {
        multiply(chunk, a[0]);
        if (chunk + 1 < chunks) multiply(chunk + 1, a[1]);
      }
    } else {
      for (int chunk = 0; chunk < chunks; ++chunk) multiply(chunk, a[0]);
    }
    WgmmaWait<0>();
    Pin(sums);
    Release<S>(empty_ + previous * 8, lane);
  }

 private:
  uint32_t full_, empty_;
  // Low words of descriptors: addresses in units of 16 bytes, and nothing else that changes.
  uint32_t first_a_, first_b_;
  uint32_t lane_a_;  // of e4m3 weights: what this lane widens
  int stage_ = 0;
  uint32_t parity_ = 0;
};

// What the warpgroups that multiply do.
template <typename S>
__device__ __forceinline__ void Multiply(const TileParams& p, int warp, char* ring, uint32_t full,
                                         uint32_t empty, const float* factors,
                                         uint32_t factor_barriers) {
  const int group = warp / 4;
  Summing<S> summing(warp, ring, full, empty);
  Work work(p);
  if constexpr (S::kSplit) {
    float sums[S::kRows / 2];
    work.Next();
    summing.Sum(p.layout.SegmentChunks(work.begin), sums);
    SyncSome(3, S::kMultiplying);  // all are done with the ring
    LeaveSums<S>(group, reinterpret_cast<float*>(ring), sums);
  } else {
    float total[S::kRows / 2], sums[S::kRows / 2];
    float* const piece = reinterpret_cast<float*>(ring + S::kStages * S::kStageBytes) +
                         group * S::kPieceRows * kPieceStride;
    const bool normed = p.norm.squares != nullptr;
    int place = 0;  // of the factors
    uint32_t parity = 0;
    while (work.Next()) {
#pragma unroll
      for (float& sum : total) sum = 0.0f;
      for (int segment = work.begin; segment < work.end; ++segment) {
        summing.Sum(p.layout.SegmentChunks(segment), sums);
#pragma unroll
        for (int i = 0; i < S::kRows / 2; ++i) total[i] = total[i] + sums[i];
      }
      if (normed) Wait(factor_barriers + place * 8, parity);
      const Place at = {work.block, work.row_tile * S::kRows,
                        (work.output_tile * S::kGroups + group) * kGroupTiles};
      Store<S>(p.output, at, 1 + group, piece, factors + place * S::kRows, total);
      if (normed) ArriveForWarp(factor_barriers + 16 + place * 8);
      place ^= 1;
      if (place == 0) parity ^= 1;
    }
  }
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    TileKernel(const __grid_constant__ CUtensorMap weight_map,
               const __grid_constant__ CUtensorMap x_map, const __grid_constant__ TileParams p) {
  extern __shared__ char shared_memory[];
  if (p.next_start == NextStart::kEarly) LetNextStart();
  // At the same place in all blocks of a cluster.
  char* const ring = shared_memory + (1024 - SharedAddress(shared_memory) % 1024) % 1024;
  auto* const full =
      reinterpret_cast<Barrier*>(ring + S::kStages * S::kStageBytes + S::kPieceBytes);
  Barrier* const empty = full + S::kStages;
  Barrier* const factor_barriers = empty + S::kStages;  // see ComputeFactors
  auto* const factors = reinterpret_cast<float*>(full + S::kBarriers);
  // Read through a shuffle, so that the compiler knows it to be the same in a warp.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      InitBarrier(&full[i], 2);
      InitBarrier(&empty[i], S::kXBlocks * S::kGroups * 4);
    }
    for (int i = 0; i < 2; ++i) {
      InitBarrier(&factor_barriers[i], S::kFactorWarps * kWarpArrivals);
      InitBarrier(&factor_barriers[2 + i], S::kGroups * 4 * kWarpArrivals);
    }
    PublishBarriers();
  }
  if (p.norm.squares == nullptr) {
    for (int i = threadIdx.x; i < 2 * S::kRows; i += S::kThreads) factors[i] = 1.0f;
  }
  __syncthreads();
  if constexpr (S::kXBlocks > 1) SyncCluster();
  const uint32_t full_at = Uniform(SharedAddress(full)), empty_at = Uniform(SharedAddress(empty));
  const bool multiplies = warp < S::kGroups * 4;
  if (!multiplies) {
    if constexpr (S::kTakeRegisters) SetRegisters<S::kFetchRegisters, false>();
    const uint32_t ring_at = Uniform(SharedAddress(ring));
    if (warp == S::kGroups * 4) {
      FetchWeights<S>(p, &weight_map, ring_at, full_at, empty_at);
    } else if (warp == S::kGroups * 4 + 1) {
      FetchX<S>(p, &x_map, ring_at, full_at, empty_at);
    } else {
      ComputeFactors<S>(p, warp - S::kGroups * 4 - 2, factors, SharedAddress(factor_barriers));
    }
  } else {
    if constexpr (S::kTakeRegisters) SetRegisters<S::kRegisters, true>();
    WaitForPrevious();
    Multiply<S>(p, warp, ring, full_at, empty_at, factors, SharedAddress(factor_barriers));
    if constexpr (S::kSplit) {
      SyncCluster();
      if (p.norm.squares != nullptr) Wait(SharedAddress(factor_barriers), 0);
      AddSegments<S>(p, SharedAddress(ring), factors);
    }
  }
  if (S::kSplit && !multiplies) SyncCluster();
  // The others still read or write here, or arrive at barriers here.
  if constexpr (S::kSharing != Sharing::kNone) SyncCluster();
}

PackedLayout LayoutOf(const PackedMatrix& w) {
  return PackedLayout::Of(w.n(), w.k(), w.dtype() == DType::kE4M3);
}

// x as [rows, x_blocks, k], in boxes of [box_rows, 1, a chunk].
absl::StatusOr<CUtensorMap> MapX(const MatMulParams& params, int64_t block_stride, int box_rows) {
  const PackedMatrix& w = *params.weight;
  const cuuint64_t row_bytes = params.x_stride * sizeof(BF16);
  return MakeMap<3>(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, params.x_bf16,
                    {static_cast<cuuint64_t>(w.k()), static_cast<cuuint64_t>(w.x_blocks()),
                     static_cast<cuuint64_t>(params.num_rows)},
                    {w.x_blocks() > 1 ? block_stride * sizeof(BF16) : row_bytes, row_bytes},
                    {kChunkInputs, 1, static_cast<cuuint32_t>(box_rows)},
                    CU_TENSOR_MAP_SWIZZLE_128B);
}

// The packed weights as [tiles of all blocks, chunks], in boxes of [box_tiles, 1].
absl::StatusOr<CUtensorMap> MapWeights(const PackedMatrix& w, int box_tiles) {
  const PackedLayout layout = LayoutOf(w);
  const auto tile_bytes = static_cast<cuuint64_t>(layout.TileBytes());
  return MakeMap<2>(CU_TENSOR_MAP_DATA_TYPE_INT64, w.data(),
                    {tile_bytes / kElement, static_cast<cuuint64_t>(w.blocks()) * layout.tiles},
                    {tile_bytes},
                    {static_cast<cuuint32_t>(ChunkBytes(layout.e4m3) / kElement),
                     static_cast<cuuint32_t>(box_tiles)},
                    CU_TENSOR_MAP_SWIZZLE_NONE);
}

template <typename S>
absl::Status LaunchOne(const MatMulParams& params, const TileParams& p, int grid,
                       DeviceQueue& queue) {
  ASSIGN_OR_RETURN(const CUtensorMap weight_map, MapWeights(*params.weight, S::kTiles));
  ASSIGN_OR_RETURN(const CUtensorMap x_map, MapX(params, p.x_block_stride, S::kRows / S::kXBlocks));
  const auto kernel = TileKernel<S>;
  RETURN_IF_ERROR(Check(AllowSharedBytes(kernel, S::kSharedBytes), "shared memory of MatMul"));
  const int cluster = S::kSplit ? p.layout.segments : S::kXBlocks;
  return Check(LaunchClusters(cluster, kernel, grid, S::kThreads, S::kSharedBytes, queue,
                              weight_map, x_map, p),
               "launch");
}

// Those of MatMulShapes(), and no others.
template <bool kGated, bool kE4m3>
absl::Status LaunchShape(const MatMulParams& params, const MatMulPlan& plan, const TileParams& p,
                         DeviceQueue& queue) {
  absl::Status status = absl::InternalError("no kernel for this tile");
  const auto launch = [&]<int kRows, int kGroups, Sharing kSharing>() {
    constexpr bool kSplit = kSharing == Sharing::kSegments;
    if (plan.row_tile != kRows || plan.output_tile != kGroups * kGroupOutputs) return;
    if (plan.split != kSplit || (plan.cluster == 2) != (kSharing == Sharing::kX)) return;
    if constexpr (!(kSplit && kGated)) {
      status =
          LaunchOne<Shape<kRows, kGroups, kSharing, kGated, kE4m3>>(params, p, plan.grid, queue);
    }
  };
  launch.template operator()<32, 1, Sharing::kNone>();
  launch.template operator()<32, 2, Sharing::kNone>();
  launch.template operator()<64, 2, Sharing::kNone>();
  launch.template operator()<32, 1, Sharing::kSegments>();
  launch.template operator()<64, 2, Sharing::kSegments>();
  launch.template operator()<128, 2, Sharing::kSegments>();
  if constexpr (kE4m3) {
    launch.template operator()<128, 2, Sharing::kX>();
  } else {
    launch.template operator()<128, 2, Sharing::kNone>();
    launch.template operator()<192, 2, Sharing::kX>();
  }
  return status;
}

}  // namespace
}  // namespace tile

absl::Status TileMatMul(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue,
                        int64_t x_block_stride) {
  if (!plan.exists()) return absl::InternalError("MatMul: no plan");
  const PackedMatrix& w = *params.weight;
  tile::TileParams p;
  p.layout = tile::LayoutOf(w);
  p.x_blocks = w.x_blocks();
  p.x_block_stride = x_block_stride;
  p.sharing = plan.cluster;
  const int tiles_each = plan.cluster * plan.output_tile / kTileOutputs;
  p.output_tiles = (p.layout.tiles + tiles_each - 1) / tiles_each;
  p.output_count = w.blocks() * p.output_tiles;
  p.row_tiles = (params.num_rows + plan.row_tile - 1) / plan.row_tile;
  // What is smaller is read again and again, and stays in the L2 cache.
  p.rows_first = int64_t{params.num_rows} * w.x_blocks() < int64_t{w.blocks()} * w.n();
  p.split = plan.split;
  p.k = w.k();
  p.norm = params.norm;
  p.output = tile::OutputOf(params);
  p.next_start = plan.next_start;
  const bool e4m3 = w.dtype() == DType::kE4M3;
  const auto launch =
      w.gated() ? (e4m3 ? tile::LaunchShape<true, true> : tile::LaunchShape<true, false>)
                : (e4m3 ? tile::LaunchShape<false, true> : tile::LaunchShape<false, false>);
  const absl::Status status = launch(params, plan, p, queue);
  if (status.ok()) return status;
  return Prefixed(status, absl::StrCat("MatMul[rows ", params.num_rows, ", blocks ", w.blocks(),
                                       ", n ", w.n(), ", k ", w.k(), "]"));
}

}  // namespace reprise::kernels::cuda
