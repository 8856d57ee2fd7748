#include "models/weight_table.h"

#include "absl/strings/str_cat.h"

namespace reprise::models {

absl::Span<const WeightSpec> WeightTable() {
  using enum WeightId;
  using enum WeightPlace;
  using enum Dim;
  static const auto* const table = new std::vector<WeightSpec>{
      {kEmbedding, kModel, "embed_tokens.weight", {kVocab, kHidden}},
      {kLmHead, kUntied, "lm_head.weight", {kVocab, kHidden}},
      {kFinalNorm, kModel, "final_norm.weight", {kHidden}},
      {kTemporalNorm, kEveryLayer, "temporal_pre_norm.weight", {kHidden}},
      {kChannelNorm, kEveryLayer, "channel_pre_norm.weight", {kHidden}},
      {kMlpGate, kEveryLayer, "mlp_block.gate_proj.weight", {kMlp, kHidden}},
      {kMlpGateBias, kEveryLayer, "mlp_block.gate_proj.bias", {kMlp}},
      {kMlpUp, kEveryLayer, "mlp_block.up_proj.weight", {kMlp, kHidden}},
      {kMlpUpBias, kEveryLayer, "mlp_block.up_proj.bias", {kMlp}},
      {kMlpDown, kEveryLayer, "mlp_block.down_proj.weight", {kHidden, kMlp}},
      {kMlpDownBias, kEveryLayer, "mlp_block.down_proj.bias", {kHidden}},
      {kLinearX, kRecurrent, "temporal_block.linear_x.weight", {kLru, kHidden}},
      {kLinearXBias, kRecurrent, "temporal_block.linear_x.bias", {kLru}},
      {kLinearY, kRecurrent, "temporal_block.linear_y.weight", {kLru, kHidden}},
      {kLinearYBias, kRecurrent, "temporal_block.linear_y.bias", {kLru}},
      {kLinearOut, kRecurrent, "temporal_block.linear_out.weight", {kHidden, kLru}},
      {kLinearOutBias, kRecurrent, "temporal_block.linear_out.bias", {kHidden}},
      {kConv, kRecurrent, "temporal_block.conv_1d.weight", {kLru, kOne, kConvWidth}},
      {kConvBias, kRecurrent, "temporal_block.conv_1d.bias", {kLru}},
      {kRecurrentParam, kRecurrent, "temporal_block.rg_lru.recurrent_param", {kLru}},
      {kInputGate,
       kRecurrent,
       "temporal_block.rg_lru.input_gate_weight",
       {kHeads, kLruBlock, kLruBlock}},
      {kInputGateBias, kRecurrent, "temporal_block.rg_lru.input_gate_bias", {kHeads, kLruBlock}},
      {kRecurrentGate,
       kRecurrent,
       "temporal_block.rg_lru.recurrent_gate_weight",
       {kHeads, kLruBlock, kLruBlock}},
      {kRecurrentGateBias,
       kRecurrent,
       "temporal_block.rg_lru.recurrent_gate_bias",
       {kHeads, kLruBlock}},
      {kQuery, kAttention, "temporal_block.q_proj.weight", {kQueries, kHidden}},
      {kQueryBias, kAttentionBias, "temporal_block.q_proj.bias", {kQueries}},
      {kKey, kAttention, "temporal_block.k_proj.weight", {kKeys, kHidden}},
      {kKeyBias, kAttentionBias, "temporal_block.k_proj.bias", {kKeys}},
      {kValue, kAttention, "temporal_block.v_proj.weight", {kKeys, kHidden}},
      {kValueBias, kAttentionBias, "temporal_block.v_proj.bias", {kKeys}},
      {kAttentionOut, kAttention, "temporal_block.o_proj.weight", {kHidden, kQueries}},
      {kAttentionOutBias, kAttention, "temporal_block.o_proj.bias", {kHidden}},
  };
  return *table;
}

const WeightSpec& SpecOf(WeightId id) { return WeightTable()[static_cast<size_t>(id)]; }

int64_t DimSize(Dim dim, const RecurrentGemmaConfig& config) {
  switch (dim) {
    case Dim::kOne:
      return 1;
    case Dim::kVocab:
      return config.vocab_size;
    case Dim::kHidden:
      return config.hidden_size;
    case Dim::kMlp:
      return config.mlp_width;
    case Dim::kHeads:
      return config.num_heads;
    case Dim::kLru:
      return config.lru_width;
    case Dim::kLruBlock:
      return config.lru_block();
    case Dim::kConvWidth:
      return config.conv_width;
    case Dim::kQueries:
      return config.q_width();
    case Dim::kKeys:
      return config.kv_width();
  }
  return 0;
}

bool IsNeeded(const WeightSpec& spec, const RecurrentGemmaConfig& config, int layer) {
  const bool of_layer = layer >= 0;
  const bool attention = of_layer && config.blocks[layer] == BlockType::kAttention;
  switch (spec.place) {
    case WeightPlace::kModel:
      return !of_layer;
    case WeightPlace::kUntied:
      return !of_layer && !config.tie_word_embeddings;
    case WeightPlace::kEveryLayer:
      return of_layer;
    case WeightPlace::kRecurrent:
      return of_layer && !attention;
    case WeightPlace::kAttention:
      return attention;
    case WeightPlace::kAttentionBias:
      return attention && config.attention_bias;
  }
  return false;
}

bool IsMatrix(WeightId id) {
  switch (id) {
    case WeightId::kLmHead:
    case WeightId::kMlpGate:
    case WeightId::kMlpUp:
    case WeightId::kMlpDown:
    case WeightId::kLinearX:
    case WeightId::kLinearY:
    case WeightId::kLinearOut:
    case WeightId::kInputGate:
    case WeightId::kRecurrentGate:
    case WeightId::kQuery:
    case WeightId::kKey:
    case WeightId::kValue:
    case WeightId::kAttentionOut:
      return true;
    default:
      return false;
  }
}

bool MayBeFp8(WeightId id) {
  return IsMatrix(id) && id != WeightId::kLmHead && id != WeightId::kInputGate &&
         id != WeightId::kRecurrentGate;
}

std::vector<std::string> CheckpointNames(const WeightSpec& spec, int layer) {
  const std::string bare =
      layer >= 0 ? absl::StrCat("layers.", layer, ".", spec.name) : std::string(spec.name);
  if (spec.place == WeightPlace::kUntied) return {bare};
  return {absl::StrCat("model.", bare), bare};
}

std::vector<int64_t> ShapeOf(const WeightSpec& spec, const RecurrentGemmaConfig& config) {
  std::vector<int64_t> shape;
  for (const Dim dim : spec.shape) shape.push_back(DimSize(dim, config));
  return shape;
}

}  // namespace reprise::models
