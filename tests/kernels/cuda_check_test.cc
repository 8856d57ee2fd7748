// What becomes of CUDA's errors. Needs no device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/check.h"

namespace reprise::kernels::cuda {
namespace {

using ::testing::HasSubstr;

TEST(CudaCheck, AnErrorNamesKernelShapeAndItself) {
  EXPECT_TRUE(Check(cudaSuccess, "MatMul").ok());
  const absl::Status status = Check(cudaErrorIllegalAddress, "MatMul[rows ", 8, "]");
  EXPECT_TRUE(absl::IsInternal(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("MatMul[rows 8]: cudaErrorIllegalAddress"));
  EXPECT_TRUE(absl::IsResourceExhausted(Check(cudaErrorMemoryAllocation, "pinned memory")));
}

TEST(CudaCheck, WhatADocumentedErrorLeavesBehind) {
  // "The process must be terminated and relaunched."
  for (const cudaError_t error :
       {cudaErrorIllegalAddress, cudaErrorLaunchTimeout, cudaErrorHardwareStackError,
        cudaErrorIllegalInstruction, cudaErrorMisalignedAddress, cudaErrorInvalidAddressSpace,
        cudaErrorInvalidPc, cudaErrorLaunchFailure, cudaErrorAssert, cudaErrorECCUncorrectable,
        cudaErrorNvlinkUncorrectable, cudaErrorContextIsDestroyed, cudaErrorUnknown}) {
    EXPECT_TRUE(Stays(error)) << cudaGetErrorName(error);
  }
  for (const cudaError_t error :
       {cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation,
        cudaErrorInvalidConfiguration, cudaErrorLaunchOutOfResources,
        cudaErrorCooperativeLaunchTooLarge, cudaErrorNotReady, cudaErrorStreamCaptureInvalidated}) {
    EXPECT_FALSE(Stays(error)) << cudaGetErrorName(error);
  }
}

}  // namespace
}  // namespace reprise::kernels::cuda
