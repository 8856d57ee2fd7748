// Chains of products: the bits of the same products one by one, whatever the number of rows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/matmul.h"
#include "tests/kernels/matmul_cuda_product.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/test_util.h"
#include "tests/testing/bitwise.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

// What lies between two mixers: out [width] -> stream [hidden], a gated MLP, and the next layer's
// first product (none where `next` is 0).
struct LayerShape {
  std::string name;
  int width, hidden, inner, next;
  bool e4m3 = false;
  bool biases = true;
};

std::vector<BF16> Numbers(uint64_t state, size_t count) {
  std::vector<BF16> values(count);
  for (BF16& value : values) value = NextBf16(state);
  return values;
}

struct Results {
  std::vector<float> stream, weighted, squares, next;
};

class MatMulChainCuda : public ::testing::TestWithParam<LayerShape> {
 protected:
  void SetUp() override {
    context_.queue = TestQueue();
    if (context_.queue == nullptr) GTEST_SKIP() << "no CUDA device";
    const LayerShape& shape = GetParam();
    Pack(0, shape.hidden, shape.width, false);
    Pack(1, 2 * shape.inner, shape.hidden, true);
    Pack(2, shape.hidden, shape.inner, false);
    if (shape.next > 0) Pack(3, shape.next, shape.hidden, false);
    for (int i = 0; i < 4; ++i) biases_[i] = PseudoVector(20 + i, size_t(2) * 20000);
    for (int i = 0; i < 2; ++i) norms_[i] = PseudoVector(30 + i, shape.hidden);
  }
  void Pack(int index, int n, int k, bool gated) {
    const std::vector<BF16> weights = Numbers(88172645463325252u + index, size_t(n) * k);
    PackedMatrix::Source source;
    source.dtype = DType::kBF16;
    source.n = n;
    source.k = k;
    source.data = weights.data();
    source.gated = gated;
    source.e4m3 = GetParam().e4m3;
    auto packed = PackedMatrix::Pack(source, context_);
    ASSERT_TRUE(packed.ok()) << packed.status();
    weights_[index] = *std::move(packed);
  }

  // Runs `op` over the chain of these rows; what it made.
  template <typename Op>
  Results Run(int rows, const Op& op) {
    const LayerShape& shape = GetParam();
    const int groups = SquareGroups(shape.hidden);
    Results r;
    r.stream = PseudoVector(4, size_t(rows) * shape.hidden);
    r.weighted.assign(size_t(rows) * shape.hidden, kNaN);
    r.squares.assign(size_t(rows) * groups, kNaN);
    r.next.assign(size_t(rows) * shape.next, kNaN);
    std::vector<float> delta(size_t(rows) * shape.hidden, kNaN);
    std::vector<BF16> x = Numbers(7, size_t(rows) * shape.width);
    if (not_finite_) {
      x[0] = {0xffff};                        // NaN in row 0
      x[size_t(2) * shape.width] = {0x7f80};  // infinity in row 2
      r.stream[size_t(3) * shape.hidden] = -kNaN;
    }
    Mirror mirror(context_);
    ResidualStream stream;
    stream.stream = mirror.InOut(r.stream);
    stream.weighted = mirror.InOutRounded(r.weighted.data(), r.weighted.size());
    stream.squares = mirror.InOut(r.squares);
    stream.delta = mirror.InOut(delta);
    const RowNorm norm = {stream.squares, 1e-5f};
    std::vector<float> between(size_t(rows) * shape.inner, kNaN);
    BF16* const inner = mirror.InOutRounded(between.data(), between.size());
    float* const next = mirror.InOut(r.next);
    std::vector<MatMulParams> chain(shape.next > 0 ? 4 : 3);
    for (size_t i = 0; i < chain.size(); ++i) {
      MatMulParams& m = chain[i];
      m.num_rows = rows;
      m.weight = &weights_[i];
      m.x_stride = m.weight->k();
      m.out_stride = m.weight->n() / (m.weight->gated() ? 2 : 1);
      if (shape.biases) m.bias = mirror.In(biases_[i]);
    }
    chain[0].x_bf16 = mirror.In(x);
    chain[0].residual = stream;
    chain[0].residual.weight = mirror.In(norms_[0]);
    chain[1].x_bf16 = stream.weighted;
    chain[1].norm = norm;
    chain[1].out_bf16 = inner;
    chain[2].x_bf16 = inner;
    chain[2].residual = stream;
    chain[2].residual.weight = mirror.In(norms_[1]);
    if (shape.next > 0) {
      chain[3].x_bf16 = stream.weighted;
      chain[3].norm = norm;
      chain[3].out = next;
    }
    absl::Status status = mirror.Call([&] { return op(chain); });
    status.Update(mirror.Finish());
    EXPECT_TRUE(status.ok()) << status;
    return r;
  }
  Results OneByOne(int rows) {
    return Run(rows, [&](absl::Span<const MatMulParams> chain) {
      absl::Status status;
      for (const MatMulParams& m : chain) status.Update(MatMul(m, context_));
      return status;
    });
  }
  // All of the exchange but what the last launch shared with all its blocks.
  void ExpectOnesBetween() {
    const size_t taken = DeviceQueue::kExchangeBytes / 2;
    std::vector<uint32_t> words(taken / sizeof(uint32_t));
    ASSERT_TRUE(context_.queue->Download(words.data(), context_.queue->exchange(), taken).ok());
    ASSERT_TRUE(context_.queue->Synchronize().ok());
    EXPECT_EQ(std::count(words.begin(), words.end(), 0xffffffffu),
              static_cast<int64_t>(words.size()));
  }

  Context context_{Device::kCuda};
  bool not_finite_ = false;
  std::array<PackedMatrix, 4> weights_;
  std::array<std::vector<float>, 4> biases_;
  std::array<std::vector<float>, 2> norms_;
};

// What only the next product reads need not be there.
void ExpectEqual(const Results& found, const Results& expected, const std::string& name) {
  EXPECT_TRUE(testing::BitwiseEqual(found.stream, expected.stream)) << name << ": stream";
  EXPECT_TRUE(testing::BitwiseEqual(found.next, expected.next)) << name << ": next";
  if (!expected.next.empty()) return;
  EXPECT_TRUE(testing::BitwiseEqual(found.weighted, expected.weighted)) << name << ": weighted";
  EXPECT_TRUE(testing::BitwiseEqual(found.squares, expected.squares)) << name << ": squares";
}

TEST_P(MatMulChainCuda, GivesTheBitsOfSingleProducts) {
  for (const int rows : {1, 2, 5, 8}) {
    const Results expected = OneByOne(rows);
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Results found = Run(rows, [&](absl::Span<const MatMulParams> chain) {
        EXPECT_TRUE(cuda::CanMatMulChain(chain, *context_.queue));
        return MatMulChain(chain, context_);
      });
      ExpectEqual(found, expected, std::to_string(rows) + " rows");
    }
  }
  ExpectOnesBetween();
}

// Numbers that stand for "not there yet" between blocks are not taken for results.
TEST_P(MatMulChainCuda, CarryWhatIsNotFinite) {
  not_finite_ = true;
  const auto bits = [](const std::vector<float>& values) {
    std::vector<float> out;
    for (const float value : values) out.push_back(std::isnan(value) ? kNaN : value);
    return out;
  };
  const int rows = 4;
  const Results expected = OneByOne(rows);
  const Results found = Run(rows, [&](absl::Span<const MatMulParams> chain) {
    EXPECT_TRUE(cuda::CanMatMulChain(chain, *context_.queue));
    return MatMulChain(chain, context_);
  });
  EXPECT_TRUE(testing::BitwiseEqual(bits(found.stream), bits(expected.stream)));
  EXPECT_TRUE(testing::BitwiseEqual(bits(found.next), bits(expected.next)));
  const auto nan = [](float value) { return std::isnan(value); };
  EXPECT_TRUE(std::any_of(found.stream.begin(), found.stream.end(), nan));
  EXPECT_FALSE(std::all_of(found.stream.begin(), found.stream.end(), nan));
  ExpectOnesBetween();
}

// One after the other without a pause: the second begins while the first still runs.
TEST_P(MatMulChainCuda, FollowEachOther) {
  const int rows = 3, times = 20;
  const auto expected = Run(rows, [&](absl::Span<const MatMulParams> chain) {
    absl::Status status;
    for (int i = 0; i < times; ++i) {
      for (const MatMulParams& m : chain) status.Update(MatMul(m, context_));
    }
    return status;
  });
  const auto found = Run(rows, [&](absl::Span<const MatMulParams> chain) {
    absl::Status status;
    for (int i = 0; i < times; ++i) status.Update(MatMulChain(chain, context_));
    return status;
  });
  ExpectEqual(found, expected, "repeated");
  ExpectOnesBetween();
}

TEST_P(MatMulChainCuda, FallsBackToSingleProducts) {
  const int rows = 9;
  const Results found = Run(rows, [&](absl::Span<const MatMulParams> chain) {
    EXPECT_FALSE(cuda::CanMatMulChain(chain, *context_.queue));
    return MatMulChain(chain, context_);
  });
  ExpectEqual(found, OneByOne(rows), "many rows");
  Run(1, [&](absl::Span<const MatMulParams> chain) {
    std::vector<MatMulParams> other(chain.begin(), chain.end());
    EXPECT_FALSE(cuda::CanMatMulChain({other.data(), 1}, *context_.queue)) << "one";
    other[1].x_bf16 += 8;
    EXPECT_FALSE(cuda::CanMatMulChain(other, *context_.queue)) << "reads something else";
    other = {chain.begin(), chain.end()};
    other[1].norm.squares += 1;
    EXPECT_FALSE(cuda::CanMatMulChain(other, *context_.queue)) << "another norm";
    other = {chain.begin(), chain.end()};
    other[2].num_rows = 2;
    EXPECT_FALSE(cuda::CanMatMulChain(other, *context_.queue)) << "other rows";
    return absl::OkStatus();
  });
}

// Blocks of two such kernels at a time could wait for each other for ever.
TEST_P(MatMulChainCuda, AreOfOneQueueAtATime) {
  Run(1, [&](absl::Span<const MatMulParams> chain) {
    EXPECT_TRUE(cuda::CanMatMulChain(chain, *context_.queue));
    auto other = DeviceQueue::Create();
    EXPECT_TRUE(other.ok()) << other.status();
    EXPECT_FALSE(cuda::CanMatMulChain(chain, **other));
    return absl::OkStatus();
  });
}

INSTANTIATE_TEST_SUITE_P(All, MatMulChainCuda,
                         ::testing::Values(LayerShape{"recurrent2b", 2560, 2560, 7680, 5120},
                                           LayerShape{"attention2b", 2560, 2560, 7680, 3072, false,
                                                      false},
                                           LayerShape{"last", 1024, 640, 1920, 0},
                                           LayerShape{"small", 128, 128, 384, 192},
                                           LayerShape{"fp8", 2560, 2560, 7680, 5120, true},
                                           LayerShape{"smallfp8", 256, 384, 128, 64, true}),
                         [](const auto& info) { return info.param.name; });

TEST(MatMulChain, OnTheCpuIsOneAfterTheOther) {
  const std::unique_ptr<ThreadPool> pool = MakePool(2);
  const Context context{Device::kCpu, pool.get(), nullptr};
  const int rows = 3, width = 40;
  std::array<PackedMatrix, 2> weights;
  for (int i = 0; i < 2; ++i) {
    const std::vector<BF16> values = Numbers(5 + i, width * width);
    PackedMatrix::Source source;
    source.dtype = DType::kBF16;
    source.n = source.k = width;
    source.data = values.data();
    auto packed = PackedMatrix::Pack(source, context);
    ASSERT_TRUE(packed.ok()) << packed.status();
    weights[i] = *std::move(packed);
  }
  const std::vector<float> x = PseudoVector(1, rows * width);
  std::vector<float> between(rows * width), out(rows * width), expected(rows * width);
  std::vector<MatMulParams> chain(2);
  for (int i = 0; i < 2; ++i) {
    chain[i].num_rows = rows;
    chain[i].x_stride = chain[i].out_stride = width;
    chain[i].weight = &weights[i];
    chain[i].x = i == 0 ? x.data() : between.data();
    chain[i].out = i == 0 ? between.data() : expected.data();
    ASSERT_TRUE(MatMul(chain[i], context).ok());
  }
  chain[1].out = out.data();
  between.assign(between.size(), kNaN);
  ASSERT_TRUE(MatMulChain(chain, context).ok());
  EXPECT_TRUE(testing::BitwiseEqual(out, expected));
  chain[1].x = nullptr;
  EXPECT_THAT(MatMulChain(chain, context).message(), HasSubstr("MatMul: x"));
}

}  // namespace
}  // namespace reprise::kernels
