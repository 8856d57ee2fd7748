// Launching kernels, and what every kernel here begins with.
//
// All kernels are launched with programmatic dependent launch: a kernel may start while the one
// before it still runs. It must therefore call WaitForPrevious() before it touches anything that
// another kernel writes or still reads; only weights may be read earlier, and the step's offsets,
// slots and positions, which come by copies (a copy waits for all that was queued before it, and
// what is queued after it for the copy). Every kernel must call it, or the order would not carry over to the kernel after it. LetNextStart() goes first: the next
// kernel then occupies what this one leaves free and fetches its weights.
#ifndef REPRISE_KERNELS_CUDA_LAUNCH_CUH_
#define REPRISE_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/check.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"

namespace reprise::kernels::cuda {

__device__ __forceinline__ void WaitForPrevious() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ __forceinline__ void LetNextStart() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// How the blocks of a grid are on the device: clusters of consecutive ones at the same time, which
// see each other's shared memory; `together`: all of them, as they wait for each other.
struct Placing {
  int cluster = 1;
  bool together = false;
};

// Returns the launch's error; the kernel's own shows at the next synchronization. `shared_bytes`
// above 48 KiB need cudaFuncSetAttribute first, see AllowSharedBytes.
template <typename... Params, typename... Args>
cudaError_t LaunchAs(Placing placing, void (*kernel)(Params...), dim3 grid, dim3 block,
                     size_t shared_bytes, const DeviceQueue& queue, Args&&... args) {
  cudaLaunchAttribute attributes[3] = {};
  cudaLaunchConfig_t config = {};
  const auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    attributes[config.numAttrs].id = id;
    return attributes[config.numAttrs++].val;
  };
  add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed = 1;
  if (placing.together) add(cudaLaunchAttributeCooperative).cooperative = 1;
  if (placing.cluster > 1) {
    auto& dims = add(cudaLaunchAttributeClusterDimension).clusterDim;
    dims.x = placing.cluster;
    dims.y = dims.z = 1;
  }
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(queue.stream());
  config.attrs = attributes;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  if (error != cudaSuccess) queue.NoteLaunch(error);
  return error;
}

template <typename... Params, typename... Args>
cudaError_t Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                   const DeviceQueue& queue, Args&&... args) {
  return LaunchAs({}, kernel, grid, block, shared_bytes, queue, std::forward<Args>(args)...);
}

template <typename Kernel>
cudaError_t AllowSharedBytes(Kernel kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

// Round to nearest even, as every bf16 tensor here is made.
__device__ __forceinline__ __nv_bfloat16 ToBf16(float value) { return __float2bfloat16_rn(value); }

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_LAUNCH_CUH_
