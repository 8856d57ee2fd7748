// What rounding the linear layers to fp8 costs the bundled model: within bounds that a wrong scale,
// a scale of the wrong output or a coarser rounding would break by far.
// bench/engine/fp8_accuracy.py measures the same on more text.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/models/testing/bundled_model.h"

namespace reprise::models::testing {
namespace {

constexpr char kText[] =
    "There was once a miller who had three daughters and no money at all. The eldest could spin, "
    "the second could sing, and the youngest, whose name was Anna, could do neither; but she knew "
    "where the brown hens laid their eggs, and when the river would rise. One evening in October a "
    "stranger came up the road with a sack upon his back. \"Good people,\" said he, \"let me sleep "
    "beside your fire, and in the morning I will pay you.\" The miller laughed. \"With what? You "
    "have not so much as a coat.\" \"With a word,\" said the stranger, and he sat down upon the "
    "hearth and put his hands to the coals. All night the wind cried round the house, and the old "
    "wheel groaned, and nobody slept but the stranger. When it grew light he rose and went to the "
    "youngest daughter, who was lighting the lamp, and whispered something in her ear. Then he "
    "took up his sack and walked away over the frozen fields, and he never once looked back.";

struct Reading {
  Logits logits;  // after each token of the text
  double nats = 0.0;
};

Reading Read(kernels::Device device, WeightFormat format, const std::vector<int>& chunks = {}) {
  BundledModel bundled(device, format);
  const std::vector<int32_t> tokens = bundled.Encode(kText);
  const int vocab = bundled.model().info().vocab_size;
  Reading reading;
  int64_t at = 0;
  const auto feed = [&](int64_t count) {
    const Logits part = bundled.Feed(Slice(tokens, at, at + count), /*all_rows=*/true);
    reading.logits.insert(reading.logits.end(), part.begin(), part.end());
    at += count;
  };
  for (const int chunk : chunks) feed(chunk);
  feed(static_cast<int64_t>(tokens.size()) - at);
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const float* const row = &reading.logits[i * vocab];
    double sum = 0.0;
    for (int j = 0; j < vocab; ++j) sum += std::exp(double{row[j]} - row[tokens[i + 1]]);
    reading.nats += std::log(sum) / static_cast<double>(tokens.size() - 1);
  }
  return reading;
}

TEST(Fp8Accuracy, BundledModelReadsAlmostAsWell) {
  const Reading whole = Read(kernels::Device::kCpu, WeightFormat::kCheckpoint);
  const Reading fp8 = Read(kernels::Device::kCpu, WeightFormat::kFp8);
  const double error = RelativeError(fp8.logits, whole.logits);
  constexpr int kVocab = 8192;
  const size_t rows = whole.logits.size() / kVocab;
  size_t same = 0;
  for (size_t row = 0; row < rows; ++row) {
    same += Best(&fp8.logits[row * kVocab], kVocab) == Best(&whole.logits[row * kVocab], kVocab);
  }
  std::printf("relative error %.5f, %zu of %zu best tokens, %.4f and %.4f nats per token\n", error,
              same, rows, whole.nats, fp8.nats);
  EXPECT_GT(error, 1e-4) << "nothing was rounded";
  EXPECT_LT(error, 0.03);
  EXPECT_GT(static_cast<double>(same), 0.95 * static_cast<double>(rows));
  EXPECT_LT(std::fabs(fp8.nats - whole.nats), 0.02);
}

// The same rounded weights on both devices: what is left is that of bf16 operands.
TEST(Fp8Accuracy, CudaHasTheWeightsOfTheCpu) {
  if (!HasCuda()) GTEST_SKIP() << "no CUDA device";
  const Reading cpu = Read(kernels::Device::kCpu, WeightFormat::kFp8);
  const Reading cuda = Read(kernels::Device::kCuda, WeightFormat::kFp8, {40, 1, 1, 1});
  const double error = RelativeError(cuda.logits, cpu.logits);
  std::printf("relative error %.5f, %.4f and %.4f nats per token\n", error, cpu.nats, cuda.nats);
  EXPECT_LT(error, 0.02);
  EXPECT_LT(std::fabs(cuda.nats - cpu.nats), 0.01);
}

}  // namespace
}  // namespace reprise::models::testing
