// Rotary positions. Window attention: attention_window.cu.
#include "kernels/attention.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per element of the tables. The roundings to float32 are those of the reference
// implementations.
__global__ void __launch_bounds__(kThreads) RopeTableKernel(RopeTableParams p, int64_t count) {
  LetNextStart();
  WaitForPrevious();
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  const int half = p.rotary_dims / 2;
  const int64_t row = at / half;
  const int i = static_cast<int>(at % half), s = p.rows.row_seqs[row];
  float cosine = 0.0f, sine = 0.0f;
  if (p.rows.slots[s] >= 0) {
    const int64_t position = p.rows.start_positions[s] + row - p.rows.seq_offsets[s];
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(p.rotary_dims);
    const float inverse = 1.0f / static_cast<float>(pow(double{p.theta}, double{exponent}));
    const double angle = static_cast<float>(position) * inverse;
    cosine = static_cast<float>(cos(angle));
    sine = static_cast<float>(sin(angle));
  }
  p.cos[at] = cosine;
  p.sin[at] = sine;
}

// Piece `number` of kSize elements of the output.
template <int kSize>
__device__ __forceinline__ void RotatePiece(const RopeParams& p, int64_t number) {
  const int per_row = (p.heads + p.plain_heads) * p.head_dim / kSize;
  const int64_t row = number / per_row;
  const int element = static_cast<int>(number % per_row) * kSize;
  const int head = element / p.head_dim, dim = element % p.head_dim;
  const float* const x = p.x + row * p.x_stride + element;
  Floats<kSize> out = LoadFloats<kSize>(x);
  if (head < p.heads && dim < p.rotary_dims) {
    const int half = p.rotary_dims / 2, i = dim % half;
    const bool lower = dim < half;
    out = Turned(out, LoadFloats<kSize>(lower ? x + half : x - half),
                 LoadFloats<kSize>(p.cos + row * half + i),
                 LoadFloats<kSize>(p.sin + row * half + i), lower);
  }
  StoreRounded<kSize>(p.out_bf16 + row * p.out_stride + element, out);
}

// One thread per kSize elements of the output.
template <int kSize>
__global__ void __launch_bounds__(kThreads) RopeKernel(RopeParams p, int64_t count) {
  LetNextStart();
  WaitForPrevious();
  const int64_t number = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (number < count) RotatePiece<kSize>(p, number);
}

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

absl::Status RopeTable(const RopeTableParams& p, DeviceQueue& queue) {
  const int64_t count = int64_t{p.rows.num_rows} * (p.rotary_dims / 2);
  return Check(Launch(RopeTableKernel, Blocks(count), kThreads, 0, queue, p, count),
               "RopeTable[rows ", p.rows.num_rows, ", rotary_dims ", p.rotary_dims, "]");
}

absl::Status Rope(const RopeParams& p, DeviceQueue& queue) {
  const int64_t count = int64_t{p.num_rows} * (p.heads + p.plain_heads) * p.head_dim;
  const bool vector = RotatesByFour(p) && Aligned(p.out_bf16, p.out_stride);
  return Check(vector ? Launch(RopeKernel<4>, Blocks(count / 4), kThreads, 0, queue, p, count / 4)
                      : Launch(RopeKernel<1>, Blocks(count), kThreads, 0, queue, p, count),
               "Rope[rows ", p.num_rows, ", heads ", p.heads + p.plain_heads, " of ", p.head_dim,
               "]");
}

}  // namespace reprise::kernels::cuda
