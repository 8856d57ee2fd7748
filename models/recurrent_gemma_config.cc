#include "models/recurrent_gemma_config.h"

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "models/json_reader.h"

namespace reprise::models {
namespace {

using nlohmann::json;

// Far above any published model, far below what could overflow a product of three in int64.
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxWidth = 1 << 17;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 512;  // WindowAttention's limit
constexpr int64_t kMaxWindow = 1 << 22;
constexpr int64_t kMaxConvWidth = 8;  // CausalConv1d's limit

struct IntKey {
  const char* key;
  int64_t min, max;
  int RecurrentGemmaConfig::*field;
};
constexpr IntKey kIntKeys[] = {
    {"vocab_size", 1, kMaxVocab, &RecurrentGemmaConfig::vocab_size},
    {"hidden_size", 1, kMaxWidth, &RecurrentGemmaConfig::hidden_size},
    {"num_hidden_layers", 1, kMaxLayers, &RecurrentGemmaConfig::num_layers},
    {"num_attention_heads", 1, kMaxHeads, &RecurrentGemmaConfig::num_heads},
    {"conv1d_width", 1, kMaxConvWidth, &RecurrentGemmaConfig::conv_width},
};

struct ActivationName {
  const char* name;
  kernels::Activation activation;
};
constexpr ActivationName kActivations[] = {
    {"gelu_pytorch_tanh", kernels::Activation::kGeluTanh},
    {"gelu_new", kernels::Activation::kGeluTanh},
    {"gelu", kernels::Activation::kGelu},
    {"silu", kernels::Activation::kSilu},
    {"swish", kernels::Activation::kSilu},
    {"relu", kernels::Activation::kRelu},
};

absl::Status ReadActivation(const json& config, RecurrentGemmaConfig& out) {
  ASSIGN_OR_RETURN(const auto name, ReadString(config, "hidden_activation"));
  if (!name.has_value()) return absl::OkStatus();
  std::string supported;
  for (const ActivationName& row : kActivations) {
    if (*name == row.name) {
      out.activation = row.activation;
      return absl::OkStatus();
    }
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", row.name);
  }
  return absl::UnimplementedError(absl::StrCat("hidden_activation: ", Shown(json(*name)),
                                               " is not supported (supported: ", supported, ")"));
}

// The block types are written under several keys by several versions; the first present wins.
absl::Status ReadBlocks(const json& config, RecurrentGemmaConfig& out) {
  std::vector<BlockType> pattern = {BlockType::kRecurrent, BlockType::kRecurrent,
                                    BlockType::kAttention};
  for (const char* key : {"block_types", "layers_block_type", "layer_types", "_block_types"}) {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) continue;
    if (!it->is_array() || it->empty() || it->size() > kMaxLayers) {
      return absl::InvalidArgumentError(absl::StrCat(
          key, ": expected an array of 1 to ", kMaxLayers, " block types, found ", Shown(*it)));
    }
    pattern.clear();
    for (const json& entry : *it) {
      const std::string name = entry.is_string() ? entry.get<std::string>() : "";
      if (name == "recurrent" || name == "linear_attention") {
        pattern.push_back(BlockType::kRecurrent);
      } else if (name == "attention" || name == "sliding_attention") {
        pattern.push_back(BlockType::kAttention);
      } else {
        return absl::InvalidArgumentError(
            absl::StrCat(key, ": expected \"recurrent\" or \"attention\", found ", Shown(entry)));
      }
    }
    break;
  }
  out.blocks.resize(out.num_layers);
  for (int i = 0; i < out.num_layers; ++i) out.blocks[i] = pattern[i % pattern.size()];
  return absl::OkStatus();
}

// rope_theta and partial_rotary_factor stand at the top (older files) or in rope_parameters (or its
// old name rope_scaling); the inner value wins, as in transformers.
absl::Status ReadRope(const json& config, RecurrentGemmaConfig& out) {
  double theta = out.rope_theta;
  double factor = 0.5;
  const auto read = [&](const json& object, const std::string& where) -> absl::Status {
    const auto prefixed = [&](const absl::Status& status) {
      return where.empty() ? status : Prefixed(status, where);
    };
    const auto inner_theta = ReadNumber(object, "rope_theta", 1.0, 1e12);
    if (!inner_theta.ok()) return prefixed(inner_theta.status());
    const auto inner_factor = ReadNumber(object, "partial_rotary_factor", 0.0, 1.0);
    if (!inner_factor.ok()) return prefixed(inner_factor.status());
    theta = inner_theta->value_or(theta);
    factor = inner_factor->value_or(factor);
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(read(config, ""));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) continue;
    if (!it->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, ": expected an object, found ", Shown(*it)));
    }
    for (const char* type_key : {"rope_type", "type"}) {
      const auto type = ReadString(*it, type_key);
      if (!type.ok()) return Prefixed(type.status(), key);
      if (type->value_or("default") != "default") {
        return absl::UnimplementedError(absl::StrCat(key, ": ", type_key, " ", Shown(json(**type)),
                                                     " is not supported (supported: default)"));
      }
    }
    RETURN_IF_ERROR(read(*it, key));
    break;
  }
  out.rope_theta = static_cast<float>(theta);
  // Truncated, as in transformers.
  out.rotary_dims = static_cast<int>(out.head_dim * factor);
  if (out.rotary_dims % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("partial_rotary_factor: ", factor, " of head_dim ", out.head_dim, " gives ",
                     out.rotary_dims, " rotary dimensions, which must be even"));
  }
  return absl::OkStatus();
}

absl::Status NotDivisible(const char* key, int value, const char* by_key, int by) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": ", value, " is not a multiple of ", by_key, " ", by));
}

}  // namespace

absl::StatusOr<RecurrentGemmaConfig> RecurrentGemmaConfig::FromJson(const json& config) {
  RecurrentGemmaConfig out;
  for (const IntKey& row : kIntKeys) {
    ASSIGN_OR_RETURN(const auto value, ReadInt(config, row.key, row.min, row.max));
    if (value.has_value()) out.*row.field = static_cast<int>(*value);
  }
  ASSIGN_OR_RETURN(const auto intermediate, ReadInt(config, "intermediate_size", 2, 2 * kMaxWidth));
  if (intermediate.value_or(2) % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("intermediate_size: ", *intermediate,
                                                   " is odd; it is twice the width of the MLP"));
  }
  if (intermediate.has_value()) out.mlp_width = static_cast<int>(*intermediate / 2);

  ASSIGN_OR_RETURN(const auto kv_heads, ReadInt(config, "num_key_value_heads", 1, kMaxHeads));
  out.num_kv_heads = static_cast<int>(kv_heads.value_or(out.num_heads));
  if (out.num_heads % out.num_kv_heads != 0) {
    return NotDivisible("num_attention_heads", out.num_heads, "num_key_value_heads",
                        out.num_kv_heads);
  }
  ASSIGN_OR_RETURN(const auto head_dim, ReadInt(config, "head_dim", 1, kMaxHeadDim));
  out.head_dim = static_cast<int>(head_dim.value_or(out.hidden_size / out.num_heads));
  if (out.head_dim < 1 || out.head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim: hidden_size ", out.hidden_size, " / num_attention_heads ",
                     out.num_heads, " gives ", out.head_dim, ", expected 1 to ", kMaxHeadDim));
  }
  ASSIGN_OR_RETURN(const auto lru_width, ReadInt(config, "lru_width", 1, kMaxWidth));
  out.lru_width = static_cast<int>(lru_width.value_or(out.hidden_size));
  if (out.lru_width % out.num_heads != 0) {
    return NotDivisible("lru_width", out.lru_width, "num_attention_heads", out.num_heads);
  }

  // transformers takes sliding_window as another name of the same key.
  for (const char* key : {"sliding_window", "attention_window_size"}) {
    ASSIGN_OR_RETURN(const auto window, ReadInt(config, key, 1, kMaxWindow));
    if (window.has_value()) out.window = static_cast<int>(*window);
  }

  ASSIGN_OR_RETURN(const auto eps, ReadNumber(config, "rms_norm_eps", 0.0, 1.0));
  if (eps.has_value()) out.rms_norm_eps = static_cast<float>(*eps);
  const auto cap = config.find("logits_soft_cap");
  if (cap != config.end()) {
    // Absent means 30; null and 0 mean none.
    ASSIGN_OR_RETURN(const auto value, ReadNumber(config, "logits_soft_cap", 0.0, 1e6));
    out.logits_soft_cap = static_cast<float>(value.value_or(0.0));
  }
  ASSIGN_OR_RETURN(const auto bias, ReadBool(config, "attention_bias"));
  out.attention_bias = bias.value_or(out.attention_bias);
  ASSIGN_OR_RETURN(const auto tied, ReadBool(config, "tie_word_embeddings"));
  out.tie_word_embeddings = tied.value_or(out.tie_word_embeddings);
  ASSIGN_OR_RETURN(const auto scaled, ReadBool(config, "embeddings_scale_by_sqrt_dim"));
  out.scale_embeddings = scaled.value_or(out.scale_embeddings);

  RETURN_IF_ERROR(ReadActivation(config, out));
  RETURN_IF_ERROR(ReadBlocks(config, out));
  RETURN_IF_ERROR(ReadRope(config, out));
  return out;
}

}  // namespace reprise::models
