// Elementary functions of float32 on the device: the formulas of docs/numerics.md, with the
// accurate functions of CUDA's library (expf 2 ulp, tanhf 2, expm1f 1, normcdff 5) and the
// hardware's reciprocal.
#ifndef REPRISE_KERNELS_CUDA_MATH_CUH_
#define REPRISE_KERNELS_CUDA_MATH_CUH_

#include <cuda_runtime.h>

#include "kernels/kernels.h"

namespace reprise::kernels::cuda {

// 1 / x for x >= 1 within 1 ulp, +0 where that would be subnormal. A division has a branch for rare
// operands, which keeps neighbouring ones from overlapping.
__device__ __forceinline__ float Reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// 1 / (1 + e^-x). expf gives infinity where it overflows, so the result goes to +0.
__device__ __forceinline__ float Sigmoid(float x) { return Reciprocal(1.0f + expf(-x)); }

// x (1 + tanh u) / 2 written as x sigmoid(2u), which keeps its digits for u < 0.
__device__ __forceinline__ float GeluTanh(float x) {
  constexpr float kTwoSqrtTwoOverPi = 1.5957691216057308f;
  return x * Sigmoid(fmaf(x * x * x, 0.044715f, x) * kTwoSqrtTwoOverPi);
}

// normcdff is relatively exact in the left tail, where 1 + erf(x / sqrt(2)) cancels.
__device__ __forceinline__ float Gelu(float x) { return x * normcdff(x); }

__device__ __forceinline__ float Silu(float x) { return x * Sigmoid(x); }

__device__ __forceinline__ float Relu(float x) { return fmaxf(x, 0.0f); }

// The switch is uniform over a launch, so it costs a branch.
__device__ __forceinline__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return GeluTanh(x);
    case Activation::kGelu:
      return Gelu(x);
    case Activation::kSilu:
      return Silu(x);
    case Activation::kRelu:
      return Relu(x);
  }
  return 0.0f;
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_MATH_CUH_
