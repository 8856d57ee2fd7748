// States between slots and images. Bound by bytes: 16 per thread and turn.
#include <algorithm>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr uint64_t kPieceBytes = uint64_t{16} * kThreads * kUnroll;

// Destinations travel with the launch.
constexpr int kMaxTo = 64;
struct Destinations {
  int32_t slots[kMaxTo];
};

// grid: (pieces of the largest tensor, tensors). Every tensor's size, and so every slot's start, is
// a multiple of 16 bytes.
__global__ void __launch_bounds__(kThreads)
    CopySlotsKernel(SlotCopyParams p, const __grid_constant__ Destinations to) {
  LetNextStart();
  WaitForPrevious();
  const SlotTensor tensor = p.tensors[blockIdx.y];
  const uint64_t begin = blockIdx.x * kPieceBytes;
  if (begin >= tensor.bytes) return;
  const uint8_t* source = nullptr;
  if (p.from >= 0) source = tensor.data + p.from * tensor.bytes;
  if (p.image != nullptr) source = p.image + tensor.image_offset;
  uint4 values[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const uint64_t at = begin + (uint64_t{threadIdx.x} + i * kThreads) * 16;
    values[i] = make_uint4(0, 0, 0, 0);
    if (source != nullptr && at < tensor.bytes) {
      values[i] = __ldcs(reinterpret_cast<const uint4*>(source + at));
    }
  }
  const auto write = [&](uint8_t* destination) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const uint64_t at = begin + (uint64_t{threadIdx.x} + i * kThreads) * 16;
      if (at < tensor.bytes) __stcs(reinterpret_cast<uint4*>(destination + at), values[i]);
    }
  };
  for (int t = 0; t < p.num_to; ++t) write(tensor.data + to.slots[t] * tensor.bytes);
  if (p.image_out != nullptr) write(p.image_out + tensor.image_offset);
}

}  // namespace

absl::Status CopySlots(const SlotCopyParams& params, DeviceQueue& queue) {
  if (params.num_tensors == 0) return absl::OkStatus();
  const unsigned pieces =
      static_cast<unsigned>((params.largest_bytes + kPieceBytes - 1) / kPieceBytes);
  if (pieces == 0) return absl::OkStatus();
  SlotCopyParams part = params;
  int done = 0;
  do {
    part.num_to = std::min(params.num_to - done, kMaxTo);
    Destinations to = {};
    std::copy_n(params.to + done, part.num_to, to.slots);
    RETURN_IF_ERROR(Check(
        Launch(CopySlotsKernel, dim3(pieces, params.num_tensors), kThreads, 0, queue, part, to),
        "CopySlots[", params.num_tensors, " tensors, ", params.num_to, " slots]"));
    part.image_out = nullptr;
    done += part.num_to;
  } while (done < params.num_to);
  return absl::OkStatus();
}

}  // namespace reprise::kernels::cuda
