#include "models/activations.h"

#include <algorithm>
#include <vector>

#include "base/status_macros.h"

namespace reprise::models {

namespace {

struct RowSize {
  kernels::Buffer Activations::*buffer;
  int64_t bytes;
};

std::vector<RowSize> RowSizes(const RecurrentGemmaConfig& config, kernels::Device device) {
  const auto has = [&](BlockType type) {
    return std::find(config.blocks.begin(), config.blocks.end(), type) != config.blocks.end();
  };
  const bool cuda = device == kernels::Device::kCuda;
  const int64_t lru = has(BlockType::kRecurrent) ? config.lru_width : 0;
  const bool attention = has(BlockType::kAttention);
  const int64_t q = attention ? config.q_width() : 0;
  const int64_t kv = attention ? config.kv_width() : 0;
  const int64_t rope = attention ? config.rotary_dims / 2 : 0;
  const int64_t wide = sizeof(float);
  const int64_t squares = wide * kernels::SquareGroups(static_cast<int>(config.hidden_size));
  const int64_t fed = cuda ? sizeof(kernels::BF16) : sizeof(float);

  return {
      {&Activations::residual, wide * config.hidden_size},
      {&Activations::normed, fed * config.hidden_size},
      {&Activations::squares, cuda ? squares : 0},
      {&Activations::delta, wide * config.hidden_size},
      {&Activations::picked, cuda ? fed * config.hidden_size : 0},
      {&Activations::picked_squares, cuda ? squares : 0},
      {&Activations::mlp, fed * config.mlp_width * (cuda ? 1 : 2)},
      {&Activations::lru_in, wide * 2 * lru},
      {&Activations::lru_conv, wide * lru},
      {&Activations::lru_conv_in, cuda ? fed * lru : 0},
      {&Activations::gates, wide * 2 * lru},
      {&Activations::lru_out, fed * lru},
      {&Activations::qkv, wide * (q + 2 * kv)},
      {&Activations::rotated, cuda ? fed * (q + 2 * kv) : 0},
      {&Activations::attended, fed * q},
      {&Activations::rope_cos, wide * rope},
      {&Activations::rope_sin, wide * rope},
  };
}

}  // namespace

int64_t Activations::RowBytes(const RecurrentGemmaConfig& config, kernels::Device device) {
  int64_t bytes = 0;
  for (const RowSize& size : RowSizes(config, device)) bytes += size.bytes;
  return bytes;
}

absl::StatusOr<Activations> Activations::Create(const RecurrentGemmaConfig& config, int max_rows,
                                                const kernels::Context& context) {
  Activations out;
  out.device = context.device;
  for (const auto& [buffer, row_bytes] : RowSizes(config, context.device)) {
    ASSIGN_OR_RETURN(out.*buffer, kernels::Buffer::Allocate(context.device, row_bytes * max_rows));
  }
  return out;
}

}  // namespace reprise::models
