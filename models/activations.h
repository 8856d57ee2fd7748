// The intermediate values of one step, allocated once for the most rows that a step may have.
#ifndef REPRISE_MODELS_ACTIVATIONS_H_
#define REPRISE_MODELS_ACTIVATIONS_H_

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "models/recurrent_gemma_config.h"

namespace reprise::models {

// All float32, rows of a step outermost. A layer's values are dead when the next layer begins.
struct Activations {
  kernels::Buffer residual;  // [max_rows, hidden]
  kernels::Buffer normed;    // [max_rows, hidden]
  kernels::Buffer delta;     // [max_rows, hidden], what a mixer or MLP adds to the residual

  kernels::Buffer mlp_gate;  // [max_rows, mlp_width]
  kernels::Buffer mlp_up;    // [max_rows, mlp_width]

  kernels::Buffer lru_y;           // [max_rows, lru_width]
  kernels::Buffer lru_x;           // [max_rows, lru_width]
  kernels::Buffer lru_conv;        // [max_rows, lru_width]
  kernels::Buffer input_gate;      // [max_rows, lru_width]
  kernels::Buffer recurrent_gate;  // [max_rows, lru_width]

  kernels::Buffer q;         // [max_rows, heads, head_dim]
  kernels::Buffer k;         // [max_rows, kv_heads, head_dim]
  kernels::Buffer v;         // [max_rows, kv_heads, head_dim]
  kernels::Buffer attended;  // [max_rows, heads, head_dim]
  kernels::Buffer rope_cos;  // [max_rows, rotary_dims / 2]
  kernels::Buffer rope_sin;  // [max_rows, rotary_dims / 2]

  static absl::StatusOr<Activations> Create(const RecurrentGemmaConfig& config, int max_rows,
                                            const kernels::Context& context);
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_ACTIVATIONS_H_
