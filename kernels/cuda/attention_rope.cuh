// The rotation of queries and keys, shared by the kernels that do it, so that they give equal bits.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_ROPE_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_ROPE_CUH_

#include "kernels/attention.h"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {

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
    const Floats<kSize> other = LoadFloats<kSize>(lower ? x + half : x - half);
    const Floats<kSize> c = LoadFloats<kSize>(p.cos + row * half + i);
    const Floats<kSize> s = LoadFloats<kSize>(p.sin + row * half + i);
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      out.v[j] = fmaf(lower ? -other.v[j] : other.v[j], s.v[j], out.v[j] * c.v[j]);
    }
  }
  StoreRounded<kSize>(p.out_bf16 + row * p.out_stride + element, out);
}

// Whether pieces of 4 may be taken.
inline bool RotatesByFour(const RopeParams& p) {
  const int half = p.rotary_dims / 2;
  return p.head_dim % 4 == 0 && half % 4 == 0 && Aligned(p.x, p.x_stride) && Aligned(p.cos, half) &&
         Aligned(p.sin, half) && Aligned(p.out_bf16, p.out_stride);
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_ROPE_CUH_
