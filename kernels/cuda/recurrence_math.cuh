// One row of RG-LRU for one channel: shared by all kernels that run it, so that they give equal
// bits.
#ifndef REPRISE_KERNELS_CUDA_RECURRENCE_MATH_CUH_
#define REPRISE_KERNELS_CUDA_RECURRENCE_MATH_CUH_

#include "kernels/cuda/math.cuh"
#include "kernels/kernels.h"

namespace reprise::kernels::cuda {

inline constexpr int kNoJoin = -1;

// MUFU's square root is good to 1 ulp, a quarter of the cost of the exact one.
__device__ __forceinline__ float Sqrt(float x) {
  float out;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// One row of one channel: h = a h + driven.
struct Input {
  float a, driven;
};

__device__ __forceinline__ Input InputOf(float u, float input_gate, float recurrent_gate,
                                         float log_a_scale, bool first_position) {
  const float input = Sigmoid(input_gate) * u;
  // Position 0 has a = 0 and m = 1: what comes of a log a of minus infinity. Elsewhere -0 is added,
  // which changes nothing; a choice between the two would be a branch around half of the work.
  const float log_a =
      log_a_scale * Sigmoid(recurrent_gate) + (first_position ? -__builtin_huge_valf() : -0.0f);
  return {expf(log_a), Sqrt(-expm1f(log_a + log_a)) * input};
}

struct ChannelState {
  float grid, local, product;
};

__device__ __forceinline__ void Advance(const Input& in, ChannelState& state) {
  state.local = fmaf(in.a, state.local, in.driven);
  state.product = state.product * in.a;
}

__device__ __forceinline__ float Output(const ChannelState& state) {
  return fmaf(state.product, state.grid, state.local);
}

template <int kJoin>
__device__ __forceinline__ float Joined(float out, float join) {
  if constexpr (kJoin == kNoJoin) {
    return out;
  } else {
    return Activate(static_cast<Activation>(kJoin), join) * out;
  }
}

// launch.operator()<kJoin>() for this activation.
template <typename Launch>
cudaError_t LaunchJoined(Activation activation, const Launch& launch) {
  switch (activation) {
    case Activation::kGeluTanh:
      return launch.template operator()<static_cast<int>(Activation::kGeluTanh)>();
    case Activation::kGelu:
      return launch.template operator()<static_cast<int>(Activation::kGelu)>();
    case Activation::kSilu:
      return launch.template operator()<static_cast<int>(Activation::kSilu)>();
    case Activation::kRelu:
      return launch.template operator()<static_cast<int>(Activation::kRelu)>();
  }
  return cudaErrorInvalidValue;
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_RECURRENCE_MATH_CUH_
