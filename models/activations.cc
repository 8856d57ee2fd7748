#include "models/activations.h"

#include <algorithm>

#include "base/status_macros.h"

namespace reprise::models {

absl::StatusOr<Activations> Activations::Create(const RecurrentGemmaConfig& config, int max_rows,
                                                const kernels::Context& context) {
  const auto has = [&](BlockType type) {
    return std::find(config.blocks.begin(), config.blocks.end(), type) != config.blocks.end();
  };
  const bool cuda = context.device == kernels::Device::kCuda;
  const int64_t lru = has(BlockType::kRecurrent) ? config.lru_width : 0;
  const bool attention = has(BlockType::kAttention);
  const int64_t q = attention ? config.q_width() : 0;
  const int64_t kv = attention ? config.kv_width() : 0;
  const int64_t rope = attention ? config.rotary_dims / 2 : 0;
  const int64_t wide = sizeof(float);
  const int64_t fed = cuda ? sizeof(kernels::BF16) : sizeof(float);

  Activations out;
  out.device = context.device;
  const struct {
    kernels::Buffer* buffer;
    int64_t row_bytes;
  } sizes[] = {
      {&out.residual, wide * config.hidden_size},
      {&out.residual_next, cuda ? wide * config.hidden_size : 0},
      {&out.normed, fed * config.hidden_size},
      {&out.delta, wide * config.hidden_size},
      {&out.mlp, fed * config.mlp_width * (cuda ? 1 : 2)},
      {&out.lru_in, wide * 2 * lru},
      {&out.lru_conv, wide * lru},
      {&out.lru_conv_in, cuda ? fed * lru : 0},
      {&out.gates, wide * 2 * lru},
      {&out.lru_out, fed * lru},
      {&out.qkv, wide * (q + 2 * kv)},
      {&out.rotated, cuda ? fed * (q + 2 * kv) : 0},
      {&out.attended, fed * q},
      {&out.rope_cos, wide * rope},
      {&out.rope_sin, wide * rope},
  };
  for (const auto& [buffer, row_bytes] : sizes) {
    ASSIGN_OR_RETURN(*buffer, kernels::Buffer::Allocate(context.device, row_bytes * max_rows));
  }
  return out;
}

}  // namespace reprise::models
