// Products of many rows: wgmma with 64 outputs per warpgroup as the wide operand and the rows of x
// as columns, both from shared memory.
//
// One warp fetches stages of 64 inputs through a ring: weights as bulk copies of chunks
// (packed_layout.h), x as boxes of a tensor map, which fills what lies outside of x with zeros.
// kGroups warpgroups multiply. The sums of a segment are built from zero in the tensor cores'
// registers and added to the total in order, as in the kernel for few rows; so the bits are equal.
//
// Work is dealt to the blocks of the grid by tile, or where tiles are few by segments of tiles:
// then the sums of segments go through scratch, and the block that completes a tile adds them in
// order.
#include <cuda.h>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/matmul_kernels.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kStageInputs = kChunkInputs;
constexpr int kGroupOutputs = 64;  // of one warpgroup
constexpr int kGroupTiles = kGroupOutputs / kTileOutputs;

// Results are turned around in shared memory, kPieceRows rows of x at a time: 4 words of padding
// put a warp's stores into 32 different banks.
constexpr int kPieceRows = 16;
constexpr int kPieceStride = kGroupOutputs + 4;

template <int kRows, int kGroups>
struct Shape {
  // Two warpgroups take registers from the fetching warps, which must be a whole warpgroup then.
  static constexpr bool kTakeRegisters = kGroups == 2;
  static constexpr int kThreads = kGroups * 128 + (kTakeRegisters ? 128 : 32);
  static constexpr int kWeightBytes = kGroups * kGroupTiles * kChunkBytes;
  static constexpr int kXBytes = kRows * kStageInputs * 2;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kPieceBytes = kGroups * kPieceRows * kPieceStride * 4;
  // Small tiles leave room for a second block.
  static constexpr int kBlocks = kRows <= 64 ? 2 : 1;
  // A thread starts with 168 registers, or 80 where two blocks share them: three warpgroups of that
  // are more than kRegisters for two and 24 for the one that fetches.
  static constexpr int kRegisters = kBlocks == 2 ? 104 : 240;
  static constexpr int kMostBytes = (kBlocks == 2 ? 113 << 10 : 227 << 10) - kPieceBytes - 2048;
  static constexpr int kStages = kMostBytes / kStageBytes < 8 ? kMostBytes / kStageBytes : 8;
  static_assert(kRegisters % 8 == 0);
  // 1 KiB to align the ring.
  static constexpr int kSharedBytes =
      1024 + kStages * kStageBytes + kPieceBytes + 16 * kStages + 16;
};

struct ManyParams {
  PackedLayout layout;
  const char* weights = nullptr;
  int x_blocks = 0;
  int total_tiles = 0;   // of 16 outputs, all blocks
  int output_tiles = 0;  // of the kernel's size, per block
  int output_count = 0;  // all blocks
  int row_tiles = 0;
  bool rows_first = false;  // neighbouring work shares weights rather than x
  bool split = false;
  MatMulOutput output;
  float* partials = nullptr;  // [work tile][segment][registers / 4][thread][4]
  uint32_t* counters = nullptr;

  __device__ int Tiles() const { return output_count * row_tiles; }
  __device__ int64_t RangeBegin(int part) const {
    return int64_t{Tiles()} * layout.segments * part / gridDim.x;
  }
};

// The tiles and segments of one block of the grid, in the same order for all its warps.
class Work {
 public:
  __device__ explicit Work(const ManyParams& p) : p_(p) {
    next_ = p.split ? p.RangeBegin(blockIdx.x) : blockIdx.x;
    end_ = p.split ? p.RangeBegin(blockIdx.x + 1) : p.Tiles();
  }
  // Moves to the next run of segments [begin, end) of one tile.
  __device__ bool Next() {
    if (next_ >= end_) return false;
    begin = 0;
    end = p_.layout.segments;
    if (p_.split) {
      tile = static_cast<int>(next_ / end);
      begin = static_cast<int>(next_ - int64_t{tile} * end);
      end = static_cast<int>(min(int64_t{end}, begin + (end_ - next_)));
      next_ += end - begin;
    } else {
      tile = static_cast<int>(next_);
      next_ += gridDim.x;
    }
    const int outputs = p_.rows_first ? tile / p_.row_tiles : tile % p_.output_count;
    row_tile = p_.rows_first ? tile % p_.row_tiles : tile / p_.output_count;
    block = outputs / p_.output_tiles;
    output_tile = outputs % p_.output_tiles;
    return true;
  }
  __device__ bool Whole() const { return begin == 0 && end == p_.layout.segments; }

  int tile = 0, begin = 0, end = 0;
  int block = 0, output_tile = 0, row_tile = 0;

 private:
  const ManyParams& p_;
  int64_t next_, end_;
};

// Goes through the stages of a block's work: one chunk of each tile.
class Stages {
 public:
  __device__ explicit Stages(const ManyParams& p) : work(p), p_(p) {}
  __device__ bool Next() {
    if (++chunk < end_) return true;
    if (!work.Next()) return false;
    chunk = work.begin * kSegmentChunks;
    end_ = min(work.end * kSegmentChunks, p_.layout.chunks);
    return true;
  }

  Work work;
  int chunk = 0;

 private:
  const ManyParams& p_;
  int end_ = 0;
};

// By the lanes of one warp: a chunk of each of kTiles tiles.
template <int kTiles>
__device__ void FetchWeights(const ManyParams& p, const Stages& at, int lane, char* stage,
                             Barrier* full) {
  if (lane >= kTiles) return;
  // Beyond the last tile some other is fetched; nothing of it is stored.
  const int tile =
      min(at.work.block * p.layout.tiles + at.work.output_tile * kTiles + lane, p.total_tiles - 1);
  const char* source = p.weights + (int64_t{tile} * p.layout.chunks + at.chunk) * kChunkBytes;
  BulkLoad(stage + lane * kChunkBytes, source, kChunkBytes, full);
}

template <int kRows, int kGroups>
__device__ void Fetch(const ManyParams& p, const CUtensorMap* x_map, int lane, char* ring,
                      Barrier* full, Barrier* empty) {
  using S = Shape<kRows, kGroups>;
  const auto fetch_x = [&](const Stages& at, int stage) {
    if (lane != 0) return;
    TensorLoad(ring + stage * S::kStageBytes + S::kWeightBytes, x_map, at.chunk * kChunkInputs,
               at.work.block % p.x_blocks, at.work.row_tile * kRows, &full[stage]);
  };
  const auto fetch_weights = [&](const Stages& at, int stage) {
    if (lane == 0) ArriveAndExpect(&full[stage], S::kStageBytes);
    __syncwarp();
    FetchWeights<kGroups * kGroupTiles>(p, at, lane, ring + stage * S::kStageBytes, &full[stage]);
  };
  // Weights may come before the previous kernel is done, x may not.
  Stages weights(p), x(p);
  int primed = 0;
  bool more = weights.Next();
  while (more && primed < S::kStages) {
    fetch_weights(weights, primed++);
    more = weights.Next();
  }
  WaitForPrevious();
  for (int i = 0; i < primed; ++i) {
    x.Next();
    fetch_x(x, i);
  }
  int stage = 0;
  for (uint32_t parity = 0; more; more = weights.Next()) {
    Wait(&empty[stage], parity);
    fetch_weights(weights, stage);
    fetch_x(weights, stage);
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  // Not earlier: what the next kernel fetches would come before what this one needs.
  LetNextStart();
}

// A warpgroup's totals to memory. `piece`: [kPieceRows][kPieceStride] of this warpgroup.
template <int kRows, bool kGated>
__device__ void Store(const ManyParams& p, const Work& work, int group, int group_tile,
                      float* piece, const float (&total)[kRows / 2]) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row_in_tile = lane % 4 * 2, output = thread / 32 * kTileOutputs + lane / 4;
  const MatMulOutput& o = p.output;
#pragma unroll
  for (int part = 0; part < kRows / kPieceRows; ++part) {
    const int first_row = work.row_tile * kRows + part * kPieceRows;
    if (first_row >= o.rows) break;
    SyncSome(1 + group, 128);  // the part before has been read
#pragma unroll
    for (int j = 0; j < kPieceRows / 8; ++j) {
      float* const at = piece + (j * 8 + row_in_tile) * kPieceStride + output;
      const int i = (part * (kPieceRows / 8) + j) * 4;
      at[0] = total[i];
      at[kPieceStride] = total[i + 1];
      at[kStripOutputs] = total[i + 2];
      at[kPieceStride + kStripOutputs] = total[i + 3];
    }
    SyncSome(1 + group, 128);
    if constexpr (kGated) {
      // 32 results per row: a gate and, 8 further on, what it gates.
#pragma unroll 1
      for (int at = thread; at < kPieceRows * 32; at += 128) {
        const int row = first_row + at / 32, strip_row = at % 8, tile = at / 8 % 4;
        const float* const sums = piece + at / 32 * kPieceStride + tile * kTileOutputs + strip_row;
        Finish<true>(o, 0, group_tile + tile, strip_row, row, sums[0], sums[kStripOutputs]);
      }
    } else {
      const int64_t first = int64_t{work.block} * o.n;
      const int j = group_tile * kTileOutputs + thread % 64;
      const float bias = o.bias != nullptr && j < o.n ? o.bias[first + j] : 0.0f;
#pragma unroll
      for (int i = 0; i < kPieceRows / 2; ++i) {
        const int row = i * 2 + thread / 64;
        const float sum = piece[row * kPieceStride + thread % 64];
        if (first_row + row < o.rows && j < o.n) {
          o.Write((first_row + row) * o.stride + first + j, o.bias != nullptr ? sum + bias : sum);
        }
      }
    }
  }
}

// What the warpgroups that multiply do.
template <int kRows, int kGroups, bool kGated>
__device__ __forceinline__ void Multiply(const ManyParams& p, int warp, char* ring, Barrier* full,
                                         Barrier* empty) {
  using S = Shape<kRows, kGroups>;
  constexpr int kRegisters = kRows / 2;
  auto* const pieces = reinterpret_cast<float*>(ring + S::kStages * S::kStageBytes);
  auto* const completes = reinterpret_cast<int*>(empty + S::kStages);
  const int lane = threadIdx.x % 32;
  const int group = warp / 4;
  const uint32_t weights_base = SharedAddress(ring) + group * kGroupTiles * kChunkBytes;
  const uint32_t x_base = SharedAddress(ring) + S::kWeightBytes;
  float total[kRegisters], sums[kRegisters];
  int stage = 0;
  uint32_t parity = 0;
  Work work(p);
  while (work.Next()) {
    const bool whole = work.Whole();
    float4* const parked =
        reinterpret_cast<float4*>(p.partials) +
        int64_t{work.tile} * p.layout.segments * (kRegisters / 4) * kGroups * 128 + threadIdx.x;
    for (int segment = work.begin; segment < work.end; ++segment) {
      int previous = -1;
      const int chunks = p.layout.SegmentChunks(segment);
      for (int chunk = 0; chunk < chunks; ++chunk) {
        Wait(&full[stage], parity);
        Pin(sums);
        WgmmaBegin();
#pragma unroll
        for (int i = 0; i < kStageInputs / 16; ++i) {
          Wgmma<kRows>(
              sums, PlainMatrix(weights_base + stage * S::kStageBytes + i * 256, 128, kStripBytes),
              SwizzledMatrix(x_base + stage * S::kStageBytes + i * 32), chunk != 0 || i != 0);
        }
        WgmmaCommit();
        Pin(sums);
        if (previous >= 0) {
          WgmmaWait<1>();
          if (lane == 0) Arrive(&empty[previous]);
        }
        previous = stage;
        if (++stage == S::kStages) {
          stage = 0;
          parity ^= 1;
        }
      }
      WgmmaWait<0>();
      Pin(sums);
      if (lane == 0) Arrive(&empty[previous]);
      if (whole) {
        if (segment == 0) {
#pragma unroll
          for (int i = 0; i < kRegisters; ++i) total[i] = sums[i];
        } else {
#pragma unroll
          for (int i = 0; i < kRegisters; ++i) total[i] = total[i] + sums[i];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kRegisters / 4; ++i) {
          parked[(segment * (kRegisters / 4) + i) * kGroups * 128] =
              make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
        }
      }
    }
    if (!whole) {
      __threadfence();
      SyncSome(3, kGroups * 128);
      if (threadIdx.x == 0) {
        const uint32_t run = work.end - work.begin;
        const uint32_t before = atomicAdd(&p.counters[work.tile], run);
        const bool last = before + run == static_cast<uint32_t>(p.layout.segments);
        if (last) p.counters[work.tile] = 0;
        __threadfence();
        *completes = last;
      }
      SyncSome(3, kGroups * 128);
      const bool last = *completes != 0;
      SyncSome(3, kGroups * 128);  // read by all before it is written again
      if (!last) continue;
      for (int segment = 0; segment < p.layout.segments; ++segment) {
#pragma unroll
        for (int i = 0; i < kRegisters / 4; ++i) {
          const float4 part = __ldcg(&parked[(segment * (kRegisters / 4) + i) * kGroups * 128]);
          const float values[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            total[4 * i + j] = segment == 0 ? values[j] : total[4 * i + j] + values[j];
          }
        }
      }
    }
    Store<kRows, kGated>(p, work, group, (work.output_tile * kGroups + group) * kGroupTiles,
                         pieces + group * kPieceRows * kPieceStride, total);
  }
}

template <int kRows, int kGroups, bool kGated>
__global__ void __launch_bounds__(Shape<kRows, kGroups>::kThreads, Shape<kRows, kGroups>::kBlocks)
    ManyRowsKernel(const __grid_constant__ CUtensorMap x_map,
                   const __grid_constant__ ManyParams p) {
  using S = Shape<kRows, kGroups>;
  extern __shared__ char shared_memory[];
  char* const ring = shared_memory + (1024 - SharedAddress(shared_memory) % 1024) % 1024;
  auto* const full =
      reinterpret_cast<Barrier*>(ring + S::kStages * S::kStageBytes + S::kPieceBytes);
  Barrier* const empty = full + S::kStages;
  // Read through a shuffle, so that the compiler knows it to be the same in a warp.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      InitBarrier(&full[i], 1);
      InitBarrier(&empty[i], kGroups * 4);
    }
    PublishBarriers();
  }
  __syncthreads();
  if (warp >= kGroups * 4) {
    if constexpr (S::kTakeRegisters) SetRegisters<24, false>();
    if (warp == kGroups * 4) {
      if (lane == 0) PrefetchTensorMap(&x_map);
      Fetch<kRows, kGroups>(p, &x_map, lane, ring, full, empty);
    }
  } else {
    if constexpr (S::kTakeRegisters) SetRegisters<S::kRegisters, true>();
    WaitForPrevious();
    Multiply<kRows, kGroups, kGated>(p, warp, ring, full, empty);
  }
}

// The driver's function, asked for at run time: nothing here links the driver.
using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

absl::StatusOr<EncodeTiled> FindEncodeTiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_ERROR(Check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                         cudaEnableDefault, &found),
                        "cuTensorMapEncodeTiled"));
  if (found != cudaDriverEntryPointSuccess) {
    return absl::InternalError("the driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<EncodeTiled>(function);
}

// x as [rows, x_blocks, k], in boxes of [box_rows, 1, kStageInputs].
absl::StatusOr<CUtensorMap> MapX(const MatMulParams& params, int box_rows) {
  static const absl::StatusOr<EncodeTiled> encode = FindEncodeTiled();
  RETURN_IF_ERROR(encode.status());
  const PackedMatrix& w = *params.weight;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(w.k()), static_cast<cuuint64_t>(w.x_blocks()),
                              static_cast<cuuint64_t>(params.num_rows)};
  const cuuint64_t row_bytes = params.x_stride * sizeof(BF16);
  const cuuint64_t strides[] = {w.x_blocks() > 1 ? w.k() * sizeof(BF16) : row_bytes, row_bytes};
  const cuuint32_t box[] = {kStageInputs, 1, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      (*encode)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<BF16*>(params.x_bf16), sizes,
                strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InternalError(absl::StrCat("cuTensorMapEncodeTiled: CUDA error ", int{result}));
  }
  return map;
}

template <int kRows, int kGroups, bool kGated>
absl::Status LaunchOne(const MatMulParams& params, const ManyParams& p, int grid,
                       DeviceQueue& queue) {
  using S = Shape<kRows, kGroups>;
  ASSIGN_OR_RETURN(const CUtensorMap map, MapX(params, kRows));
  const auto kernel = ManyRowsKernel<kRows, kGroups, kGated>;
  RETURN_IF_ERROR(Check(AllowSharedBytes(kernel, S::kSharedBytes), "shared memory of MatMul"));
  return Check(Launch(kernel, grid, S::kThreads, S::kSharedBytes, queue, map, p), "launch");
}

template <bool kGated>
absl::Status LaunchShape(const MatMulParams& params, const MatMulPlan& plan, const ManyParams& p,
                         DeviceQueue& queue) {
  switch (plan.row_tile * 1000 + plan.output_tile) {
    case 16128:
      return LaunchOne<16, 2, kGated>(params, p, plan.grid, queue);
    case 16064:
      return LaunchOne<16, 1, kGated>(params, p, plan.grid, queue);
    case 32064:
      return LaunchOne<32, 1, kGated>(params, p, plan.grid, queue);
    case 32128:
      return LaunchOne<32, 2, kGated>(params, p, plan.grid, queue);
    case 64128:
      return LaunchOne<64, 2, kGated>(params, p, plan.grid, queue);
    case 64064:
      return LaunchOne<64, 1, kGated>(params, p, plan.grid, queue);
    case 128128:
      return LaunchOne<128, 2, kGated>(params, p, plan.grid, queue);
    case 192128:
      return LaunchOne<192, 2, kGated>(params, p, plan.grid, queue);
    default:
      return absl::InternalError("no kernel for this tile");
  }
}

}  // namespace

absl::Status LaunchMany(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue) {
  const PackedMatrix& w = *params.weight;
  ManyParams p;
  p.layout = PackedLayout::Of(w.n(), w.k());
  p.weights = static_cast<const char*>(w.data());
  p.x_blocks = w.x_blocks();
  p.total_tiles = w.blocks() * p.layout.tiles;
  const int tiles_each = plan.output_tile / kTileOutputs;
  p.output_tiles = (p.layout.tiles + tiles_each - 1) / tiles_each;
  p.output_count = w.blocks() * p.output_tiles;
  p.row_tiles = (params.num_rows + plan.row_tile - 1) / plan.row_tile;
  // What is smaller is read again and again, and stays in the L2 cache.
  p.rows_first = int64_t{params.num_rows} * w.x_blocks() < int64_t{w.blocks()} * w.n();
  p.split = plan.split;
  p.output = OutputOf(params);
  p.partials = static_cast<float*>(queue.scratch());
  p.counters = queue.counters();
  const absl::Status status = w.gated() ? LaunchShape<true>(params, plan, p, queue)
                                        : LaunchShape<false>(params, plan, p, queue);
  return status.ok() ? status : Prefixed(status, Describe(params));
}

}  // namespace reprise::kernels::cuda
