// Operations within one row. Bound by bytes when rows are many and by latency when they are few.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// The sum of one number per thread: within a warp halves of 16, 8, 4, 2, 1 lanes are added, then
// the eight warps in the same way.
__device__ __forceinline__ float BlockSum(float value) {
  __shared__ float sums[kThreads / 32];
#pragma unroll
  for (int half = 16; half > 0; half /= 2) value += __shfl_xor_sync(~0u, value, half);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float warps[kThreads / 32];
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) warps[i] = sums[i];
#pragma unroll
  for (int half = kThreads / 64; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) warps[i] += warps[i + half];
  }
  return warps[0];
}

// Four elements from i on; zeros beyond the row's end.
template <bool kVector>
__device__ __forceinline__ Floats<4> LoadFour(const float* row, int i, int dim) {
  Floats<4> out = {};
  if constexpr (kVector) {
    if (i < dim) out = LoadFloats<4>(row + i);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j < dim) out.v[j] = row[i + j];
    }
  }
  return out;
}

template <bool kVector>
__device__ __forceinline__ void StoreFour(float* row, int i, int dim, const Floats<4>& value) {
  if constexpr (kVector) {
    if (i < dim) StoreFloats<4>(row + i, value);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j < dim) row[i + j] = value.v[j];
    }
  }
}

// One block per row. Thread t has the elements 4t .. 4t+3 of every 1024: partial sum t. A row of up
// to kPieces * 1024 elements stays in registers; kPieces = 0 reads it twice.
template <int kPieces, bool kVector>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(RmsNormParams p) {
  LetNextStart();
  constexpr int kKept = kPieces == 0 ? 1 : kPieces;
  const int pieces = kPieces == 0 ? (p.dim + 4 * kThreads - 1) / (4 * kThreads) : kPieces;
  const auto at = [](int piece) { return (piece * kThreads + static_cast<int>(threadIdx.x)) * 4; };
  Floats<4> weight[kKept] = {};
  if (kPieces > 0 && p.out_bf16 != nullptr) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) weight[i] = LoadFour<kVector>(p.weight, at(i), p.dim);
  }
  WaitForPrevious();
  const int64_t row = p.row_ids != nullptr ? p.row_ids[blockIdx.x] : blockIdx.x;
  float* const x = p.x + row * p.dim;
  const float* const delta = p.delta != nullptr ? p.delta + row * p.dim : nullptr;
  Floats<4> kept[kKept] = {};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < pieces; ++i) {
    Floats<4> value = LoadFour<kVector>(x, at(i), p.dim);
    if (delta != nullptr) {
      const Floats<4> more = LoadFour<kVector>(delta, at(i), p.dim);
#pragma unroll
      for (int j = 0; j < 4; ++j) value.v[j] += more.v[j];
      StoreFour<kVector>(x, at(i), p.dim, value);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) sum = fmaf(value.v[j], value.v[j], sum);
    if (kPieces > 0) kept[i] = value;
  }
  if (p.out_bf16 == nullptr) return;
  const float mean = BlockSum(sum) / static_cast<float>(p.dim);
  const float inverse = 1.0f / sqrtf(mean + p.eps);
  BF16* const out = p.out_bf16 + static_cast<int64_t>(blockIdx.x) * p.dim;
#pragma unroll
  for (int i = 0; i < pieces; ++i) {
    // What this thread added above it reads back itself.
    const Floats<4> value = kPieces > 0 ? kept[i] : LoadFour<kVector>(x, at(i), p.dim);
    const Floats<4> w = kPieces > 0 ? weight[i] : LoadFour<kVector>(p.weight, at(i), p.dim);
    Floats<4> normed;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      normed.v[j] = (value.v[j] * inverse) * (p.weight_offset + w.v[j]);
    }
    if constexpr (kVector) {
      if (at(i) < p.dim) StoreRounded<4>(out + at(i), normed);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (at(i) + j < p.dim) StoreRounded<1>(out + at(i) + j, {{normed.v[j]}});
      }
    }
  }
}

template <int kPieces>
cudaError_t LaunchRmsNorm(const RmsNormParams& p, const DeviceQueue& queue) {
  const bool vector = Aligned(p.x, p.dim) && Aligned(p.delta, p.dim) && Aligned(p.weight, p.dim) &&
                      Aligned(p.out_bf16, p.dim);
  return Launch(vector ? RmsNormKernel<kPieces, true> : RmsNormKernel<kPieces, false>, p.num_rows,
                kThreads, 0, queue, p);
}

// grid: rows x pieces of kThreads * kSize columns, pieces fastest.
template <int kSize>
__global__ void __launch_bounds__(kThreads) GatedKernel(GatedActivationParams p, int pieces) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = blockIdx.x / pieces;
  const int column = (blockIdx.x % pieces * kThreads + threadIdx.x) * kSize;
  if (column >= p.dim) return;
  const Floats<kSize> gate = LoadFloats<kSize>(p.gate + row * p.gate_stride + column);
  const Floats<kSize> up = LoadFloats<kSize>(p.up + row * p.up_stride + column);
  Floats<kSize> out;
#pragma unroll
  for (int i = 0; i < kSize; ++i) out.v[i] = Activate(p.activation, gate.v[i]) * up.v[i];
  StoreFloats<kSize>(p.out + row * p.out_stride + column, out);
}

template <int kSize>
__global__ void __launch_bounds__(kThreads) SoftcapKernel(SoftcapParams p, int64_t count) {
  LetNextStart();
  WaitForPrevious();
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSize;
  if (at >= count) return;
  Floats<kSize> x = LoadFloats<kSize>(p.x + at);
#pragma unroll
  for (int i = 0; i < kSize; ++i) x.v[i] = p.cap * tanhf(x.v[i] / p.cap);
  StoreFloats<kSize>(p.x + at, x);
}

}  // namespace

absl::Status RmsNorm(const RmsNormParams& p, DeviceQueue& queue) {
  cudaError_t error = cudaSuccess;
  switch ((p.dim + 4 * kThreads - 1) / (4 * kThreads)) {
    case 1:
      error = LaunchRmsNorm<1>(p, queue);
      break;
    case 2:
      error = LaunchRmsNorm<2>(p, queue);
      break;
    case 3:
      error = LaunchRmsNorm<3>(p, queue);
      break;
    case 4:
      error = LaunchRmsNorm<4>(p, queue);
      break;
    default:
      error = LaunchRmsNorm<0>(p, queue);
  }
  return Check(error, "RmsNorm[rows ", p.num_rows, ", dim ", p.dim, "]");
}

absl::Status GatedActivation(const GatedActivationParams& p, DeviceQueue& queue) {
  const bool vector = p.dim % 4 == 0 && Aligned(p.gate, p.gate_stride) &&
                      Aligned(p.up, p.up_stride) && Aligned(p.out, p.out_stride);
  const int columns = vector ? 4 * kThreads : kThreads;
  const int pieces = (p.dim + columns - 1) / columns;
  const int64_t blocks = int64_t{p.num_rows} * pieces;
  return Check(Launch(vector ? GatedKernel<4> : GatedKernel<1>, static_cast<unsigned>(blocks),
                      kThreads, 0, queue, p, pieces),
               "GatedActivation[rows ", p.num_rows, ", dim ", p.dim, "]");
}

absl::Status Softcap(const SoftcapParams& p, DeviceQueue& queue) {
  const int64_t count = int64_t{p.num_rows} * p.dim;
  const bool vector = count % 4 == 0 && Aligned(p.x, count);
  const int64_t per_block = vector ? 4 * kThreads : kThreads;
  const int64_t blocks = (count + per_block - 1) / per_block;
  return Check(Launch(vector ? SoftcapKernel<4> : SoftcapKernel<1>, static_cast<unsigned>(blocks),
                      kThreads, 0, queue, p, count),
               "Softcap[rows ", p.num_rows, ", dim ", p.dim, "]");
}

}  // namespace reprise::kernels::cuda
