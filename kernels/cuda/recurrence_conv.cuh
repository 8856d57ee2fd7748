// One row of the short convolution: shared by the kernels whose width is known when they are
// compiled, so that they give equal bits.
#ifndef REPRISE_KERNELS_CUDA_RECURRENCE_CONV_CUH_
#define REPRISE_KERNELS_CUDA_RECURRENCE_CONV_CUH_

#include "kernels/cuda/vector.cuh"
#include "kernels/recurrence.h"

namespace reprise::kernels::cuda {

// The taps and the bias of a thread's channels.
template <int kWidth, int kSize>
struct Taps {
  Floats<kSize> weight[kWidth], bias;

  __device__ __forceinline__ Taps(const CausalConv1dParams& p, int channel) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      weight[j] = LoadFloats<kSize>(p.weight + int64_t{j} * p.channels + channel);
    }
    bias = p.bias != nullptr ? LoadFloats<kSize>(p.bias + channel) : Floats<kSize>{};
  }

  // inputs: the row's and those before it, oldest first.
  __device__ __forceinline__ Floats<kSize> Apply(const Floats<kSize>* inputs) const {
    Floats<kSize> sum = bias;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum.v[i] = fmaf(weight[j].v[i], inputs[j].v[i], sum.v[i]);
    }
    return sum;
  }
};

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_RECURRENCE_CONV_CUH_
