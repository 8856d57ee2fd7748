// Decode steps of few rows: bound by the bytes of the weights, which stream without a pause.
//
// One block per multiprocessor stays for a list of operations. Half of its warps fetch: each goes
// through the list ahead of the warp that it feeds, and fills a ring of slots that only that warp
// empties (see matmul_few.cu), for every product's weights in turn, whatever the state of the sums.
// So memory is busy while blocks wait for each other, read x and finish sums; only when the rings
// are full it has to pause. Between operations all blocks meet at a barrier in memory, unless they
// need not.
//
// The order of operations on every number is that of the kernels for single operations; where
// those have several orders to choose from, all give the same bits.
#include <algorithm>

#include "kernels/cuda/attention_finish.cuh"
#include "kernels/cuda/attention_rope.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/decode_recurrence.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/decode_step.h"

namespace reprise::kernels::cuda {
namespace decode {
namespace {

// All blocks of the grid. What they wrote before, they read after it past the L1 cache.
struct GridBarrier {
  uint32_t* arrived;
  uint32_t target = 0;
  __device__ __forceinline__ void Arrive() {
    SyncComputing();
    target += gridDim.x;
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
    }
  }
  __device__ __forceinline__ void Wait() const {
    if (threadIdx.x == 0) {
      uint32_t seen;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
      } while (static_cast<int32_t>(seen - target) < 0);
    }
    SyncComputing();
  }
};

__device__ __forceinline__ void PrefetchLine(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// `count` floats from `first` on, by all threads.
__device__ __forceinline__ void PrefetchFloats(const float* data, int first, int count) {
  if (data == nullptr) return;
  for (int i = threadIdx.x * 32; i < count; i += kComputing * 32) PrefetchLine(data + first + i);
}

// Small tensors of a later operation, which come from memory as the weights do.
__device__ void Prefetch(const Step& step, const Sequences& sequences, const StepOp& op) {
  const Share share(op);
  if (op.kind == Kind::kNormProduct || op.kind == Kind::kNorm)
    PrefetchFloats(op.norm.weight, 0, op.norm.dim);
  if (op.kind <= Kind::kProduct && share.tiles > 0) {
    const int first = share.first_tile * (op.gated ? kStripOutputs : kTileOutputs);
    const int last = min((share.first_tile + share.tiles) * kTileOutputs, op.output.n);
    if (!op.gated) {
      PrefetchFloats(op.output.scales, first, last - first);
      PrefetchFloats(op.output.bias, first, last - first);
    }
  }
  if (op.kind == Kind::kRecurrence && share.units > 0) {
    const int first = share.first * kStripOutputs, count = share.units * kStripOutputs;
    const int block_width = op.layout.Inputs();
    const int from = first / block_width * block_width;
    const int channels = (first + count - 1) / block_width * block_width + block_width - from;
    PrefetchFloats(op.lru.log_a_scale, first, count);
    PrefetchFloats(op.gate_bias, first, count);
    PrefetchFloats(op.gate_bias, op.lru.width + first, count);
    PrefetchFloats(op.conv.bias, from, channels);
    for (int j = 0; j < op.conv.width; ++j) {
      PrefetchFloats(op.conv.weight, j * op.conv.channels + from, channels);
    }
    for (int row = 0; row < step.rows; ++row) {
      const int64_t slot = sequences.slots[row];
      if (slot < 0) continue;
      for (int j = 0; j + 1 < op.conv.width; ++j) {
        PrefetchFloats(op.conv.state + slot * op.conv.state_slot_stride,
                       j * op.conv.channels + from, channels);
      }
      for (int j = 0; j < 3; ++j) {
        PrefetchFloats(op.lru.state + slot * op.lru.state_slot_stride, j * op.lru.width + first,
                       count);
      }
    }
  }
}

__device__ void Rotate(const Step& step, const RopeParams& p) {
  const int64_t count = int64_t{step.rows} * (p.heads + p.plain_heads) * p.head_dim / 4;
  for (int64_t i = blockIdx.x * kComputing + threadIdx.x; i < count; i += gridDim.x * kComputing) {
    RotatePiece<4>(p, i);
  }
}

__device__ void FinishAttention(const StepOp& op) {
  const int64_t count = window::FinishWarps(op.attention, op.partials);
  for (int64_t i = threadIdx.x / 32 * gridDim.x + blockIdx.x; i < count; i += gridDim.x * kWarps) {
    window::FinishPart(op.attention, op.partials, i, [] {});
  }
}

__global__ void __launch_bounds__(kThreads, 1) DecodeKernel(const __grid_constant__ Step step) {
  extern __shared__ __align__(128) char shared[];
  LetNextStart();
  __shared__ Sequences sequences;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int slots = step.depth * kWarps;
  char* const x = shared + step.x_offset;
  auto* const parts = reinterpret_cast<float4*>(shared + step.parts_offset);
  // Parameters are read through a small cache, one place at a time; operations are better off here,
  // and come as other memory does.
  auto* const ops = reinterpret_cast<StepOp*>(shared + step.ops_offset);
  const auto* const passed = reinterpret_cast<const uint4*>(step.ops);
  for (int i = threadIdx.x; i < step.count * static_cast<int>(sizeof(StepOp) / 16); i += kThreads) {
    uint4 piece;
    asm volatile("ld.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
                 : "l"(passed + i));
    reinterpret_cast<uint4*>(ops)[i] = piece;
  }
  Ring ring;
  ring.slots = shared;
  ring.full = reinterpret_cast<Barrier*>(shared + step.barriers_offset);
  ring.empty = ring.full + slots;
  ring.depth = step.depth;
  if (threadIdx.x < slots) {
    InitBarrier(&ring.full[threadIdx.x], 1);
    InitBarrier(&ring.empty[threadIdx.x], 1);
    PublishBarriers();
  }
  __syncthreads();
  if (warp >= kWarps) {
    if (lane == 0) {
      for (Feed feed(step, ops, warp - kWarps); feed.more();) feed.Next(ring);
    }
    __syncwarp();
    WaitForPrevious();
    return;
  }
  if (ops[0].kind != Kind::kRecurrence)
    Prefetch(step, sequences, ops[0]);  // whose slots may change
  WaitForPrevious();
  if (threadIdx.x < step.rows && step.slots != nullptr) {
    sequences.slots[threadIdx.x] = step.slots[threadIdx.x];
    sequences.positions[threadIdx.x] = step.positions[threadIdx.x];
  }
  SyncComputing();
  GridBarrier barrier = {step.arrived};
  const Lane lane_at(ring.slots, x, step.rows);
  RingPosition at = {warp, 0};
  int base = 0;
  for (int i = 0; i < step.count; ++i) {
    const StepOp& op = ops[i];
    if (op.barrier) {
      barrier.Arrive();
      if (i + 1 < step.count) Prefetch(step, sequences, ops[i + 1]);
      barrier.Wait();
    }
    const Share share(op);
    switch (op.kind) {
      case Kind::kNormProduct:
      case Kind::kProduct:
        if (op.kind == Kind::kNormProduct) {
          NormRow(op, 0, blockIdx.x == 0, x);
        } else {
          LoadX(step, op, x);
        }
        SyncComputing();
        Multiply(op, share, base, lane_at, parts, ring, at);
        break;
      case Kind::kNorm:
        if (static_cast<int>(blockIdx.x) < step.rows) {
          NormRow(op, blockIdx.x, true, reinterpret_cast<char*>(op.x + blockIdx.x * op.x_stride));
        }
        break;
      case Kind::kRecurrence:
        Recur(step, sequences, op, share, base, lane_at, reinterpret_cast<float*>(parts), x, ring,
              at);
        break;
      case Kind::kMoveConvState:
        MoveConvState(step, sequences, op.conv);
        break;
      case Kind::kRope:
        Rotate(step, op.rope);
        break;
      case Kind::kMerge:
        FinishAttention(op);
        break;
    }
    base += share.units;
  }
  SyncComputing();
  if (threadIdx.x == 0) {
    __threadfence();
    if (atomicAdd(step.left, 1) + 1 == gridDim.x) {
      *step.arrived = 0;
      *step.left = 0;
    }
  }
}

// Inputs of the gates that one block of the grid reads at most.
int SpanInputs(const DecodeRecurrence& op, const DeviceQueue& queue) {
  const int grid = queue.info().multiprocessors, inputs = op.gates.weight->k();
  const int strips = (op.lru.width / kStripOutputs + grid - 1) / grid;
  const int blocks = (strips * kStripOutputs - 2 + inputs) / inputs + 1;
  return std::min(blocks, op.lru.width / inputs) * inputs;
}

// All chunks as [chunks, 2 strips], in boxes of one strip of several chunks.
absl::StatusOr<CUtensorMap> MapStrips(const PackedMatrix& w) {
  constexpr int kElement = 8;
  const PackedLayout layout = LayoutOf(w);
  const cuuint64_t chunks = cuuint64_t(w.blocks()) * layout.tiles * layout.chunks;
  const cuuint32_t bytes = StripBytes(layout.e4m3);
  return MakeMap<3>(CU_TENSOR_MAP_DATA_TYPE_INT64, w.data(), {bytes / kElement, 2, chunks},
                    {bytes, 2 * bytes},
                    {bytes / kElement, 1, static_cast<cuuint32_t>(StripSlotChunks(layout.e4m3))},
                    CU_TENSOR_MAP_SWIZZLE_NONE);
}

// Collects operations and launches them.
class Builder {
 public:
  Builder(int rows, DeviceQueue& queue) : queue_(queue) {
    step_.rows = rows;
    step_.arrived = queue.counters();
    step_.left = queue.counters() + 32;  // in another line
  }

  absl::Status Add(const DecodeProduct& op) {
    StepOp added;
    const bool normed = op.norm.weight != nullptr;
    added.norm = op.norm;
    added.residual = op.residual;
    added.x = const_cast<__nv_bfloat16*>(reinterpret_cast<const __nv_bfloat16*>(op.matmul.x_bf16));
    added.x_stride = op.matmul.x_stride;
    // One row is normed by all blocks; with more rows that takes longer than to meet once more.
    const bool apart = normed && step_.rows > 1;
    if (apart) {
      added.kind = Kind::kNorm;
      RETURN_IF_ERROR(Push(added, 0, nullptr));
    }
    added.kind = normed && !apart ? Kind::kNormProduct : Kind::kProduct;
    const PackedMatrix& w = *op.matmul.weight;
    added.gated = w.gated();
    added.output = OutputOf(op.matmul);
    added.layout = LayoutOf(w);
    return Push(added, XRowBytes(added.layout.Inputs()), &w);
  }

  absl::Status Add(const DecodeRecurrence& op) {
    StepOp added;
    added.kind = Kind::kRecurrence;
    const PackedMatrix& w = *op.gates.weight;
    added.layout = LayoutOf(w);
    added.gate_chunks = w.blocks() / 2 * added.layout.tiles * added.layout.chunks;
    added.gate_bias = op.gates.bias;
    added.conv = op.conv;
    added.lru = op.lru;
    step_.slots = op.lru.rows.slots;  // the same for all operations
    step_.positions = op.lru.rows.start_positions;
    RETURN_IF_ERROR(Push(added, XRowBytes(SpanInputs(op, queue_)), &w));
    if (op.conv.width == 1) return absl::OkStatus();
    StepOp moved;
    moved.kind = Kind::kMoveConvState;
    moved.conv = op.conv;
    return Push(moved, 0, nullptr);
  }

  absl::Status Add(const DecodeAttention& op) {
    StepOp rope;
    rope.kind = Kind::kRope;
    rope.rope = op.rope;
    RETURN_IF_ERROR(Push(rope, 0, nullptr));
    RETURN_IF_ERROR(Launch());
    StepOp merge;
    merge.kind = Kind::kMerge;
    merge.attention = op.attention;
    ASSIGN_OR_RETURN(merge.partials, window::SumGroups(op.attention, queue_));
    return Push(merge, 0, nullptr);
  }

  absl::Status Launch() {
    if (step_.count == 0) return absl::OkStatus();
    const auto align = [](int bytes) { return (bytes + 127) / 128 * 128; };
    const int ops_bytes = step_.count * static_cast<int>(sizeof(StepOp));
    const int rest =
        align(x_bytes_) + kRoundUnits * kPartBytes + ops_bytes + kMostDepth * kWarps * 16;
    step_.depth = std::min(kMostDepth, (kSharedBytes - rest) / (kWarps * kSlotBytes));
    step_.x_offset = step_.depth * kWarps * kSlotBytes;
    step_.parts_offset = step_.x_offset + align(x_bytes_);
    step_.ops_offset = step_.parts_offset + kRoundUnits * kPartBytes;
    step_.barriers_offset = step_.ops_offset + ops_bytes;
    const std::string what =
        absl::StrCat("Decode[rows ", step_.rows, ", operations ", step_.count, "]");
    const int shared_bytes = step_.barriers_offset + step_.depth * kWarps * 16;
    RETURN_IF_ERROR(Check(AllowSharedBytes(DecodeKernel, shared_bytes), what, ": shared memory"));
    const cudaError_t error =
        LaunchAs({.together = true}, DecodeKernel, queue_.info().multiprocessors, kThreads,
                 shared_bytes, queue_, step_);
    step_.count = 0;
    x_bytes_ = 0;
    return Check(error, what);
  }

 private:
  static constexpr int kSharedBytes = 226 << 10;

  // `weights`: null where there are none.
  absl::Status Push(StepOp op, int x_row_bytes, const PackedMatrix* weights) {
    if (step_.count == kMostOps) RETURN_IF_ERROR(Launch());
    // The product that follows may begin at once.
    const bool beside = step_.count > 0 && step_.ops[step_.count - 1].kind == Kind::kMoveConvState;
    op.barrier = step_.count > 0 && !beside;
    constexpr int kTurn = 53;  // odd strips are spread evenly over the blocks: any turn will do
    op.shift = step_.count * kTurn % queue_.info().multiprocessors;
    if (weights != nullptr) {
      op.weights = static_cast<const char*>(weights->data());
      ASSIGN_OR_RETURN(step_.maps[step_.count], MapStrips(*weights));
    }
    step_.ops[step_.count++] = op;
    x_bytes_ = std::max(x_bytes_, x_row_bytes * step_.rows);
    return absl::OkStatus();
  }

  DeviceQueue& queue_;
  Step step_;
  int x_bytes_ = 0;
};

bool Fits(const RaggedRows& rows) {
  return rows.num_rows >= 1 && rows.num_rows <= kMostDecodeRows && rows.num_seqs == rows.num_rows &&
         rows.max_seq_rows == 1;
}

bool Fits(const DecodeProduct& op, const DeviceQueue&) {
  const MatMulParams& p = op.matmul;
  const PackedMatrix& w = *p.weight;
  if (p.num_rows < 1 || p.num_rows > kMostDecodeRows || w.blocks() != 1) return false;
  if (w.k() % kChunkInputs != 0) return false;
  if (XRowBytes(w.k()) * p.num_rows > kMostXBytes) return false;
  if (!Aligned(p.x_bf16, p.x_stride, 16)) return false;
  if (op.norm.weight == nullptr) return true;
  return op.norm.dim == w.k() && op.norm.dim <= kNormPieces * 4 * kComputing &&
         op.norm.row_ids == nullptr && Aligned(op.norm.x, op.norm.dim) &&
         Aligned(op.norm.delta, op.norm.dim) && Aligned(op.norm.weight, op.norm.dim) &&
         Aligned(op.residual, op.norm.dim);
}

bool Fits(const DecodeRecurrence& op, const DeviceQueue& queue) {
  const PackedMatrix& w = *op.gates.weight;
  // The floats of the convolution lie where the parts of products do.
  return Fits(op.lru.rows) && w.dtype() == DType::kBF16 && w.n() == w.k() &&
         w.k() % kChunkInputs == 0 && w.k() <= kMostInputs && w.blocks() == 2 * w.x_blocks() &&
         w.x_blocks() * w.k() == op.lru.width && op.conv.channels == op.lru.width &&
         Aligned(op.conv.x, op.conv.x_stride) &&
         Aligned(op.conv.state, op.conv.state_slot_stride) && Aligned(op.conv.weight, 4) &&
         Aligned(op.conv.bias, 4) && op.lru.join != nullptr && op.conv.width <= 8 &&
         SpanInputs(op, queue) * op.lru.rows.num_rows * 4 <= kRoundUnits * kPartBytes;
}

bool Fits(const DecodeAttention& op, const DeviceQueue&) {
  return Fits(op.attention.rows) && RotatesByFour(op.rope);
}

}  // namespace
}  // namespace decode

bool CanDecode(absl::Span<const DecodeOp> ops, const DeviceQueue& queue) {
  return !ops.empty() && std::all_of(ops.begin(), ops.end(), [&](const DecodeOp& op) {
    return std::visit([&](const auto& one) { return decode::Fits(one, queue); }, op);
  });
}

absl::Status Decode(absl::Span<const DecodeOp> ops, DeviceQueue& queue) {
  const int rows = std::visit(
      [](const auto& op) {
        if constexpr (requires { op.matmul; }) {
          return op.matmul.num_rows;
        } else if constexpr (requires { op.gates; }) {
          return op.gates.num_rows;
        } else {
          return op.rope.num_rows;
        }
      },
      ops[0]);
  decode::Builder builder(rows, queue);
  for (const DecodeOp& op : ops) {
    RETURN_IF_ERROR(std::visit([&](const auto& one) { return builder.Add(one); }, op));
  }
  return builder.Launch();
}

}  // namespace reprise::kernels::cuda
