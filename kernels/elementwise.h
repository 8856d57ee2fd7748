// Norms, activations and other operations within one row.
#ifndef REPRISE_KERNELS_ELEMENTWISE_H_
#define REPRISE_KERNELS_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/kernels.h"

namespace reprise::kernels {

// Residual and RMS norm in one pass:
//   if delta: x += delta;   out = x * rsqrt(mean(x^2) + eps) * (weight_offset + weight)
// Gemma-style norms have weight_offset 1. The sum of squares runs over 16 interleaved partial sums
// (element i goes to partial i mod 16, in order) that are added pairwise at the end, whatever the
// vector width. out may be null (only the residual is added); out may not alias x or delta.
struct RmsNormParams {
  int num_rows = 0;
  int dim = 0;
  float eps = 1e-6f;
  float weight_offset = 1.0f;
  const float* delta = nullptr;   // [num_rows, dim] or null
  const float* weight = nullptr;  // [dim]
  float* x = nullptr;             // [num_rows, dim], updated when delta is given
  float* out = nullptr;           // [num_rows, dim] or null
};
absl::Status RmsNorm(const RmsNormParams& params, const Context& context);

// kGeluTanh: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); kGelu: with erf; kSilu: x sigmoid(x).
enum class Activation { kGeluTanh, kGelu, kSilu, kRelu };

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
