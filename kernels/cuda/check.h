// CUDA's results as absl::Status.
#ifndef REPRISE_KERNELS_CUDA_CHECK_H_
#define REPRISE_KERNELS_CUDA_CHECK_H_

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::kernels::cuda {

// Whether every later call fails with it, too. The others are about one call only: its arguments,
// memory that is not to be had, a recording that went wrong.
inline bool Stays(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
    case cudaErrorInvalidValue:
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorNotReady:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorCooperativeLaunchTooLarge:
    case cudaErrorNotSupported:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureMerge:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorCapturedEvent:
    case cudaErrorStreamCaptureWrongThread:
    case cudaErrorInvalidClusterSize:
      return false;
    default:  // one that we do not know is taken for the worse
      return true;
  }
}

// `what` names the call or kernel and its shape: "MatMul[rows 1, n 2560, k 7680]".
template <typename... Parts>
absl::Status Check(cudaError_t error, const Parts&... what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat(what..., ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the next call is judged by itself
    return absl::ResourceExhaustedError(text);
  }
  return absl::InternalError(text);
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_CHECK_H_
