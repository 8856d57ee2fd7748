// Window attention. One block of threads takes 64 rows of one sequence, (token, head) pairs of one
// kv head, through blocks of 64 keys: a warpgroup of producers copies queries, keys and values into
// shared memory, one or two warpgroups of consumers do the products, each for its part of head_dim.
//
// For one row: groups of kSplitBlocks blocks, cut by absolute position; within a group online
// softmax from block to block, from nothing; then the groups are merged in ascending order. A block
// of which the row sees nothing multiplies its sums by 1 and adds zeros. So it makes no difference
// what other rows of the tile see, nor whether one block of threads goes through all groups (the
// whole form) or every group has its own (the split form, for few rows), as both do the same.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_consumer.cuh"
#include "kernels/cuda/attention_producer.cuh"
#include "kernels/cuda/attention_window.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {
namespace window {
namespace {

template <int kDim, bool kSplit>
__global__ void __launch_bounds__(Shape<kDim>::kThreads, Shape<kDim>::kBlocks)
    WindowKernel(const __grid_constant__ WindowAttentionParams p,
                 const __grid_constant__ Tiling tiling, const __grid_constant__ Partials partials,
                 float scale) {
  using S = Shape<kDim>;
  extern __shared__ uint8_t shared[];
  const Memory<kDim> memory = {(SharedAddress(shared) + 1023) / 1024 * 1024};
  LetNextStart();
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kUnits; ++i) {
      InitBarrier(memory.Full(i), kCopyThreads / 32);
      InitBarrier(memory.Empty(i), 4 * S::kTeams);
    }
    for (int i = 0; i < 2; ++i) InitBarrier(memory.QueriesEmpty(i), 4 * S::kTeams);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  WaitForPrevious();
  Task task;
  if (threadIdx.x / 128 == S::kTeams) {
    ShrinkRegisters<S::kCopyRegisters>();
    Producer<kDim> producer(p, memory);
    for (int i = blockIdx.x; i < tiling.tasks; i += gridDim.x) {
      if (MakeTask(p, tiling, partials.groups, i, task)) producer.Run(task);
    }
    producer.Finish();
  } else {
    GrowRegisters<S::kTeamRegisters>();
    Consumer<kDim, kSplit> consumer(p, memory, partials, scale);
    for (int i = blockIdx.x; i < tiling.tasks; i += gridDim.x) {
      if (MakeTask(p, tiling, partials.groups, i, task)) consumer.Run(task);
    }
  }
}

constexpr int kFinishWarps = 4;

__host__ __device__ inline int64_t MergeWarps(const WindowAttentionParams& p,
                                              const Partials& partials) {
  if (partials.groups == 0) return 0;
  return int64_t{p.rows.num_rows} * p.heads * ((p.head_dim + 127) / 128);
}

// Merges the groups of one (row, head) pair of the split form, 128 columns of it. One warp.
__device__ __forceinline__ void MergeGroups(const WindowAttentionParams& p,
                                            const Partials& partials, int64_t row, int head,
                                            int column) {
  constexpr int kAtOnce = 10;  // groups whose sums are loaded together
  const int s = p.rows.row_seqs[row];
  const int64_t slot = p.rows.slots[s], first_row = p.rows.seq_offsets[s];
  const int64_t end_row = p.rows.seq_offsets[s + 1], start = p.rows.start_positions[s];
  column += threadIdx.x % 32 * 4;
  if (slot < 0 || column >= p.head_dim) return;
  const int per_token = p.heads / p.kv_heads;
  const int pairs = static_cast<int>(end_row - first_row) * per_token;
  const int begin =
      (static_cast<int>(row - first_row) * per_token + head % per_token) / kTile * kTile;
  const TileKeys keys(p, start, begin, min(begin + kTile, pairs));
  const int groups = static_cast<int>(keys.last / kGroupTokens - keys.low / kGroupTokens) + 1;
  const int64_t at = (row * p.heads + head) * partials.groups;
  const float2* const all_scales = partials.scales + at;
  const float* const all_sums = partials.sums + at * p.head_dim + column;
  Floats<4> total = {};
  float max = kMinusInfinity, sum = 0.0f;
  for (int first = 0; first < groups; first += kAtOnce) {
    float2 scales[kAtOnce];
    float4 sums[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int g = min(first + i, groups - 1);
      scales[i] = __ldcg(all_scales + g);
      sums[i] = __ldcg(reinterpret_cast<const float4*>(all_sums + int64_t{g} * p.head_dim));
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= groups) break;
      const MergeFactors factors = MergeScales(scales[i].x, scales[i].y, max, sum);
      total.v[0] = Merge(factors, sums[i].x, total.v[0]);
      total.v[1] = Merge(factors, sums[i].y, total.v[1]);
      total.v[2] = Merge(factors, sums[i].z, total.v[2]);
      total.v[3] = Merge(factors, sums[i].w, total.v[3]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) total.v[i] = Quotient(total.v[i], sum);
  StoreRounded<4>(p.out_bf16 + row * p.out_stride + int64_t{head} * p.head_dim + column, total);
}

// The key and the value of one row and kv head go into the ring, unless a later row takes their
// place; the output of a padding row becomes zero. One warp.
__device__ __forceinline__ void KeepRow(const WindowAttentionParams& p, int64_t row, int kv_head) {
  const int s = p.rows.row_seqs[row], lane = threadIdx.x % 32;
  const int64_t slot = p.rows.slots[s], first_row = p.rows.seq_offsets[s];
  if (slot < 0) {
    const int dims = p.heads / p.kv_heads * p.head_dim;
    BF16* const out = p.out_bf16 + row * p.out_stride + int64_t{kv_head} * dims;
    for (int i = lane * 8; i < dims; i += 256) {
      *reinterpret_cast<uint4*>(out + i) = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const int64_t position = p.rows.start_positions[s] + row - first_row;
  const int64_t later = p.rows.seq_offsets[s + 1] - 1 - row;
  if (later >= int64_t{p.ring_blocks} * kTile) return;
  const int64_t block = position / kTile % p.ring_blocks;
  const int64_t in_ring = ((block * p.kv_heads + kv_head) * kTile + position % kTile) * p.head_dim;
  const int64_t column = int64_t{kv_head} * p.head_dim;
  const BF16* const key = p.k_bf16 + row * p.k_stride + column;
  const BF16* const value = p.v_bf16 + row * p.v_stride + column;
  BF16* const key_to = p.k_ring_bf16 + slot * p.k_slot_stride + in_ring;
  BF16* const value_to = p.v_ring_bf16 + slot * p.v_slot_stride + in_ring;
  for (int i = lane * 8; i < p.head_dim; i += 256) {
    *reinterpret_cast<uint4*>(key_to + i) = *reinterpret_cast<const uint4*>(key + i);
    *reinterpret_cast<uint4*>(value_to + i) = *reinterpret_cast<const uint4*>(value + i);
  }
}

// One warp per (row, kv head), and before them in the split form one per 128 columns of a (row,
// head).
__global__ void __launch_bounds__(32 * kFinishWarps)
    FinishKernel(const __grid_constant__ WindowAttentionParams p,
                 const __grid_constant__ Partials partials) {
  LetNextStart();
  WaitForPrevious();
  int64_t warp = int64_t{blockIdx.x} * kFinishWarps + threadIdx.x / 32;
  const int64_t merges = MergeWarps(p, partials);
  if (warp < merges) {
    const int pieces = (p.head_dim + 127) / 128;
    const int64_t pair = warp / pieces, row = pair / p.heads;
    MergeGroups(p, partials, row, static_cast<int>(pair - row * p.heads),
                static_cast<int>(warp - pair * pieces) * 128);
    return;
  }
  warp -= merges;
  if (warp < int64_t{p.rows.num_rows} * p.kv_heads) {
    KeepRow(p, warp / p.kv_heads, static_cast<int>(warp % p.kv_heads));
  }
}

template <int kDim, bool kSplit>
cudaError_t LaunchWindow(const WindowAttentionParams& p, const Tiling& tiling,
                         const Partials& partials, const DeviceQueue& queue) {
  using S = Shape<kDim>;
  const cudaError_t error = AllowSharedBytes(WindowKernel<kDim, kSplit>, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  const int resident = queue.info().multiprocessors * S::kBlocks;
  return Launch(WindowKernel<kDim, kSplit>, std::min(tiling.tasks, resident), S::kThreads,
                S::kSharedBytes, queue, p, tiling, partials, p.scale * 1.44269504f);
}

template <int kDim>
cudaError_t LaunchForm(const WindowAttentionParams& p, const Tiling& tiling,
                       const Partials& partials, const DeviceQueue& queue) {
  return partials.groups > 0 ? LaunchWindow<kDim, true>(p, tiling, partials, queue)
                             : LaunchWindow<kDim, false>(p, tiling, partials, queue);
}

absl::Status ValidateForCuda(const WindowAttentionParams& p) {
  if (p.head_dim % 16 != 0 || p.head_dim > 256) {
    return absl::UnimplementedError(absl::StrCat(
        "WindowAttention: head_dim: CUDA takes multiples of 16 up to 256, found ", p.head_dim));
  }
  const struct {
    const char* name;
    const BF16* data;
    int64_t stride;
  } tensors[] = {{"q", p.q_bf16, p.q_stride},
                 {"k", p.k_bf16, p.k_stride},
                 {"v", p.v_bf16, p.v_stride},
                 {"out", p.out_bf16, p.out_stride},
                 {"k_ring", p.k_ring_bf16, p.k_slot_stride},
                 {"v_ring", p.v_ring_bf16, p.v_slot_stride}};
  for (const auto& tensor : tensors) {
    if (Aligned(tensor.data, tensor.stride, 16)) continue;
    return absl::UnimplementedError(absl::StrCat(
        "WindowAttention: ", tensor.name,
        ": CUDA takes rows and slots that begin at multiples of 16 bytes, found a stride of ",
        tensor.stride, " elements"));
  }
  return absl::OkStatus();
}

// The split form where whole tiles would leave multiprocessors idle; a function of the params
// alone.
Partials ChooseForm(const WindowAttentionParams& p, int64_t tiles, const DeviceQueue& queue) {
  const int64_t per_token = p.heads / p.kv_heads, multiprocessors = queue.info().multiprocessors;
  const bool one_tile = p.rows.max_seq_rows * per_token <= kTile;
  if (tiles >= (one_tile ? 4 * multiprocessors : multiprocessors / 2 + 1)) return {};
  // A tile sees window + 1 keys and one more per further token.
  const int64_t tokens =
      std::min<int64_t>(p.rows.max_seq_rows, (kTile + per_token - 2) / per_token + 1);
  const int64_t groups = (p.window + tokens - 1 + kGroupTokens - 1) / kGroupTokens + 1;
  const size_t pairs = size_t(p.rows.num_rows) * p.heads;
  const size_t sums_bytes = pairs * groups * p.head_dim * sizeof(float);
  if (groups * tiles > (1 << 30) ||
      sums_bytes + pairs * groups * sizeof(float2) > queue.scratch_bytes()) {
    return {};
  }
  Partials partials;
  partials.groups = static_cast<int>(groups);
  partials.sums = static_cast<float*>(queue.scratch());
  partials.scales = reinterpret_cast<float2*>(static_cast<uint8_t*>(queue.scratch()) + sums_bytes);
  return partials;
}

}  // namespace
}  // namespace window

absl::Status WindowAttention(const WindowAttentionParams& p, DeviceQueue& queue) {
  using namespace window;
  RETURN_IF_ERROR(ValidateForCuda(p));
  const int64_t pairs = int64_t{p.rows.max_seq_rows} * (p.heads / p.kv_heads);
  const int64_t per_sequence = (pairs + kTile - 1) / kTile;
  const int64_t tiles = per_sequence * p.kv_heads * p.rows.num_seqs;
  const Partials partials = ChooseForm(p, tiles, queue);
  const std::string what =
      absl::StrCat("WindowAttention[rows ", p.rows.num_rows, ", sequences ", p.rows.num_seqs,
                   ", heads ", p.heads, " of ", p.head_dim, ", groups ", partials.groups, "]");
  if (tiles > (1 << 30)) return absl::UnimplementedError(absl::StrCat(what, ": too many tiles"));
  Tiling tiling;
  tiling.per_sequence = static_cast<int>(per_sequence);
  tiling.tasks = static_cast<int>(tiles * std::max(partials.groups, 1));
  RETURN_IF_ERROR(Check(p.head_dim <= 64    ? LaunchForm<64>(p, tiling, partials, queue)
                        : p.head_dim <= 128 ? LaunchForm<128>(p, tiling, partials, queue)
                                            : LaunchForm<256>(p, tiling, partials, queue),
                        what));
  const int64_t warps = MergeWarps(p, partials) + int64_t{p.rows.num_rows} * p.kv_heads;
  const auto blocks = static_cast<unsigned>((warps + kFinishWarps - 1) / kFinishWarps);
  return Check(Launch(FinishKernel, blocks, 32 * kFinishWarps, 0, queue, p, partials), what,
               ", second kernel");
}

}  // namespace reprise::kernels::cuda
