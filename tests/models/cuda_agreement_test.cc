// The CUDA engine against the CPU's float32 one on the same weights: within what bfloat16 operands
// explain, and the same greedy text from the bundled model but where two tokens are almost equal.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tests/models/testing/bundled_model.h"

namespace reprise::models::testing {
namespace {

class CudaAgreementOf : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(CudaAgreementOf, LogitsAreWithinBf16OfTheCpu) {
  if (!HasCuda()) GTEST_SKIP() << "no CUDA device";
  const WeightFormat format = GetParam();
  for (const auto& changes : std::vector<nlohmann::json>{
           {{"hidden_size", 48}, {"lru_width", 48}, {"intermediate_size", 112}},
           {{"hidden_size", 640},
            {"lru_width", 640},
            {"intermediate_size", 3840},
            {"num_attention_heads", 10},
            {"head_dim", 64},
            {"vocab_size", 1000}}}) {
    ModelRunner cpu(SmallConfig(changes), 2, 2, 5, "BF16", kernels::Device::kCpu, format);
    ModelRunner cuda(SmallConfig(changes), 2, 2, 5, "BF16", kernels::Device::kCuda, format);
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

INSTANTIATE_TEST_SUITE_P(Formats, CudaAgreementOf,
                         ::testing::Values(WeightFormat::kCheckpoint, WeightFormat::kFp8),
                         [](const auto& info) {
                           return info.param == WeightFormat::kFp8 ? "fp8" : "checkpoint";
                         });

TEST(CudaAgreement, BundledModelWritesTheSameText) {
  if (!HasCuda()) GTEST_SKIP() << "no CUDA device";
  BundledModel cpu(kernels::Device::kCpu), cuda(kernels::Device::kCuda);
  std::vector<int32_t> next = cpu.Encode("It was a dark night, and the old man by the fire said");
  int disagreements = 0;
  double largest_gap = 0.0;
  for (int i = 0; i < 500; ++i) {
    const Logits a = cpu.Feed(next), b = cuda.Feed(next);
    const int vocab = static_cast<int>(a.size());
    const int32_t chosen = Best(a.data(), vocab), other = Best(b.data(), vocab);
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
