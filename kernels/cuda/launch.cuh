// Launching kernels, and what every kernel here begins with.
//
// All kernels are launched with programmatic dependent launch: a kernel may start while the one
// before it still runs. It must therefore call WaitForPrevious() before it touches anything that
// another kernel writes or still reads; only weights may be read earlier, and the step's offsets,
// slots and positions, which come by copies (a copy waits for all that was queued before it, and
// what is queued after it for the copy), and of the slots, which no kernel of a step but the reader
// writes, what is older than these copies. Every kernel must call it, or the order would not carry
// over to the kernel after it. LetNextStart() goes first: the next kernel then occupies what this
// one leaves free and fetches its weights.
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

inline cudaLaunchAttribute ClusterOf(int blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = blocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

// Blocks of the grid come in clusters of `cluster` consecutive ones, which are on the device at the
// same time and see each other's shared memory. Returns the launch's error; the kernel's own shows
// at the next synchronization. `shared_bytes` above 48 KiB need cudaFuncSetAttribute first, see
// AllowSharedBytes.
template <typename... Params, typename... Args>
cudaError_t LaunchClusters(int cluster, void (*kernel)(Params...), dim3 grid, dim3 block,
                           size_t shared_bytes, const DeviceQueue& queue, Args&&... args) {
  cudaLaunchAttribute attributes[2] = {{}, ClusterOf(cluster)};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(queue.stream());
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  if (error != cudaSuccess) queue.NoteLaunch(error);
  return error;
}

// How many clusters of a kernel find room on the device at once.
template <typename Kernel>
cudaError_t CountResidentClusters(int cluster, Kernel kernel, dim3 block, size_t shared_bytes,
                                  int& count) {
  cudaLaunchAttribute attribute = ClusterOf(cluster);
  cudaLaunchConfig_t config = {};
  config.gridDim = cluster;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(&count, kernel, &config);
}

template <typename... Params, typename... Args>
cudaError_t Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                   const DeviceQueue& queue, Args&&... args) {
  return LaunchClusters(1, kernel, grid, block, shared_bytes, queue, std::forward<Args>(args)...);
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
