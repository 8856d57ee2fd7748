// Products of many rows: wgmma with 64 outputs per warpgroup as the wide operand and the rows of x
// as columns, both from shared memory; e4m3 weights are widened on the way and come from registers.
//
// Two warps fetch stages of 64 inputs through a ring: boxes of two tensor maps, chunks of
// weights (packed_layout.h) and rows of x, with zeros for what lies outside. Warpgroups multiply.
// The sums of a segment are built from zero in the tensor cores' registers and added to the total
// in order, as in the kernel for few rows; so the bits are equal.
//
// Work is dealt to the blocks of the grid by tile, or where tiles are few by segments of tiles:
// then the sums of segments go through scratch, and the block that completes a tile adds them in
// order.
#include <cuda.h>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/matmul_kernels.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/tensor_map.h"

namespace reprise::kernels::cuda {
namespace {

constexpr int kGroupOutputs = 64;  // of one warpgroup
constexpr int kGroupTiles = kGroupOutputs / kTileOutputs;
// Results are turned around in shared memory: 4 words of padding put a warp's stores into 32
// different banks.
constexpr int kPieceStride = kGroupOutputs + 4;
constexpr int kElement = 8;  // bytes of an element of the weights' tensor map

// kRows of x by 64 kGroups_ outputs; kCluster_ blocks of the grid, neighbours in outputs, fetch
// their rows of x together.
template <int kRows_, int kGroups_, int kCluster_, bool kGated_, bool kE4m3_ = false>
struct Shape {
  static constexpr int kRows = kRows_, kGroups = kGroups_, kCluster = kCluster_;
  static constexpr bool kGated = kGated_, kE4m3 = kE4m3_;
  static constexpr bool kMaySplit = kCluster == 1;
  static constexpr int kTiles = kGroups * kGroupTiles;
  static constexpr int kMultiplying = kGroups * 128;  // threads
  // Two warpgroups take registers from the fetching warps, which must be a whole warpgroup then.
  static constexpr bool kTakeRegisters = kGroups == 2;
  static constexpr int kThreads = kMultiplying + (kTakeRegisters ? 128 : 64);
  // Small tiles leave room for a second block; large ones need as many stages as there is room for.
  static constexpr int kBlocks = kRows * kGroups <= 64 ? 2 : 1;
  // A thread starts with 168 registers, or 80 where two blocks share them: in three warpgroups as
  // many as kRegisters for two and kFetchRegisters.
  static constexpr int kRegisters = kBlocks == 2 ? 104 : 232;
  static constexpr int kFetchRegisters = kBlocks == 2 ? 32 : 40;
  static_assert(kFetchRegisters % 8 == 0);
  static_assert(kRegisters % 8 == 0);

  // A stage is one chunk of inputs.
  static constexpr int kChunk = ChunkBytes(kE4m3);
  static constexpr int kWeightBytes = kTiles * kChunk;
  static constexpr int kXBytes = kRows * kChunkInputs * 2;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kPieceRows = kBlocks == 2 ? 16 : 32;  // rows that are turned at a time
  static constexpr int kPieceBytes = kGroups * kPieceRows * kPieceStride * 4;
  static constexpr int kMostBytes = (kBlocks == 2 ? 113 << 10 : 227 << 10) - kPieceBytes - 2048;
  static constexpr int kStages = kMostBytes / kStageBytes < 8 ? kMostBytes / kStageBytes : 8;
  // 1 KiB to align the ring.
  static constexpr int kSharedBytes =
      1024 + kStages * kStageBytes + kPieceBytes + 16 * kStages + 16;
};

struct ManyParams {
  PackedLayout layout;
  int x_blocks = 0;
  int cluster = 1;
  int output_tiles = 0;  // of the kernel's size (of a cluster's), per block of the matrix
  int output_count = 0;  // all blocks
  int row_tiles = 0;
  bool rows_first = false;  // neighbouring work shares weights rather than x
  bool split = false;
  MatMulOutput output;
  float* partials = nullptr;  // [work tile][segment][registers / 4][thread][4]
  uint32_t* counters = nullptr;
  NextStart next_start = NextStart::kEarly;
  uint32_t* turns = nullptr;

  __device__ int Tiles() const { return output_count * row_tiles; }
  __device__ int64_t RangeBegin(int part) const {
    return int64_t{Tiles()} * layout.segments * part / gridDim.x;
  }
};

// The tiles and segments of one block of the grid, in the same order for all its warps.
class Work {
 public:
  __device__ explicit Work(const ManyParams& p) : p_(p) {
    next_ = p.split ? p.RangeBegin(blockIdx.x) : blockIdx.x / p.cluster;
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
      next_ += gridDim.x / p_.cluster;
    }
    const int outputs = p_.rows_first ? tile / p_.row_tiles : tile % p_.output_count;
    row_tile = p_.rows_first ? tile % p_.row_tiles : tile / p_.output_count;
    block = outputs / p_.output_tiles;
    output_tile = outputs % p_.output_tiles * p_.cluster + blockIdx.x % p_.cluster;
    return true;
  }
  __device__ bool Whole() const { return begin == 0 && end == p_.layout.segments; }

  int tile = 0, begin = 0, end = 0;
  int block = 0, output_tile = 0, row_tile = 0;

 private:
  const ManyParams& p_;
  int64_t next_, end_;
};

// Goes through the stages of a block's work: one chunk of each tile, and where it lies in the
// tensor maps.
template <typename S>
class Stages {
 public:
  static constexpr int kPartRows =
      S::kRows / S::kCluster;  // that this block fetches for its cluster

  __device__ explicit Stages(const ManyParams& p) : p_(p), work_(p) {}
  __device__ __forceinline__ bool Next() {
    if (++chunk < end_) return true;
    return NextRun();
  }

  int chunk = 0;
  int weight_tile = 0, x_block = 0, row = 0;

 private:
  __device__ bool NextRun() {
    if (!work_.Next()) return false;
    chunk = work_.begin * kSegmentChunks;
    end_ = min(work_.end * kSegmentChunks, p_.layout.chunks);
    weight_tile = work_.block * p_.layout.tiles + work_.output_tile * S::kTiles;
    x_block = work_.block % p_.x_blocks;
    row = work_.row_tile * S::kRows + static_cast<int>(blockIdx.x % S::kCluster) * kPartRows;
    return true;
  }

  const ManyParams& p_;
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
__device__ __forceinline__ void FetchWeights(const ManyParams& p, const Turn& turn,
                                             const CUtensorMap* map, uint32_t ring, uint32_t full,
                                             uint32_t empty) {
  const bool one = threadIdx.x % 32 == 0;
  if (one) {
    PrefetchTensorMap(map);
    turn.Begin();
  }
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
  if (one) turn.End();
  __syncwarp();
  WaitForPrevious();
}

// Unlike weights, x is what the kernel before has made.
template <typename S>
__device__ __forceinline__ void FetchX(const ManyParams& p, const CUtensorMap* map, uint32_t ring,
                                       uint32_t full, uint32_t empty) {
  const bool one = threadIdx.x % 32 == 0;
  if (one) PrefetchTensorMap(map);
  __syncwarp();
  WaitForPrevious();
  const uint32_t rows =
      ring + S::kWeightBytes +
      blockIdx.x % S::kCluster * (Stages<S>::kPartRows * kChunkInputs * sizeof(__nv_bfloat16));
  int stage = 0;
  uint32_t parity = 1;
  for (Stages<S> at(p); at.Next();) {
    Wait(empty + stage * 8, parity);
    const uint32_t target = rows + stage * S::kStageBytes, barrier = full + stage * 8;
    const int input = at.chunk * kChunkInputs;
    if (one) {
      ArriveAndExpect(barrier, S::kXBytes);  // of all blocks of the cluster
      if constexpr (S::kCluster == 1) {
        TensorLoad(target, map, input, at.x_block, at.row, barrier);
      } else {
        TensorLoadToAll(target, map, input, at.x_block, at.row, barrier, (1 << S::kCluster) - 1);
      }
    }
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __syncwarp();
}

__device__ __forceinline__ void ReadFour(const float* from, float (&values)[4]) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  values[0] = four.x;
  values[1] = four.y;
  values[2] = four.z;
  values[3] = four.w;
}

// Up to 4 results of a row from output `j` of `count` on, which belong at `to`.
__device__ __forceinline__ void WriteUpToFour(const MatMulOutput& o, int64_t to, int j, int count,
                                              const float (&results)[4]) {
  if (o.vectors && j + 4 <= count) {
    o.WriteFour(to, results);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (j + i < count) o.Write(to + i, results[i]);
  }
}

// A warpgroup's totals to memory. `piece`: [kPieceRows][kPieceStride] of this warpgroup.
template <typename S>
__device__ __forceinline__ void Store(const ManyParams& p, const Work& work, int group,
                                      float* piece, const float (&total)[S::kRows / 2]) {
  int thread = threadIdx.x % 128;
  asm volatile("" : "+r"(thread));  // or what follows from it would take registers in the main loop
  const int lane = thread % 32;
  const int first_row = lane % 4 * 2, strip_output = lane / 4;
  const int group_tile = (work.output_tile * S::kGroups + group) * kGroupTiles;
  const MatMulOutput& o = p.output;
  const int count = S::kGated ? o.n / 2 : o.n;  // results of a row
  constexpr int kTileResults = S::kGated ? kStripOutputs : kTileOutputs;
  constexpr int kResults = kGroupTiles * kTileResults;
  const int first_result = group_tile * kTileResults;

  // This thread's sums are of two outputs, which gated ones make one result. The other's is
  // kStripOutputs further on.
  const int place = thread / 32 * kTileResults + strip_output;
  float low_bias = 0.0f, high_bias = 0.0f, low_scale = 1.0f, high_scale = 1.0f;
  const int low_output = first_result + place;
  const int high_output = low_output + (S::kGated ? count : kStripOutputs);
  const auto read_both = [&](const float* from, float& low, float& high) {
    from += int64_t{work.block} * o.n;
    if (low_output < count) low = from[low_output];
    if (low_output < count && high_output < o.n) high = from[high_output];
  };
  if (o.bias != nullptr) read_both(o.bias, low_bias, high_bias);
  if constexpr (S::kE4m3) read_both(o.scales, low_scale, high_scale);
  const auto turn_rows = [&]<Activation kActivation>(int part) {
#pragma unroll
    for (int i = 0; i < S::kPieceRows / 8; ++i) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float* const at = piece + (i * 8 + first_row + row) * kPieceStride + place;
        const int from = (part * (S::kPieceRows / 8) + i) * 4 + row;
        float low = total[from], high = total[from + 2];
        if constexpr (S::kE4m3) {
          low *= low_scale;
          high *= high_scale;
        }
        // No total is -0, so that adding +0 for no bias changes none; a scaled one may be.
        if (!S::kE4m3 || o.bias != nullptr) {
          low += low_bias;
          high += high_bias;
        }
        if constexpr (S::kGated) {
          at[0] = Activate(kActivation, low) * high;  // known at compile time, they overlap
        } else {
          at[0] = low;
          at[kStripOutputs] = high;
        }
      }
    }
  };

  // What it stores of each piece: 4 results of every kStep rows.
  constexpr int kStep = 128 * 4 / kResults;
  const int four = thread * 4 % kResults;
  const int j = first_result + four;
  const int64_t column = int64_t{work.block} * count + j;
#pragma unroll
  for (int part = 0; part < S::kRows / S::kPieceRows; ++part) {
    const int part_row = work.row_tile * S::kRows + part * S::kPieceRows;
    if (part_row >= o.rows) break;
    SyncSome(1 + group, 128);  // the part before has been read
    if (!S::kGated || o.activation == Activation::kGeluTanh) {
      turn_rows.template operator()<Activation::kGeluTanh>(part);
    } else if (o.activation == Activation::kGelu) {
      turn_rows.template operator()<Activation::kGelu>(part);
    } else if (o.activation == Activation::kSilu) {
      turn_rows.template operator()<Activation::kSilu>(part);
    } else {
      turn_rows.template operator()<Activation::kRelu>(part);
    }
    SyncSome(1 + group, 128);
#pragma unroll 1
    for (int row = thread * 4 / kResults; row < S::kPieceRows && part_row + row < o.rows;
         row += kStep) {
      float results[4];
      ReadFour(piece + row * kPieceStride + four, results);
      if (!S::kGated && o.softcap > 0.0f) {
#pragma unroll
        for (int i = 0; i < 4; ++i) results[i] = o.Capped(results[i]);
      }
      WriteUpToFour(o, (part_row + row) * o.stride + column, j, count, results);
    }
  }
}

// By all lanes of a warp: a stage may be filled again, as far as the warp is concerned.
template <typename S>
__device__ __forceinline__ void Release(uint32_t empty, int lane) {
  if constexpr (S::kCluster == 1) {
    if (lane == 0) Arrive(empty);
  } else {
    if (lane < S::kCluster) ArriveAt(empty, lane);
  }
}

// What the warpgroups that multiply do.
template <typename S>
__device__ __forceinline__ void Multiply(const ManyParams& p, int warp, char* ring, uint32_t full,
                                         uint32_t empty) {
  constexpr int kRegisters = S::kRows / 2;
  auto* const pieces = reinterpret_cast<float*>(ring + S::kStages * S::kStageBytes);
  auto* const completes = reinterpret_cast<int*>(pieces + S::kPieceBytes / 4 + 4 * S::kStages);
  const int lane = threadIdx.x % 32;
  const int group = warp / 4;
  // Low words of descriptors: addresses in units of 16 bytes, and nothing else that changes.
  const uint32_t base = SharedAddress(ring);
  const uint32_t first_a = Uniform(static_cast<uint32_t>(
      PlainMatrix(base + group * kGroupTiles * kChunkBytes, 128, kStripBytes)));
  const uint32_t first_b = Uniform(static_cast<uint32_t>(SwizzledMatrix(base + S::kWeightBytes)));
  constexpr uint64_t kHighA = PlainMatrix(0, 128, kStripBytes) >> 32 << 32;
  constexpr uint64_t kHighB = SwizzledMatrix(0) >> 32 << 32;
  // Of e4m3 weights: what this lane widens.
  const uint32_t lane_a = base + (group * kGroupTiles + warp % 4) * S::kChunk + lane * 16;
  float total[kRegisters], sums[kRegisters];
  int stage = 0;
  uint32_t parity = 0;
  Work work(p);
  while (work.Next()) {
    const bool whole = !S::kMaySplit || work.Whole();
    float4* const parked =
        reinterpret_cast<float4*>(p.partials) +
        int64_t{work.tile} * p.layout.segments * (kRegisters / 4) * S::kMultiplying + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) total[i] = 0.0f;
    for (int segment = work.begin; segment < work.end; ++segment) {
      int previous = -1;
      const int chunks = p.layout.SegmentChunks(segment);
      // `a`: room for widened weights, which the chunk before does not use.
      const auto multiply = [&](int chunk, [[maybe_unused]] uint32_t(&a)[16]) {
        Wait(full + stage * 8, parity);
        if constexpr (S::kE4m3) {
          uint32_t low[4], high[4];
          LoadWords(low, lane_a + stage * S::kStageBytes);
          LoadWords(high, lane_a + stage * S::kStageBytes + StripBytes(true));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            WidenStep(low[i], high[i], a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]);
          }
        }
        Pin(sums);
        WgmmaBegin();
#pragma unroll
        for (int i = 0; i < kChunkInputs / 16; ++i) {
          const uint32_t moved = stage * (S::kStageBytes / 16);
          const uint64_t b = kHighB | (first_b + moved + i * (32 / 16));
          const bool add = chunk != 0 || i != 0;
          if constexpr (S::kE4m3) {
            WgmmaRegisters<S::kRows>(sums, a + 4 * i, b, add);
          } else {
            Wgmma<S::kRows>(sums, kHighA | (first_a + moved + i * (256 / 16)), b, add);
          }
        }
        WgmmaCommit();
        Pin(sums);
        if (previous >= 0) {
          WgmmaWait<1>();
          Release<S>(empty + previous * 8, lane);
        }
        previous = stage;
        if (++stage == S::kStages) {
          stage = 0;
          parity ^= 1;
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
      Release<S>(empty + previous * 8, lane);
      if (whole) {
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) total[i] = total[i] + sums[i];
      } else {
#pragma unroll
        for (int i = 0; i < kRegisters / 4; ++i) {
          parked[(segment * (kRegisters / 4) + i) * S::kMultiplying] =
              make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
        }
      }
    }
    if (!whole) {
      __threadfence();
      SyncSome(3, S::kMultiplying);
      if (threadIdx.x == 0) {
        const uint32_t run = work.end - work.begin;
        const uint32_t before = atomicAdd(&p.counters[work.tile], run);
        const bool last = before + run == static_cast<uint32_t>(p.layout.segments);
        if (last) p.counters[work.tile] = 0;
        __threadfence();
        *completes = last;
      }
      SyncSome(3, S::kMultiplying);
      const bool last = *completes != 0;
      SyncSome(3, S::kMultiplying);  // read by all before it is written again
      if (!last) continue;
      for (int segment = 0; segment < p.layout.segments; ++segment) {
#pragma unroll
        for (int i = 0; i < kRegisters / 4; ++i) {
          const float4 part = __ldcg(&parked[(segment * (kRegisters / 4) + i) * S::kMultiplying]);
          const float values[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            total[4 * i + j] = total[4 * i + j] + values[j];
          }
        }
      }
    }
    Store<S>(p, work, group, pieces + group * S::kPieceRows * kPieceStride, total);
  }
}

template <typename S>
__global__ void __cluster_dims__(S::kCluster, 1, 1) __launch_bounds__(S::kThreads, S::kBlocks)
    ManyRowsKernel(const __grid_constant__ CUtensorMap weight_map,
                   const __grid_constant__ CUtensorMap x_map,
                   const __grid_constant__ ManyParams p) {
  extern __shared__ char shared_memory[];
  const Turn turn(p.next_start, p.turns);
  // At the same place in all blocks of a cluster.
  char* const ring = shared_memory + (1024 - SharedAddress(shared_memory) % 1024) % 1024;
  auto* const full =
      reinterpret_cast<Barrier*>(ring + S::kStages * S::kStageBytes + S::kPieceBytes);
  Barrier* const empty = full + S::kStages;
  // Read through a shuffle, so that the compiler knows it to be the same in a warp.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      InitBarrier(&full[i], 2);
      InitBarrier(&empty[i], S::kCluster * S::kGroups * 4);
    }
    PublishBarriers();
  }
  __syncthreads();
  if constexpr (S::kCluster > 1) SyncCluster();
  const uint32_t full_at = Uniform(SharedAddress(full)), empty_at = Uniform(SharedAddress(empty));
  if (warp >= S::kGroups * 4) {
    if constexpr (S::kTakeRegisters) SetRegisters<S::kFetchRegisters, false>();
    const uint32_t ring_at = Uniform(SharedAddress(ring));
    if (warp == S::kGroups * 4) {
      FetchWeights<S>(p, turn, &weight_map, ring_at, full_at, empty_at);
    } else if (warp == S::kGroups * 4 + 1) {
      FetchX<S>(p, &x_map, ring_at, full_at, empty_at);
    }
  } else {
    if constexpr (S::kTakeRegisters) SetRegisters<S::kRegisters, true>();
    WaitForPrevious();
    Multiply<S>(p, warp, ring, full_at, empty_at);
  }
  // The others still write here and arrive at barriers here.
  if constexpr (S::kCluster > 1) SyncCluster();
}

// x as [rows, x_blocks, k], in boxes of [box_rows, 1, a chunk].
absl::StatusOr<CUtensorMap> MapX(const MatMulParams& params, int box_rows) {
  const PackedMatrix& w = *params.weight;
  const cuuint64_t row_bytes = params.x_stride * sizeof(BF16);
  return MakeMap<3>(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, params.x_bf16,
                    {static_cast<cuuint64_t>(w.k()), static_cast<cuuint64_t>(w.x_blocks()),
                     static_cast<cuuint64_t>(params.num_rows)},
                    {w.x_blocks() > 1 ? w.k() * sizeof(BF16) : row_bytes, row_bytes},
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
absl::Status LaunchOne(const MatMulParams& params, const ManyParams& p, int grid,
                       DeviceQueue& queue) {
  ASSIGN_OR_RETURN(const CUtensorMap weight_map, MapWeights(*params.weight, S::kTiles));
  ASSIGN_OR_RETURN(const CUtensorMap x_map, MapX(params, S::kRows / S::kCluster));
  const auto kernel = ManyRowsKernel<S>;
  RETURN_IF_ERROR(Check(AllowSharedBytes(kernel, S::kSharedBytes), "shared memory of MatMul"));
  return Check(Launch(kernel, grid, S::kThreads, S::kSharedBytes, queue, weight_map, x_map, p),
               "launch");
}

template <bool kGated>
absl::Status LaunchShape(const MatMulParams& params, const MatMulPlan& plan, const ManyParams& p,
                         DeviceQueue& queue) {
  // Those of kManyShapes and kE4m3Shapes.
  const auto is = [&](int row_tile, int output_tile, int cluster) {
    return plan.row_tile == row_tile && plan.output_tile == output_tile && plan.cluster == cluster;
  };
  if (p.layout.e4m3) {
    if (is(32, 64, 1)) return LaunchOne<Shape<32, 1, 1, kGated, true>>(params, p, plan.grid, queue);
    if (is(32, 128, 1)) {
      return LaunchOne<Shape<32, 2, 1, kGated, true>>(params, p, plan.grid, queue);
    }
    if (is(64, 128, 1)) {
      return LaunchOne<Shape<64, 2, 1, kGated, true>>(params, p, plan.grid, queue);
    }
    if (is(128, 128, 2)) {
      return LaunchOne<Shape<128, 2, 2, kGated, true>>(params, p, plan.grid, queue);
    }
    return absl::InternalError("no kernel for this tile");
  }
  if (is(16, 64, 1)) return LaunchOne<Shape<16, 1, 1, kGated>>(params, p, plan.grid, queue);
  if (is(16, 128, 1)) return LaunchOne<Shape<16, 2, 1, kGated>>(params, p, plan.grid, queue);
  if (is(32, 64, 1)) return LaunchOne<Shape<32, 1, 1, kGated>>(params, p, plan.grid, queue);
  if (is(32, 128, 1)) return LaunchOne<Shape<32, 2, 1, kGated>>(params, p, plan.grid, queue);
  if (is(64, 64, 1)) return LaunchOne<Shape<64, 1, 1, kGated>>(params, p, plan.grid, queue);
  if (is(64, 128, 1)) return LaunchOne<Shape<64, 2, 1, kGated>>(params, p, plan.grid, queue);
  if (is(128, 128, 1)) return LaunchOne<Shape<128, 2, 1, kGated>>(params, p, plan.grid, queue);
  if (is(128, 128, 2)) return LaunchOne<Shape<128, 2, 2, kGated>>(params, p, plan.grid, queue);
  if (is(192, 128, 2)) return LaunchOne<Shape<192, 2, 2, kGated>>(params, p, plan.grid, queue);
  return absl::InternalError("no kernel for this tile");
}

}  // namespace

absl::Status LaunchMany(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue) {
  const PackedMatrix& w = *params.weight;
  ManyParams p;
  p.layout = LayoutOf(w);
  p.x_blocks = w.x_blocks();
  p.cluster = plan.cluster;
  const int tiles_each = plan.cluster * plan.output_tile / kTileOutputs;
  p.output_tiles = (p.layout.tiles + tiles_each - 1) / tiles_each;
  p.output_count = w.blocks() * p.output_tiles;
  p.row_tiles = (params.num_rows + plan.row_tile - 1) / plan.row_tile;
  // What is smaller is read again and again, and stays in the L2 cache.
  p.rows_first = int64_t{params.num_rows} * w.x_blocks() < int64_t{w.blocks()} * w.n();
  p.split = plan.split;
  p.output = OutputOf(params);
  p.partials = static_cast<float*>(queue.scratch());
  p.counters = queue.counters();
  p.next_start = plan.next_start;
  p.turns = queue.counters() + DeviceQueue::kCounters - kTurnWords;
  const absl::Status status = w.gated() ? LaunchShape<true>(params, plan, p, queue)
                                        : LaunchShape<false>(params, plan, p, queue);
  return status.ok() ? status : Prefixed(status, Describe(params));
}

}  // namespace reprise::kernels::cuda
