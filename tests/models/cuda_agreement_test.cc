// The CUDA engine against the CPU's float32 one on the same weights: within what bfloat16 operands
// explain, and the same greedy text from the bundled model but where two tokens are almost equal.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "models/load_model.h"
#include "tests/models/testing/model_runner.h"

namespace reprise::models::testing {
namespace {

double RelativeError(const Logits& actual, const Logits& expected) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    error += std::pow(double{actual[i]} - expected[i], 2);
    size += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(error / size);
}

TEST(CudaAgreement, LogitsAreWithinBf16OfTheCpu) {
  if (!HasCuda()) GTEST_SKIP() << "no CUDA device";
  for (const auto& changes : std::vector<nlohmann::json>{
           {{"hidden_size", 48}, {"lru_width", 48}, {"intermediate_size", 112}},
           {{"hidden_size", 640},
            {"lru_width", 640},
            {"intermediate_size", 3840},
            {"num_attention_heads", 10},
            {"head_dim", 64},
            {"vocab_size", 1000}}}) {
    ModelRunner cpu(SmallConfig(changes), 2, 2, 5, "BF16");
    ModelRunner cuda(SmallConfig(changes), 2, 2, 5, "BF16", kernels::Device::kCuda);
    const std::vector<int32_t> text = RandomTokens(300, cpu.vocab(), 3);
    const SlotHandle a = cpu.Acquire(), b = cuda.Acquire();
    const Logits expected = cpu.Feed(a.slot(), 0, text, {300});
    const Logits actual = cuda.Feed(b.slot(), 0, text, {100, 1, 1, 198});
    // Each product rounds its inputs to 8 bits; a few layers later some of that is left.
    const double error = RelativeError(actual, expected);
    EXPECT_LT(error, 0.02) << changes;
    EXPECT_GT(error, 0.0) << "the CPU ran twice";
    RecordProperty("relative_error", std::to_string(error));
    std::printf("hidden %d: relative error of the logits %.5f\n",
                changes.at("hidden_size").get<int>(), error);
  }
}

class Bundled {
 public:
  explicit Bundled(kernels::Device device) : pool_(kernels::ThreadPool::Create(2).value()) {
    context_.device = device;
    context_.pool = pool_.get();
    if (device == kernels::Device::kCuda) {
      queue_ = kernels::DeviceQueue::Create().value();
      context_.queue = queue_.get();
    }
    LoadOptions options;
    options.context = context_;
    loaded_ = LoadModel("models/bundled/tale-20m", options).value();
    slots_ = StateSlots::Create(loaded_.model->state_layout(), 1, context_).value();
    slot_ = slots_->Acquire().value();
  }
  std::vector<int32_t> Encode(const std::string& text) {
    return loaded_.tokenizer->Encode(text, {}).value();
  }

  // Logits after the last of `tokens`.
  Logits Feed(const std::vector<int32_t>& tokens) {
    RaggedBatch batch;
    batch.tokens = tokens;
    batch.seq_offsets = {0, static_cast<int32_t>(tokens.size())};
    batch.slots = {slot_.slot()};
    batch.start_positions = {position_};
    batch.logit_rows = {batch.num_rows() - 1};
    Logits logits(loaded_.model->info().vocab_size);
    const absl::Status status = loaded_.model->Forward(batch, *slots_, absl::MakeSpan(logits));
    EXPECT_TRUE(status.ok()) << status;
    position_ += batch.num_rows();
    return logits;
  }

 private:
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<kernels::DeviceQueue> queue_;
  kernels::Context context_;
  LoadedModel loaded_;
  std::unique_ptr<StateSlots> slots_;
  SlotHandle slot_;
  int64_t position_ = 0;
};

TEST(CudaAgreement, BundledModelWritesTheSameText) {
  if (!HasCuda()) GTEST_SKIP() << "no CUDA device";
  Bundled cpu(kernels::Device::kCpu), cuda(kernels::Device::kCuda);
  std::vector<int32_t> next = cpu.Encode("It was a dark night, and the old man by the fire said");
  int disagreements = 0;
  double largest_gap = 0.0;
  for (int i = 0; i < 500; ++i) {
    const Logits a = cpu.Feed(next), b = cuda.Feed(next);
    const auto best = [](const Logits& logits) {
      return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    };
    const int32_t chosen = best(a), other = best(b);
    if (chosen != other) {
      // Only where the CPU's own logits leave less between the two than bfloat16 moves them.
      const double gap = double{a[chosen]} - a[other];
      ++disagreements;
      largest_gap = std::max(largest_gap, gap);
      std::printf("token %d: %d or %d, the CPU's logits differ by %.4f\n", i, chosen, other, gap);
      EXPECT_LT(gap, 0.15) << "token " << i;
    }
    next = {chosen};
  }
  std::printf("%d of 500 tokens differ, at a gap of at most %.4f\n", disagreements, largest_gap);
  EXPECT_LE(disagreements, 15);
}

}  // namespace
}  // namespace reprise::models::testing
