#include "models/activations.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"

namespace reprise::models {

absl::StatusOr<Activations> Activations::Create(const RecurrentGemmaConfig& config, int max_rows,
                                                const kernels::Context& context) {
  const auto has = [&](BlockType type) {
    return std::find(config.blocks.begin(), config.blocks.end(), type) != config.blocks.end();
  };
  const int64_t lru = has(BlockType::kRecurrent) ? config.lru_width : 0;
  const bool attention = has(BlockType::kAttention);
  const int64_t q = attention ? config.q_width() : 0;
  const int64_t kv = attention ? config.kv_width() : 0;
  const int64_t rope = attention ? config.rotary_dims / 2 : 0;

  Activations out;
  const std::pair<kernels::Buffer*, int64_t> widths[] = {
      {&out.residual, config.hidden_size},
      {&out.normed, config.hidden_size},
      {&out.delta, config.hidden_size},
      {&out.mlp_gate, config.mlp_width},
      {&out.mlp_up, config.mlp_width},
      {&out.lru_y, lru},
      {&out.lru_x, lru},
      {&out.lru_conv, lru},
      {&out.input_gate, lru},
      {&out.recurrent_gate, lru},
      {&out.q, q},
      {&out.k, kv},
      {&out.v, kv},
      {&out.attended, q},
      {&out.rope_cos, rope},
      {&out.rope_sin, rope},
  };
  for (const auto& [buffer, width] : widths) {
    ASSIGN_OR_RETURN(*buffer,
                     kernels::Buffer::Allocate(context.device, sizeof(float) * width * max_rows));
  }
  return out;
}

}  // namespace reprise::models
