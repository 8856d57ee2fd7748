#include "models/recurrent_gemma_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "models/json_reader.h"

namespace reprise::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<RecurrentGemmaConfig> Parse(const std::string& text) {
  const auto json = ParseJsonObject(text);
  if (!json.ok()) return json.status();
  return RecurrentGemmaConfig::FromJson(*json);
}

TEST(RecurrentGemmaConfig, DefaultsAreTheReferences) {
  const auto config = Parse("{}");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 256000);
  EXPECT_EQ(config->hidden_size, 2560);
  EXPECT_EQ(config->num_layers, 26);
  EXPECT_EQ(config->mlp_width, 3840);
  EXPECT_EQ(config->num_heads, 10);
  EXPECT_EQ(config->num_kv_heads, 10);
  EXPECT_EQ(config->head_dim, 256);
  EXPECT_EQ(config->lru_width, 2560);
  EXPECT_EQ(config->window, 2048);
  EXPECT_EQ(config->conv_width, 4);
  EXPECT_EQ(config->logits_soft_cap, 30.0f);
  EXPECT_EQ(config->rms_norm_eps, 1e-6f);
  EXPECT_EQ(config->rope_theta, 10000.0f);
  EXPECT_EQ(config->rotary_dims, 128);
  EXPECT_EQ(config->activation, kernels::Activation::kGeluTanh);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_TRUE(config->scale_embeddings);
  ASSERT_EQ(config->blocks.size(), 26u);
  EXPECT_EQ(config->blocks[1], BlockType::kRecurrent);
  EXPECT_EQ(config->blocks[2], BlockType::kAttention);
  EXPECT_EQ(config->blocks[24], BlockType::kRecurrent);
}

TEST(RecurrentGemmaConfig, ReadsEveryKey) {
  const auto config = Parse(R"({
      "vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 30,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "lru_width": 20,
      "attention_window_size": 7, "conv1d_width": 3, "logits_soft_cap": 5, "rms_norm_eps": 0.25,
      "rope_theta": 100, "partial_rotary_factor": 0.25, "hidden_activation": "silu",
      "block_types": ["attention"], "attention_bias": true, "tie_word_embeddings": false,
      "embeddings_scale_by_sqrt_dim": false, "pad_token_id": 0, "anything": {"else": [1]}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 11);
  EXPECT_EQ(config->hidden_size, 24);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->mlp_width, 15);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->lru_width, 20);
  EXPECT_EQ(config->window, 7);
  EXPECT_EQ(config->conv_width, 3);
  EXPECT_EQ(config->logits_soft_cap, 5.0f);
  EXPECT_EQ(config->rms_norm_eps, 0.25f);
  EXPECT_EQ(config->rope_theta, 100.0f);
  EXPECT_EQ(config->rotary_dims, 2);
  EXPECT_EQ(config->activation, kernels::Activation::kSilu);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_FALSE(config->scale_embeddings);
  EXPECT_THAT(config->blocks, ElementsAre(BlockType::kAttention, BlockType::kAttention));
}

TEST(RecurrentGemmaConfig, OtherSpellings) {
  EXPECT_EQ(Parse(R"({"logits_soft_cap": null})")->logits_soft_cap, 0.0f);
  EXPECT_EQ(Parse(R"({"logits_soft_cap": 0.0})")->logits_soft_cap, 0.0f);
  EXPECT_EQ(Parse(R"({"lru_width": null, "hidden_size": 640})")->lru_width, 640);
  EXPECT_EQ(Parse(R"({"num_key_value_heads": null})")->num_kv_heads, 10);
  EXPECT_EQ(Parse(R"({"sliding_window": 9})")->window, 9);
  EXPECT_EQ(Parse(R"({"sliding_window": 9, "attention_window_size": 5})")->window, 5);
  EXPECT_EQ(Parse(R"({"hidden_activation": "gelu"})")->activation, kernels::Activation::kGelu);
  // The inner value wins over the outer one, which wins over the default.
  const std::string inner = R"("rope_parameters": {"rope_type": "default", "rope_theta": 77,
                               "partial_rotary_factor": 1.0})";
  auto config = Parse("{\"rope_theta\": 5, \"partial_rotary_factor\": 0.25, " + inner + "}");
  EXPECT_EQ(config->rope_theta, 77.0f);
  EXPECT_EQ(config->rotary_dims, 256);
  config = Parse(R"({"rope_theta": 5, "rope_parameters": {"partial_rotary_factor": 0.25}})");
  EXPECT_EQ(config->rope_theta, 5.0f);
  EXPECT_EQ(config->rotary_dims, 64);
  for (const char* key : {"block_types", "layers_block_type", "layer_types", "_block_types"}) {
    config = Parse(std::string("{\"num_hidden_layers\": 3, \"") + key +
                   "\": [\"sliding_attention\", \"linear_attention\"]}");
    ASSERT_TRUE(config.ok()) << key << config.status();
    EXPECT_THAT(config->blocks,
                ElementsAre(BlockType::kAttention, BlockType::kRecurrent, BlockType::kAttention));
  }
}

struct Bad {
  const char* name;
  const char* text;
  const char* key;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

const Bad kBad[] = {
    {"vocab_zero", R"({"vocab_size": 0})", "vocab_size"},
    {"vocab_huge", R"({"vocab_size": 4294967296})", "vocab_size"},
    {"vocab_beyond_int64", R"({"vocab_size": 18446744073709551615})", "vocab_size"},
    {"hidden_string", R"({"hidden_size": "2560"})", "hidden_size"},
    {"hidden_float", R"({"hidden_size": 2560.0})", "hidden_size"},
    {"hidden_negative", R"({"hidden_size": -1})", "hidden_size"},
    {"hidden_max", R"({"hidden_size": 9223372036854775807})", "hidden_size"},
    {"layers_huge", R"({"num_hidden_layers": 1000000})", "num_hidden_layers"},
    {"layers_bool", R"({"num_hidden_layers": true})", "num_hidden_layers"},
    {"intermediate_odd", R"({"intermediate_size": 15361})", "intermediate_size"},
    {"intermediate_zero", R"({"intermediate_size": 0})", "intermediate_size"},
    {"heads_zero", R"({"num_attention_heads": 0})", "num_attention_heads"},
    {"kv_heads_more", R"({"num_key_value_heads": 20})", "num_key_value_heads"},
    {"kv_heads_uneven", R"({"num_key_value_heads": 3})", "num_key_value_heads"},
    {"head_dim_large", R"({"head_dim": 513})", "head_dim"},
    {"head_dim_implied_large", R"({"num_attention_heads": 1})", "head_dim"},
    {"head_dim_implied_zero", R"({"hidden_size": 4, "num_attention_heads": 8})", "head_dim"},
    {"lru_uneven", R"({"lru_width": 2561})", "lru_width"},
    {"lru_zero", R"({"lru_width": 0})", "lru_width"},
    {"window_zero", R"({"attention_window_size": 0})", "attention_window_size"},
    {"window_huge", R"({"attention_window_size": 2147483647})", "attention_window_size"},
    {"sliding_window", R"({"sliding_window": []})", "sliding_window"},
    {"conv_wide", R"({"conv1d_width": 9})", "conv1d_width"},
    {"cap_negative", R"({"logits_soft_cap": -30.0})", "logits_soft_cap"},
    {"cap_string", R"({"logits_soft_cap": "30"})", "logits_soft_cap"},
    {"eps_negative", R"({"rms_norm_eps": -1e-6})", "rms_norm_eps"},
    {"theta_zero", R"({"rope_theta": 0})", "rope_theta"},
    {"theta_inner", R"({"rope_parameters": {"rope_theta": "x"}})", "rope_parameters: rope_theta"},
    {"rope_parameters_array", R"({"rope_parameters": [1]})", "rope_parameters"},
    {"rope_type_number", R"({"rope_parameters": {"rope_type": 3}})", "rope_parameters: rope_type"},
    {"rope_type_linear", R"({"rope_parameters": {"rope_type": "linear"}})", "rope_parameters",
     absl::StatusCode::kUnimplemented},
    {"rope_scaling_type", R"({"rope_scaling": {"type": "yarn"}})", "rope_scaling",
     absl::StatusCode::kUnimplemented},
    {"rotary_above_one", R"({"partial_rotary_factor": 1.5})", "partial_rotary_factor"},
    {"rotary_odd", R"({"head_dim": 10, "partial_rotary_factor": 0.5})", "partial_rotary_factor"},
    {"activation_unknown", R"({"hidden_activation": "mish"})", "hidden_activation",
     absl::StatusCode::kUnimplemented},
    {"activation_number", R"({"hidden_activation": 1})", "hidden_activation"},
    {"blocks_empty", R"({"block_types": []})", "block_types"},
    {"blocks_string", R"({"block_types": "recurrent"})", "block_types"},
    {"blocks_unknown", R"({"block_types": ["mamba"]})", "block_types"},
    {"blocks_number", R"({"block_types": [1]})", "block_types"},
    {"bias_number", R"({"attention_bias": 1})", "attention_bias"},
    {"tied_string", R"({"tie_word_embeddings": "yes"})", "tie_word_embeddings"},
};

class RecurrentGemmaConfigBad : public ::testing::TestWithParam<Bad> {};

TEST_P(RecurrentGemmaConfigBad, IsRefusedByKey) {
  const absl::Status status = Parse(GetParam().text).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().key));
}

INSTANTIATE_TEST_SUITE_P(Keys, RecurrentGemmaConfigBad, ::testing::ValuesIn(kBad),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(JsonReader, Limits) {
  EXPECT_FALSE(ParseJsonObject("{\"a\": 1", {}).ok());
  EXPECT_FALSE(ParseJsonObject("{\"a\": 1}", {4, 8}).ok());
  EXPECT_FALSE(ParseJsonObject("{\"a\": {\"b\": {}}}", {100, 2}).ok());
  EXPECT_TRUE(ParseJsonObject("{\"a\": {\"b\": {}}}", {100, 3}).ok());
  // Brackets in strings do not nest; an escaped quote does not end a string.
  EXPECT_TRUE(ParseJsonObject(R"({"a": "[[[[\"[[[[\\"})", {100, 1}).ok());
  EXPECT_FALSE(ParseJsonObject(R"({"a": {"b": 1, "b": 2}})", {}).ok());
  EXPECT_TRUE(ParseJsonObject(R"({"a": {"b": 1}, "c": {"b": 2}})", {}).ok());
}

}  // namespace
}  // namespace reprise::models
