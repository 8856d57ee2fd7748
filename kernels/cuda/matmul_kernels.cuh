// What the two product kernels share.
#ifndef REPRISE_KERNELS_CUDA_MATMUL_KERNELS_CUH_
#define REPRISE_KERNELS_CUDA_MATMUL_KERNELS_CUH_

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/packed_layout.h"

namespace reprise::kernels::cuda {

// Where sums go.
struct MatMulOutput {
  int rows = 0;
  int n = 0;  // sums per block
  int64_t stride = 0;
  const float* bias = nullptr;
  Activation activation = Activation::kGeluTanh;
  float* out = nullptr;
  __nv_bfloat16* out_bf16 = nullptr;

  __device__ void Write(int64_t at, float value) const {
    if (out != nullptr) {
      out[at] = value;
    } else {
      out_bf16[at] = ToBf16(value);
    }
  }
};

// The two sums of one lane, row `strip_row` (0..7) of both strips of `tile`, for one row of x.
template <bool kGated>
__device__ __forceinline__ void Finish(const MatMulOutput& o, int block, int tile, int strip_row,
                                       int row, float low, float high) {
  if (row >= o.rows) return;
  if constexpr (kGated) {
    const int j = tile * kStripOutputs + strip_row, half = o.n / 2;
    if (j >= half) return;
    if (o.bias != nullptr) {
      low += o.bias[j];
      high += o.bias[half + j];
    }
    o.Write(row * o.stride + j, Activate(o.activation, low) * high);
  } else {
    const int j = tile * kTileOutputs + strip_row;
    const int64_t first = int64_t{block} * o.n;
    if (j < o.n) o.Write(row * o.stride + first + j, o.bias ? low + o.bias[first + j] : low);
    const int up = j + kStripOutputs;
    if (up < o.n) o.Write(row * o.stride + first + up, o.bias ? high + o.bias[first + up] : high);
  }
}

absl::Status LaunchFew(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue);
absl::Status LaunchMany(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue);

inline MatMulOutput OutputOf(const MatMulParams& params) {
  MatMulOutput output;
  output.rows = params.num_rows;
  output.n = params.weight->n();
  output.stride = params.out_stride;
  output.bias = params.bias;
  output.activation = params.activation;
  output.out = params.out;
  output.out_bf16 = reinterpret_cast<__nv_bfloat16*>(params.out_bf16);
  return output;
}

// "MatMul[rows 1, blocks 1, n 2560, k 7680]"
inline std::string Describe(const MatMulParams& params) {
  return absl::StrCat("MatMul[rows ", params.num_rows, ", blocks ", params.weight->blocks(), ", n ",
                      params.weight->n(), ", k ", params.weight->k(), "]");
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_MATMUL_KERNELS_CUH_
