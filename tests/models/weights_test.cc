// The weight table, walked without a checkpoint, and what the loader says about checkpoints that do
// not follow it.
#include "models/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <set>
#include <string>

#include "models/load_model.h"
#include "models/weight_table.h"
#include "tests/models/testing/random_checkpoint.h"

namespace reprise::models {
namespace {

using ::testing::ElementsAre;
using testing::Encode;
using ::testing::HasSubstr;
using testing::RandomTensors;
using testing::SmallConfig;
using testing::TempDir;
using testing::TensorToWrite;
using testing::WriteCheckpoint;

TEST(WeightTable, RowsAreInTheOrderOfTheirIds) {
  const auto table = WeightTable();
  std::set<std::string> names;
  for (size_t i = 0; i < table.size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(table[i].id), i);
    EXPECT_EQ(&SpecOf(table[i].id), &table[i]);
    EXPECT_TRUE(names.insert(table[i].name).second) << table[i].name;
    EXPECT_FALSE(table[i].shape.empty()) << table[i].name;
  }
  EXPECT_EQ(static_cast<size_t>(WeightId::kAttentionOutBias) + 1, table.size());
}

// Name, shape and number of every weight of a published model, from the config alone.
TEST(WeightTable, DescribesRecurrentGemma2B) {
  const nlohmann::json json = {{"num_key_value_heads", 1}, {"intermediate_size", 15360}};
  const RecurrentGemmaConfig config = RecurrentGemmaConfig::FromJson(json).value();
  int64_t parameters = 0;
  std::set<std::string> names;
  for (int layer = -1; layer < config.num_layers; ++layer) {
    for (const WeightSpec& spec : WeightTable()) {
      if (!IsNeeded(spec, config, layer)) continue;
      int64_t elements = 1;
      for (const int64_t dim : ShapeOf(spec, config)) {
        EXPECT_GT(dim, 0);
        elements *= dim;
      }
      parameters += elements;
      EXPECT_TRUE(names.insert(CheckpointNames(spec, layer).front()).second);
    }
  }
  EXPECT_EQ(parameters, 2'682'862'080);
  // 2 of the model, 2 norms and 6 of the MLP per layer, 13 per recurrent and 5 per attention block.
  EXPECT_EQ(names.size(), 2u + 26 * 8 + 18 * 13 + 8 * 5);
  EXPECT_EQ(names.count("model.layers.25.temporal_block.rg_lru.recurrent_param"), 1u);
  EXPECT_EQ(names.count("model.layers.23.temporal_block.o_proj.bias"), 1u);
  EXPECT_EQ(names.count("lm_head.weight"), 0u);
}

TEST(WeightTable, FollowsTheOptions) {
  const nlohmann::json none = nlohmann::json::object();
  const auto needed = [](const nlohmann::json& changes, WeightId id, int layer) {
    const auto config = RecurrentGemmaConfig::FromJson(SmallConfig(changes)).value();
    return IsNeeded(SpecOf(id), config, layer);
  };
  EXPECT_FALSE(needed(none, WeightId::kLmHead, -1));
  EXPECT_TRUE(needed({{"tie_word_embeddings", false}}, WeightId::kLmHead, -1));
  EXPECT_FALSE(needed(none, WeightId::kQueryBias, 2));
  EXPECT_TRUE(needed({{"attention_bias", true}}, WeightId::kQueryBias, 2));
  EXPECT_FALSE(needed({{"attention_bias", true}}, WeightId::kQueryBias, 1));
  EXPECT_TRUE(needed(none, WeightId::kConv, 1));
  EXPECT_FALSE(needed(none, WeightId::kConv, 2));
  EXPECT_THAT(CheckpointNames(SpecOf(WeightId::kConv), 3),
              ElementsAre("model.layers.3.temporal_block.conv_1d.weight",
                          "layers.3.temporal_block.conv_1d.weight"));
}

class LoadErrors : public ::testing::Test {
 protected:
  using Tensors = std::vector<TensorToWrite>;

  absl::StatusOr<LoadedModel> Load(WeightFormat format = WeightFormat::kCheckpoint) {
    pool_ = kernels::ThreadPool::Create(2).value();
    LoadOptions options;
    options.weight_format = format;
    options.context.pool = pool_.get();
    return LoadModel(folder_.path(), options);
  }

  absl::StatusOr<LoadedModel> LoadWith(const std::function<void(Tensors&)>& change,
                                       const nlohmann::json& changes = nlohmann::json::object()) {
    const nlohmann::json config = SmallConfig(changes);
    Tensors tensors = RandomTensors(SmallConfig(), 1);
    change(tensors);
    WriteCheckpoint(folder_, config, tensors);
    return Load();
  }

  static TensorToWrite& Named(Tensors& tensors, const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(),
                         [&](const TensorToWrite& tensor) { return tensor.name == name; });
  }

  void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& message) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_.path() + "/"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  TempDir folder_;
  std::unique_ptr<kernels::ThreadPool> pool_;
};

const std::string kUp = "model.layers.1.mlp_block.up_proj.weight";

TEST_F(LoadErrors, GoodFolderLoads) {
  const auto loaded = LoadWith([](Tensors&) {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const ModelInfo& info = loaded->model->info();
  EXPECT_EQ(info.architecture, "recurrent_gemma");
  EXPECT_EQ(info.vocab_size, 71);
  EXPECT_EQ(info.num_layers, 3);
  EXPECT_EQ(info.hidden_size, 36);
  EXPECT_EQ(info.dtype, "f32");
  EXPECT_EQ(info.weights_fingerprint.size(), 64u);
  EXPECT_GT(info.weight_bytes, 4u * info.num_parameters);
  EXPECT_TRUE(info.unused_tensors.empty());
  EXPECT_EQ(loaded->tokenizer, nullptr);
  EXPECT_EQ(loaded->model->max_rows(), 512);
}

TEST_F(LoadErrors, MissingTensor) {
  const auto loaded = LoadWith([](Tensors& tensors) { Named(tensors, kUp).name = "renamed"; });
  ExpectError(loaded.status(), absl::StatusCode::kDataLoss,
              "model.safetensors: tensor " + kUp + " is missing");
}

TEST_F(LoadErrors, MissingHeadWhenUntied) {
  const auto loaded = LoadWith([](Tensors&) {}, {{"tie_word_embeddings", false}});
  ExpectError(loaded.status(), absl::StatusCode::kDataLoss, "tensor lm_head.weight is missing");
}

TEST_F(LoadErrors, WrongShape) {
  auto loaded = LoadWith([](Tensors& tensors) {
    std::swap(Named(tensors, kUp).shape[0], Named(tensors, kUp).shape[1]);
  });
  ExpectError(loaded.status(), absl::StatusCode::kInvalidArgument,
              "tensor " + kUp + ": the config asks for shape [50, 36], found [36, 50]");
  // Sizes of the config that the file does not have cost nothing but the message.
  loaded = LoadWith([](Tensors&) {}, {{"vocab_size", 1 << 24},
                                      {"hidden_size", 1 << 17},
                                      {"head_dim", 512},
                                      {"lru_width", 3 << 15}});
  ExpectError(loaded.status(), absl::StatusCode::kInvalidArgument, "embed_tokens.weight");
}

TEST_F(LoadErrors, WrongDType) {
  const auto loaded = LoadWith([](Tensors& tensors) { Named(tensors, kUp).dtype = "I32"; });
  ExpectError(loaded.status(), absl::StatusCode::kInvalidArgument,
              "dtype \"I32\" is not one of F32, BF16, F16");
}

TEST_F(LoadErrors, NonFiniteValues) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan}) {
    const auto loaded = LoadWith(
        [&](Tensors& tensors) { std::memcpy(Named(tensors, kUp).bytes.data() + 4 * 17, &bad, 4); });
    ExpectError(loaded.status(), absl::StatusCode::kDataLoss, "tensor " + kUp + " holds");
  }
  for (const auto& [dtype, bits] : {std::pair("BF16", 0xff80), std::pair("F16", 0x7c01)}) {
    const auto loaded = LoadWith([&, bits = bits, dtype = dtype](Tensors& tensors) {
      TensorToWrite& up = Named(tensors, kUp);
      up.dtype = dtype;
      up.bytes.resize(up.bytes.size() / 2, '\0');
      std::fill(up.bytes.begin(), up.bytes.end(), '\0');
      const uint16_t half = static_cast<uint16_t>(bits);
      std::memcpy(up.bytes.data() + 2 * 33, &half, 2);
    });
    ExpectError(loaded.status(), absl::StatusCode::kDataLoss, "tensor " + kUp + " holds");
  }
}

TEST_F(LoadErrors, ExtraTensorsAreListed) {
  const auto loaded = LoadWith([](Tensors& tensors) {
    tensors.push_back({"mtp.x", "I64", {1}, std::string(8, '\0')});
    tensors.push_back({"lm_head.weight", "F32", {1}, std::string(4, '\0')});
  });
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->model->info().unused_tensors, ElementsAre("lm_head.weight", "mtp.x"));
}

TEST_F(LoadErrors, FingerprintFollowsConfigAndWeights) {
  const auto fingerprint = [&](const std::function<void(Tensors&)>& change,
                               const nlohmann::json& changes = nlohmann::json::object()) {
    return LoadWith(change, changes).value().model->info().weights_fingerprint;
  };
  const std::string base = fingerprint([](Tensors&) {});
  EXPECT_EQ(fingerprint([](Tensors&) {}), base);
  EXPECT_NE(fingerprint([](Tensors&) {}, {{"rope_theta", 20000.0}}), base);
  EXPECT_NE(fingerprint([](Tensors& tensors) { Named(tensors, kUp).bytes[0] ^= 1; }), base);
  // Not by what is not read.
  EXPECT_EQ(fingerprint([](Tensors& tensors) {
              tensors.push_back({"extra", "U8", {1}, "x"});
            }),
            base);
}

TEST_F(LoadErrors, Fp8IsAnotherModel) {
  const auto loaded = LoadWith([](Tensors&) {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto fp8 = Load(WeightFormat::kFp8), again = Load(WeightFormat::kFp8);
  ASSERT_TRUE(fp8.ok() && again.ok()) << fp8.status();
  const ModelInfo &a = loaded->model->info(), &b = fp8->model->info();
  EXPECT_NE(a.weights_fingerprint, b.weights_fingerprint);
  EXPECT_EQ(b.weights_fingerprint, again->model->info().weights_fingerprint);
  EXPECT_EQ(a.dtype, "f32");
  EXPECT_EQ(b.dtype, "e4m3");
  EXPECT_LT(b.weight_bytes, a.weight_bytes);
  EXPECT_EQ(a.num_parameters, b.num_parameters);
  // What the states look like is the same: only the fingerprint keeps them apart.
  EXPECT_EQ(loaded->model->state_layout().Digest(), fp8->model->state_layout().Digest());
}

TEST(WeightTable, Fp8LeavesHeadsGatesAndSmallTensors) {
  std::set<std::string> names;
  for (const WeightSpec& spec : WeightTable()) {
    if (MayBeFp8(spec.id)) names.insert(spec.name);
  }
  EXPECT_THAT(names,
              ElementsAre("mlp_block.down_proj.weight", "mlp_block.gate_proj.weight",
                          "mlp_block.up_proj.weight", "temporal_block.k_proj.weight",
                          "temporal_block.linear_out.weight", "temporal_block.linear_x.weight",
                          "temporal_block.linear_y.weight", "temporal_block.o_proj.weight",
                          "temporal_block.q_proj.weight", "temporal_block.v_proj.weight"));
}

TEST_F(LoadErrors, UnknownArchitecture) {
  const auto loaded = LoadWith([](Tensors&) {}, {{"model_type", "mamba9"}});
  ExpectError(loaded.status(), absl::StatusCode::kUnimplemented,
              "model_type \"mamba9\" is not supported (supported: recurrent_gemma)");
}

TEST_F(LoadErrors, BrokenFolders) {
  ExpectError(Load().status(), absl::StatusCode::kNotFound, "config.json");
  folder_.Write("config.json", "{");
  ExpectError(Load().status(), absl::StatusCode::kInvalidArgument, "config.json: malformed JSON");
  folder_.Write("config.json", "{}");
  ExpectError(Load().status(), absl::StatusCode::kInvalidArgument, "model_type is missing");
  folder_.Write("config.json", R"({"model_type": 3})");
  ExpectError(Load().status(), absl::StatusCode::kInvalidArgument, "model_type");
  folder_.Write("config.json", SmallConfig({{"conv1d_width", 99}}).dump());
  ExpectError(Load().status(), absl::StatusCode::kInvalidArgument, "config.json: conv1d_width");
  folder_.Write("config.json", SmallConfig().dump());
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
  folder_.Write("model.safetensors", "short");
  ExpectError(Load().status(), absl::StatusCode::kDataLoss, "model.safetensors");
}

TEST(LoadModel, RefusesBadOptions) {
  const auto pool = kernels::ThreadPool::Create(1).value();
  LoadOptions options;
  EXPECT_FALSE(LoadModel("/", options).ok());  // no pool
  options.context.pool = pool.get();
  EXPECT_EQ(LoadModel("/nonexistent", options).status().code(), absl::StatusCode::kNotFound);
  for (const int rows : {0, -1, 65537}) {
    options.max_rows = rows;
    EXPECT_EQ(LoadModel("/", options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Weights become the same numbers from any dtype that holds them exactly, aligned or not.
TEST(Weights, WidensAndAligns) {
  const nlohmann::json json = SmallConfig();
  const RecurrentGemmaConfig config = RecurrentGemmaConfig::FromJson(json).value();
  const auto pool = kernels::ThreadPool::Create(1).value();
  const kernels::Context context = {kernels::Device::kCpu, pool.get()};
  const std::vector<float> values = {0.0f,  -0.0f,    1.0f,      -1.5f,
                                     0.25f, 0x1p-14f, -0x1p-20f, 57344.0f};
  for (const std::string dtype : {"F32", "F16", "BF16"}) {
    const TempDir folder;
    std::vector<TensorToWrite> tensors = RandomTensors(json, 1);
    for (TensorToWrite& tensor : tensors) {
      if (tensor.name != "model.final_norm.weight") continue;
      std::vector<float> all(36, 0.5f);
      std::copy(values.begin(), values.end(), all.begin());
      tensor.dtype = dtype;
      tensor.bytes = Encode(all, dtype);
    }
    // One byte in front puts all that follows off alignment.
    tensors.insert(tensors.begin(), {"pad", "U8", {1}, "x"});
    WriteCheckpoint(folder, json, tensors);
    const auto checkpoint = Checkpoint::Open(folder.path()).value();
    const auto weights = Weights::Resolve(checkpoint, config).value();
    const auto buffer = weights.Floats({WeightId::kFinalNorm}, -1, context).value();
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(buffer.as<float>()[i], values[i]) << dtype << " " << i;
    }
    const auto matrix = weights.Matrix({WeightId::kMlpUp}, 0, context);
    EXPECT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_EQ(weights.Find(WeightId::kQuery, 0), nullptr);
  }
}

}  // namespace
}  // namespace reprise::models
