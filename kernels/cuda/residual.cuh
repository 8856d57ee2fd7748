// A residual stream and the norm that follows (ResidualStream in kernels/matmul.h), by whatever
// feeds it.
#ifndef REPRISE_KERNELS_CUDA_RESIDUAL_CUH_
#define REPRISE_KERNELS_CUDA_RESIDUAL_CUH_

#include "kernels/cuda/vector.cuh"
#include "kernels/matmul.h"

namespace reprise::kernels::cuda {

// Up to four consecutive elements of a row from `j` on, zeros beyond `dim`.
__device__ __forceinline__ Floats<4> LoadUpToFour(const float* row, int j, int dim, bool vectors) {
  Floats<4> values = {};
  if (vectors && j + 4 <= dim) {
    values = LoadFloats<4>(row + j);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j + i < dim) values.v[i] = row[j + i];
    }
  }
  return values;
}

// 16 neighbouring lanes have 64 consecutive elements of one row, four each from `j` on (beyond
// `dim`: none). Their `values` become the stream; what the norm needs goes with it. `weight`: of
// the norm.
__device__ __forceinline__ void WriteStream(const ResidualStream& r, int64_t row, int j, int dim,
                                            bool vectors, const Floats<4>& weight,
                                            const Floats<4>& values) {
  const int64_t at = row * dim + j;
  Floats<4> weighted;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    weighted.v[i] = values.v[i] * (r.weight_offset + weight.v[i]);
    sum = fmaf(values.v[i], values.v[i], sum);
  }
  if (vectors && j + 4 <= dim) {
    StoreFloats<4>(r.stream + at, values);
    StoreRounded<4>(r.weighted + at, weighted);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j + i >= dim) continue;
      r.stream[at + i] = values.v[i];
      StoreRounded<1>(r.weighted + at + i, {{weighted.v[i]}});
    }
  }
  const unsigned lanes = 0xffffu << (threadIdx.x & 16);
#pragma unroll
  for (int half = 8; half > 0; half /= 2) sum += __shfl_xor_sync(lanes, sum, half);
  if (threadIdx.x % 16 == 0 && j < dim) {
    r.squares[row * SquareGroups(dim) + j / kSquareGroup] = sum;
  }
}

inline bool InVectors(const ResidualStream& r, int dim) {
  return Aligned(r.stream, dim) && Aligned(r.weight, dim) && Aligned(r.weighted, dim);
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_RESIDUAL_CUH_
