// Norms, activations and other operations within one row.
#ifndef REPRISE_KERNELS_ELEMENTWISE_H_
#define REPRISE_KERNELS_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/kernels.h"

namespace reprise::kernels {

// Residual and RMS norm in one pass, on the CPU (on CUDA see ResidualStream in matmul.h):
//   if delta: x += delta;   out = x * rsqrt(mean(x^2) + eps) * (weight_offset + weight)
// Gemma-style norms have weight_offset 1. The sum of squares runs over 16 interleaved partial sums
// (element i goes to partial i mod 16, in order) that are added pairwise at the end, whatever the
// vector width. With row_ids, only those rows of x and delta are taken, and out
// is dense. out may be null (only the residual is added); out may not alias x or delta.
struct RmsNormParams {
  int num_rows = 0;
  int dim = 0;
  float eps = 1e-6f;
  float weight_offset = 1.0f;
  const float* delta = nullptr;      // [*, dim] or null
  const float* weight = nullptr;     // [dim]
  float* x = nullptr;                // [*, dim], updated when delta is given
  float* out = nullptr;              // [num_rows, dim] or null
  const int32_t* row_ids = nullptr;  // [num_rows], each row once, or null for 0..num_rows-1
};
absl::Status RmsNorm(const RmsNormParams& params, const Context& context);

// CUDA: rows of what a ResidualStream (matmul.h) leaves for its norm.
struct PickRowsParams {
  int num_rows = 0;
  int dim = 0;
  const int32_t* row_ids = nullptr;  // [num_rows]
  const BF16* weighted = nullptr;    // [*, dim]
  const float* squares = nullptr;    // [*, SquareGroups(dim)]
  BF16* out_weighted = nullptr;      // [num_rows, dim]
  float* out_squares = nullptr;      // [num_rows, SquareGroups(dim)]
};
absl::Status PickRows(const PickRowsParams& params, const Context& context);

// out = act(gate) * up, elementwise. out may be gate or up.
struct GatedActivationParams {
  Activation activation = Activation::kGeluTanh;
  int num_rows = 0;
  int dim = 0;
  int64_t gate_stride = 0, up_stride = 0, out_stride = 0;  // floats between rows, >= dim
  const float* gate = nullptr;                             // [num_rows, dim]
  const float* up = nullptr;                               // [num_rows, dim]
  float* out = nullptr;                                    // [num_rows, dim]
};
absl::Status GatedActivation(const GatedActivationParams& params, const Context& context);

// x = cap * tanh(x / cap), in place.
struct SoftcapParams {
  int num_rows = 0;
  int dim = 0;
  float cap = 30.0f;   // > 0
  float* x = nullptr;  // [num_rows, dim]
};
absl::Status Softcap(const SoftcapParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_ELEMENTWISE_H_
