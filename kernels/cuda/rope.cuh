// Rotary positions, shared by the kernels that rotate.
#ifndef REPRISE_KERNELS_CUDA_ROPE_CUH_
#define REPRISE_KERNELS_CUDA_ROPE_CUH_

#include "kernels/attention.h"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {

// Elements of the lower half of a head, or of the upper one, turned; `other` are those of the other
// half.
template <int kSize>
__device__ __forceinline__ Floats<kSize> Turned(const Floats<kSize>& x, const Floats<kSize>& other,
                                                const Floats<kSize>& cos, const Floats<kSize>& sin,
                                                bool lower) {
  Floats<kSize> out;
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    out.v[j] = fmaf(lower ? -other.v[j] : other.v[j], sin.v[j], x.v[j] * cos.v[j]);
  }
  return out;
}

// Whether pieces of 4 may be taken.
inline bool RotatesByFour(const RopeParams& p) {
  const int half = p.rotary_dims / 2;
  return p.head_dim % 4 == 0 && half % 4 == 0 && Aligned(p.x, p.x_stride) && Aligned(p.cos, half) &&
         Aligned(p.sin, half);
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_ROPE_CUH_
