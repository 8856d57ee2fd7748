// What a model is said to take before it is loaded, beside what it takes.
#include "models/model_plan.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "models/activations.h"
#include "models/load_model.h"
#include "tests/models/testing/random_checkpoint.h"

namespace reprise::models {
namespace {

using testing::RandomTensors;
using testing::SmallConfig;
using testing::TempDir;
using testing::WriteCheckpoint;

class ModelPlanTest : public ::testing::Test {
 protected:
  void Load(const nlohmann::json& changes, const std::string& dtype, int max_rows = 7,
            WeightFormat format = WeightFormat::kCheckpoint) {
    const auto config = SmallConfig(changes);
    WriteCheckpoint(folder_, config, RandomTensors(config, 1, dtype));
    LoadOptions options;
    options.max_rows = max_rows;
    options.weight_format = format;
    auto plan = PlanModel(folder_.path(), options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    plan_ = *plan;
    options.context.pool = pool_.get();
    auto loaded = LoadModel(folder_.path(), options);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = std::move(loaded->model);
  }

  TempDir folder_;
  std::unique_ptr<kernels::ThreadPool> pool_ = kernels::ThreadPool::Create(2).value();
  ModelPlan plan_;
  std::unique_ptr<HybridModel> model_;
};

// Sizes that panels divide, so that nothing is rounded.
const nlohmann::json kEven = {{"vocab_size", 128},        {"hidden_size", 64},
                              {"intermediate_size", 256}, {"num_attention_heads", 1},
                              {"head_dim", 64},           {"num_key_value_heads", 1},
                              {"lru_width", 64}};

TEST_F(ModelPlanTest, IsExactWhereNothingIsPadded) {
  for (const char* dtype : {"F32", "BF16", "F16"}) {
    for (const bool tied : {true, false}) {
      nlohmann::json changes = kEven;
      changes["tie_word_embeddings"] = tied;
      changes["attention_bias"] = !tied;
      Load(changes, dtype);
      EXPECT_EQ(plan_.weight_bytes, model_->info().weight_bytes) << dtype << tied;
    }
  }
}

TEST_F(ModelPlanTest, IsNeverTooLittle) {
  for (const char* dtype : {"F32", "BF16", "mixed"}) {
    Load(nlohmann::json::object(), dtype);
    EXPECT_GE(plan_.weight_bytes, model_->info().weight_bytes) << dtype;
    EXPECT_LT(plan_.weight_bytes, 2 * model_->info().weight_bytes) << dtype;
  }
}

TEST_F(ModelPlanTest, FollowsTheWeightFormat) {
  for (const bool tied : {true, false}) {
    nlohmann::json changes = kEven;
    changes["tie_word_embeddings"] = tied;
    Load(changes, "BF16");
    const size_t whole = plan_.weight_bytes;
    Load(changes, "BF16", 7, WeightFormat::kFp8);
    EXPECT_EQ(plan_.weight_bytes, model_->info().weight_bytes);
    // A byte less for each weight of MLP and mixers, four bytes more for each output.
    const size_t mlp = 3 * 64 * 128, mlp_outputs = 2 * 128 + 64;
    const size_t recurrent = 3 * 64 * 64, recurrent_outputs = 3 * 64;
    const size_t attention = 4 * 64 * 64, attention_outputs = 4 * 64;
    const size_t less = 3 * mlp + 2 * recurrent + attention;
    const size_t more = 4 * (3 * mlp_outputs + 2 * recurrent_outputs + attention_outputs);
    EXPECT_EQ(plan_.weight_bytes, whole - less + more);
  }
  Load(nlohmann::json::object(), "mixed", 7, WeightFormat::kFp8);
  EXPECT_GE(plan_.weight_bytes, model_->info().weight_bytes);
}

TEST_F(ModelPlanTest, KnowsStatesAndVocabulary) {
  for (const auto& changes : {nlohmann::json::object(), kEven}) {
    Load(changes, "F32");
    EXPECT_EQ(plan_.state_bytes, model_->state_layout().bytes());
    EXPECT_EQ(plan_.vocab_size, model_->info().vocab_size);
  }
}

TEST_F(ModelPlanTest, StepsAreTheActivationsThatAreAllocated) {
  Load(kEven, "F32", 33);
  const auto config = RecurrentGemmaConfig::FromJson(SmallConfig(kEven)).value();
  const auto made = Activations::Create(config, 33, {kernels::Device::kCpu, pool_.get()}).value();
  EXPECT_EQ(plan_.step_bytes,
            made.residual.size() + made.normed.size() + made.delta.size() + made.mlp.size() +
                made.lru_in.size() + made.lru_conv.size() + made.lru_conv_in.size() +
                made.gates.size() + made.lru_out.size() + made.qkv.size() + made.rotated.size() +
                made.attended.size() + made.rope_cos.size() + made.rope_sin.size());
}

TEST_F(ModelPlanTest, FindsTheSameFaultsAsLoading) {
  LoadOptions options;
  EXPECT_TRUE(absl::IsNotFound(PlanModel(folder_.path() + "/none", options).status()));
  const auto config = SmallConfig();
  auto tensors = RandomTensors(config, 1);
  tensors.pop_back();
  WriteCheckpoint(folder_, config, tensors);
  const auto plan = PlanModel(folder_.path(), options);
  options.context.pool = pool_.get();
  EXPECT_FALSE(plan.ok());
  EXPECT_EQ(plan.status(), LoadModel(folder_.path(), options).status());
}

}  // namespace
}  // namespace reprise::models
