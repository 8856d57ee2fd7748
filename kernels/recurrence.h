// Operations that carry a sequence's state along time: short convolution and diagonal recurrence.
#ifndef REPRISE_KERNELS_RECURRENCE_H_
#define REPRISE_KERNELS_RECURRENCE_H_

#include <cstdint>

#include "kernels/kernels.h"

namespace reprise::kernels {

// Causal depthwise convolution (family C):
//   out[t, c] = bias[c] + sum_{j = 0..width-1} weight[j, c] * x[t - width + 1 + j, c]
// added in the order j = 0, 1, ..., bias first. Inputs before the rows of this step come from the
// state, the last width - 1 inputs of the sequence (oldest first; zeros before position 0, whatever
// the state holds there). The state is moved to the end of the rows. out may not alias x.
struct CausalConv1dParams {
  RaggedRows rows;
  int channels = 0;
  int width = 0;  // 1..8; 1 has no state
  int64_t x_stride = 0, out_stride = 0;
  int64_t state_slot_stride = 0;  // floats between slots, >= (width - 1) * channels
  int num_slots = 0;
  const float* x = nullptr;       // [num_rows, channels]
  const float* weight = nullptr;  // [width, channels]
  const float* bias = nullptr;    // [channels] or null
  float* state = nullptr;         // [num_slots, width - 1, channels]
  float* out = nullptr;           // [num_rows, channels]
  BF16* out_bf16 = nullptr;       // CUDA: [num_rows, channels], a rounded copy of out, or null
};
absl::Status CausalConv1d(const CausalConv1dParams& params, const Context& context);

// Real-gated linear recurrent unit, De et al. 2024 ("Griffin"), section 2.4 (family D):
//   i = sigmoid(input_gate), r = sigmoid(recurrent_gate)
//   log a = log_a_scale * r   with log_a_scale = -8 softplus(Lambda), per channel
//   a = exp(log a),  m = sqrt(1 - a^2) = sqrt(-expm1(2 log a));  position 0: a = 0, m = 1
//   h_t = a h_{t-1} + m i u
// State per channel, in the grid form: h_grid (h at the last grid boundary), and from there on
// h_local (the recurrence started at 0) and a_prod (the product of a, started at 1):
//   h_local = fma(a, h_local, m i u);  a_prod *= a;  out = fma(a_prod, h_grid, h_local)
// When the position after a row is a multiple of kGridTokens, h_grid = out, h_local = 0, a_prod
// = 1. At position 0 the old state is not read. With `join`, out is multiplied by
// act(join) (the block's other branch); the state is not. out may alias u or a gate.
struct RgLruParams {
  RaggedRows rows;
  int width = 0;
  Activation join_activation = Activation::kGeluTanh;
  int64_t u_stride = 0, gate_stride = 0, join_stride = 0, out_stride = 0;  // between rows
  int64_t state_slot_stride = 0;  // floats between slots, >= 3 * width
  int num_slots = 0;
  const float* u = nullptr;               // [num_rows, width]
  const float* input_gate = nullptr;      // [num_rows, width], before the sigmoid
  const float* recurrent_gate = nullptr;  // [num_rows, width], before the sigmoid
  const float* log_a_scale = nullptr;     // [width], <= 0
  const float* join = nullptr;            // [num_rows, width], before the activation, or null
  float* state = nullptr;                 // [num_slots, 3, width]: h_grid, h_local, a_prod
  float* out = nullptr;                   // [num_rows, width]
  BF16* out_bf16 = nullptr;               // CUDA: instead of out, rounded
};
absl::Status RgLru(const RgLruParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_RECURRENCE_H_
