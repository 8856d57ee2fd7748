// Four floats at a time where a tensor's layout allows it, one by one where not. Which of the two
// is chosen never changes a bit: a kernel does the same with every element.
#ifndef REPRISE_KERNELS_CUDA_VECTOR_CUH_
#define REPRISE_KERNELS_CUDA_VECTOR_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace reprise::kernels::cuda {

// kSize consecutive channels of a thread. Aligned, so that they are loaded and stored at once.
template <int kSize>
struct alignas(sizeof(float) * kSize) Floats {
  float v[kSize];
};

template <int kSize>
__device__ __forceinline__ Floats<kSize> LoadFloats(const float* from) {
  return *reinterpret_cast<const Floats<kSize>*>(from);
}

template <int kSize>
__device__ __forceinline__ void StoreFloats(float* to, const Floats<kSize>& value) {
  *reinterpret_cast<Floats<kSize>*>(to) = value;
}

__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int kSize>
__device__ __forceinline__ void StoreRounded(BF16* to, const Floats<kSize>& value) {
  struct alignas(sizeof(__nv_bfloat16) * kSize) Rounded {
    __nv_bfloat16 v[kSize];
  } rounded;
#pragma unroll
  for (int i = 0; i < kSize; ++i) rounded.v[i] = ToBf16(value.v[i]);
  *reinterpret_cast<Rounded*>(to) = rounded;
}

// Whether rows of `stride` elements that begin at `data` (null: no tensor) can be taken in pieces
// of `bytes` bytes.
template <typename T>
bool Aligned(const T* data, int64_t stride, int bytes = 4 * sizeof(T)) {
  return data == nullptr || (reinterpret_cast<uintptr_t>(data) % bytes == 0 &&
                             stride * static_cast<int64_t>(sizeof(T)) % bytes == 0);
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_VECTOR_CUH_
