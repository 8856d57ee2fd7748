#include "tests/models/testing/random_checkpoint.h"

#include <stdlib.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>

#include "models/recurrent_gemma_config.h"
#include "models/weight_table.h"

namespace reprise::models::testing {
namespace {

std::vector<float> RandomValues(const WeightSpec& spec, const std::vector<int64_t>& shape,
                                std::mt19937_64& random) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  std::vector<float> values(count);
  if (spec.id == WeightId::kRecurrentParam) {
    // a between 0.9 and 0.999 for a half-open gate, so that the state outlives many grid blocks.
    std::uniform_real_distribution<double> decay(0.9, 0.999);
    for (float& value : values) {
      value = static_cast<float>(std::log(std::expm1(-std::log(decay(random)) / 4)));
    }
    return values;
  }
  double scale = 0.3;  // biases and norms
  if (spec.id == WeightId::kConv) {
    scale = 0.5;
  } else if (shape.size() >= 2 && spec.id != WeightId::kInputGateBias &&
             spec.id != WeightId::kRecurrentGateBias) {
    scale = 1.0 / std::sqrt(static_cast<double>(shape.back()));
  }
  if (spec.id == WeightId::kEmbedding || spec.id == WeightId::kLmHead) scale *= 4;
  if (spec.id == WeightId::kQuery) scale *= 2;
  std::normal_distribution<double> normal(0.0, scale);
  for (float& value : values) value = static_cast<float>(normal(random));
  return values;
}

}  // namespace

TempDir::TempDir() {
  std::string pattern = std::filesystem::temp_directory_path() / "reprise_models_XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) {
    std::cerr << "cannot make " << pattern << std::endl;
    std::abort();
  }
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TempDir::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream file(path_ + "/" + name, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

nlohmann::json SmallConfig(const nlohmann::json& changes) {
  nlohmann::json config = {
      {"model_type", "recurrent_gemma"},
      {"vocab_size", 71},
      {"hidden_size", 36},
      {"num_hidden_layers", 3},
      {"intermediate_size", 100},
      {"num_attention_heads", 3},
      {"num_key_value_heads", 1},
      {"lru_width", 42},
      {"attention_window_size", 100},
      {"block_types", {"recurrent", "recurrent", "attention"}},
  };
  config.update(changes);
  return config;
}

std::vector<TensorToWrite> RandomTensors(const nlohmann::json& config_json, uint64_t seed,
                                         const std::string& dtype) {
  const RecurrentGemmaConfig config = RecurrentGemmaConfig::FromJson(config_json).value();
  std::mt19937_64 random(seed);
  std::vector<TensorToWrite> tensors;
  for (int layer = -1; layer < config.num_layers; ++layer) {
    for (const WeightSpec& spec : WeightTable()) {
      if (!IsNeeded(spec, config, layer)) continue;
      constexpr const char* kTurns[] = {"F32", "BF16", "F16"};
      const std::string chosen = dtype == "mixed" ? kTurns[tensors.size() % 3] : dtype;
      const std::vector<int64_t> shape = ShapeOf(spec, config);
      tensors.push_back({CheckpointNames(spec, layer).front(), chosen, shape,
                         Encode(RandomValues(spec, shape, random), chosen)});
    }
  }
  return tensors;
}

void WriteCheckpoint(const TempDir& folder, const nlohmann::json& config,
                     const std::vector<TensorToWrite>& tensors) {
  folder.Write("config.json", config.dump());
  folder.Write("model.safetensors", SafetensorsBytes(tensors));
}

std::vector<int32_t> RandomTokens(int count, int vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  return tokens;
}

}  // namespace reprise::models::testing
