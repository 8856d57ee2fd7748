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
#include "kernels/cuda/attention_finish.cuh"
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
      InitBarrier(memory.Full(i), kCopyThreads / 32 * kWarpArrivals);
      InitBarrier(memory.Empty(i), 4 * S::kTeams * kWarpArrivals);
    }
    for (int i = 0; i < 2; ++i) InitBarrier(memory.QueriesEmpty(i), 4 * S::kTeams * kWarpArrivals);
    FenceBarriers();
  }
  __syncthreads();
  WaitForPrevious();
  if (threadIdx.x / 128 == S::kTeams) {
    SetRegisters<S::kCopyRegisters, false>();
    Producer<kDim, Memory<kDim>> producer(p, memory);
    ForTasks(p, tiling, [&](const Task& task) { producer.Run(task); });
    producer.Finish();
  } else {
    SetRegisters<S::kTeamRegisters, true>();
    Consumer<kDim, kSplit> consumer(p, memory, partials, scale);
    ForTasks(p, tiling, [&](const Task& task) { consumer.Run(task); });
  }
}

constexpr int kFinishWarps = 4;

__global__ void __launch_bounds__(32 * kFinishWarps)
    FinishKernel(const __grid_constant__ WindowAttentionParams p,
                 const __grid_constant__ Partials partials) {
  LetNextStart();
  FinishPart(p, partials, int64_t{blockIdx.x} * kFinishWarps + threadIdx.x / 32);
}

template <int kDim, bool kSplit>
cudaError_t LaunchWindow(const WindowAttentionParams& p, const Tiling& tiling,
                         const Partials& partials, const DeviceQueue& queue) {
  using S = Shape<kDim>;
  const cudaError_t error = AllowSharedBytes(WindowKernel<kDim, kSplit>, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  const int resident = queue.info().multiprocessors * S::kBlocks;
  Tiling all = tiling;
  // Where there is a block for every group, pairs would only take longer.
  all.paired = tiling.groups > 1 && tiling.units > resident;
  if (all.paired) all.units -= all.tiles;
  return Launch(WindowKernel<kDim, kSplit>, std::min(all.units, resident), S::kThreads,
                S::kSharedBytes, queue, p, all, partials, p.scale * kLog2E);
}

template <int kDim>
cudaError_t LaunchForm(const WindowAttentionParams& p, const Tiling& tiling,
                       const Partials& partials, const DeviceQueue& queue) {
  return partials.groups > 0 ? LaunchWindow<kDim, true>(p, tiling, partials, queue)
                             : LaunchWindow<kDim, false>(p, tiling, partials, queue);
}

std::string Describe(const WindowAttentionParams& p, const Partials& partials) {
  return absl::StrCat("WindowAttention[rows ", p.rows.num_rows, ", sequences ", p.rows.num_seqs,
                      ", heads ", p.heads, " of ", p.head_dim, ", groups ", partials.groups, "]");
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
  const int64_t per_token = p.heads / p.kv_heads;
  const int multiprocessors = queue.info().multiprocessors;
  const bool one_tile = p.rows.max_seq_rows * per_token <= kTile;
  if (one_tile ? KeepsBusy(tiles, multiprocessors) : tiles >= multiprocessors / 2 + 1) return {};
  const int64_t tokens =
      std::min<int64_t>(p.rows.max_seq_rows, (kTile + per_token - 2) / per_token + 1);
  const int64_t groups = MostGroups(p.window, tokens);
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

// The first of two kernels: the products with queries, keys and values. FinishKernel does the rest.
absl::StatusOr<Partials> SumGroups(const WindowAttentionParams& p, DeviceQueue& queue) {
  RETURN_IF_ERROR(ValidateForCuda(p));
  const int64_t pairs = int64_t{p.rows.max_seq_rows} * (p.heads / p.kv_heads);
  const int64_t per_sequence = (pairs + kTile - 1) / kTile;
  const int64_t tiles = per_sequence * p.kv_heads * p.rows.num_seqs;
  const Partials partials = ChooseForm(p, tiles, queue);
  const std::string what = Describe(p, partials);
  if (tiles > (1 << 30)) return absl::UnimplementedError(absl::StrCat(what, ": too many tiles"));
  Tiling tiling;
  tiling.per_sequence = static_cast<int>(per_sequence);
  tiling.groups = partials.groups;
  tiling.tiles = static_cast<int>(tiles);
  tiling.units = static_cast<int>(tiles * std::max(partials.groups, 1));
  RETURN_IF_ERROR(Check(p.head_dim <= 64    ? LaunchForm<64>(p, tiling, partials, queue)
                        : p.head_dim <= 128 ? LaunchForm<128>(p, tiling, partials, queue)
                                            : LaunchForm<256>(p, tiling, partials, queue),
                        what));
  return partials;
}

}  // namespace
}  // namespace window

absl::Status WindowAttention(const WindowAttentionParams& p, DeviceQueue& queue) {
  using namespace window;
  ASSIGN_OR_RETURN(const Partials partials, SumGroups(p, queue));
  const auto blocks =
      static_cast<unsigned>((FinishWarps(p, partials) + kFinishWarps - 1) / kFinishWarps);
  return Check(Launch(FinishKernel, blocks, 32 * kFinishWarps, 0, queue, p, partials),
               Describe(p, partials), ", second kernel");
}

}  // namespace reprise::kernels::cuda
