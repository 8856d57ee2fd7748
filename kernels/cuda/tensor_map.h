// Descriptions of tensors for the copy engine.
#ifndef REPRISE_KERNELS_CUDA_TENSOR_MAP_H_
#define REPRISE_KERNELS_CUDA_TENSOR_MAP_H_

#include <cuda.h>

#include "absl/status/statusor.h"
#include "kernels/cuda/check.h"

namespace reprise::kernels::cuda {

// The driver's function, asked for at run time: nothing here links the driver.
using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

inline absl::StatusOr<EncodeTiled> FindEncodeTiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_ERROR(Check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                         cudaEnableDefault, &found),
                        "cuTensorMapEncodeTiled"));
  if (found != cudaDriverEntryPointSuccess) {
    return absl::InternalError("the driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<EncodeTiled>(function);
}

template <int kRank>
absl::StatusOr<CUtensorMap> MakeMap(CUtensorMapDataType type, const void* data,
                                    const cuuint64_t (&sizes)[kRank],
                                    const cuuint64_t (&strides)[kRank - 1],
                                    const cuuint32_t (&box)[kRank], CUtensorMapSwizzle swizzle) {
  static const absl::StatusOr<EncodeTiled> encode = FindEncodeTiled();
  RETURN_IF_ERROR(encode.status());
  const cuuint32_t steps[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      (*encode)(&map, type, kRank, const_cast<void*>(data), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InternalError(absl::StrCat("cuTensorMapEncodeTiled: CUDA error ", int{result}));
  }
  return map;
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_TENSOR_MAP_H_
