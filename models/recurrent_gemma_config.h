// config.json of model_type "recurrent_gemma": every key that changes the forward pass.
#ifndef REPRISE_MODELS_RECURRENT_GEMMA_CONFIG_H_
#define REPRISE_MODELS_RECURRENT_GEMMA_CONFIG_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/elementwise.h"

namespace reprise::models {

enum class BlockType { kRecurrent, kAttention };

// Defaults are those of transformers' RecurrentGemmaConfig; docs/architectures.md lists the keys
// and where their readers differ. Products of the sizes stay far below 2^63 (see the limits in the
// .cc).
struct RecurrentGemmaConfig {
  int vocab_size = 256000;
  int hidden_size = 2560;
  int num_layers = 26;
  int mlp_width = 3840;  // intermediate_size / 2
  int num_heads = 10;
  int num_kv_heads = 10;
  int head_dim = 256;
  int lru_width = 2560;
  int window = 2048;
  int conv_width = 4;
  float logits_soft_cap = 30.0f;  // 0 = off
  float rms_norm_eps = 1e-6f;
  float rope_theta = 10000.0f;
  int rotary_dims = 128;  // even, of head_dim
  kernels::Activation activation = kernels::Activation::kGeluTanh;
  bool attention_bias = false;  // of q, k and v; the output projection always has one
  bool tie_word_embeddings = true;
  bool scale_embeddings = true;
  std::vector<BlockType> blocks;  // [num_layers]

  // RG-LRU's gates are block-diagonal with one block per attention head.
  int lru_block() const { return lru_width / num_heads; }
  int q_width() const { return num_heads * head_dim; }
  int kv_width() const { return num_kv_heads * head_dim; }

  // INVALID_ARGUMENT naming the key for a value of a wrong type or out of range; UNIMPLEMENTED for
  // an option that is legal elsewhere and not supported here.
  static absl::StatusOr<RecurrentGemmaConfig> FromJson(const nlohmann::json& config);
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_RECURRENT_GEMMA_CONFIG_H_
