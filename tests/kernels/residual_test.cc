// Residual streams on CUDA and the norms that products and the embedding take part in: the written
// order, bit by bit, by every plan.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "tests/kernels/matmul_cuda_product.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/test_util.h"
#include "tests/testing/bitwise.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

constexpr float kOffset = 1.0f, kEps = 1e-5f;

struct Stream {
  std::vector<float> stream, weighted, squares;

  Stream(int rows, int dim)
      : stream(size_t(rows) * dim, kNaN),
        weighted(size_t(rows) * dim, kNaN),
        squares(size_t(rows) * SquareGroups(dim), kNaN) {}
};

// What the contract says of a stream with these values.
Stream Expected(int rows, int dim, const std::vector<float>& values,
                const std::vector<float>& weight) {
  Stream out(rows, dim);
  out.stream = values;
  for (int r = 0; r < rows; ++r) {
    const float* const row = values.data() + size_t(r) * dim;
    for (int i = 0; i < dim; ++i) {
      out.weighted[size_t(r) * dim + i] = Widen(RoundToBf16(row[i] * (kOffset + weight[i])));
    }
    for (int g = 0; g < SquareGroups(dim); ++g) {
      float sums[16] = {};
      for (int i = 0; i < kSquareGroup && g * kSquareGroup + i < dim; ++i) {
        const float value = row[g * kSquareGroup + i];
        sums[i / 4] = std::fma(value, value, sums[i / 4]);
      }
      for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
      }
      out.squares[r * SquareGroups(dim) + g] = sums[0];
    }
  }
  return out;
}

float Factor(const float* squares, int dim) {
  float sums[8] = {};
  for (int g = 0; g < SquareGroups(dim); ++g) sums[g % 8] += squares[g];
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return 1.0f / std::sqrt(sums[0] / static_cast<float>(dim) + kEps);
}

void ExpectEqual(const Stream& found, const Stream& expected, const std::string& name) {
  EXPECT_TRUE(testing::BitwiseEqual(found.stream, expected.stream)) << name;
  EXPECT_TRUE(testing::BitwiseEqual(found.weighted, expected.weighted)) << name;
  EXPECT_TRUE(testing::BitwiseEqual(found.squares, expected.squares)) << name;
}

class ResidualCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    context_.queue = TestQueue();
    if (context_.queue == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  ResidualStream Lend(Mirror& mirror, Stream& stream, const std::vector<float>& weight) {
    ResidualStream out;
    out.stream = mirror.InOut(stream.stream);
    out.weight = mirror.In(weight);
    out.weight_offset = kOffset;
    out.weighted = mirror.InOutRounded(stream.weighted.data(), stream.weighted.size());
    out.squares = mirror.InOut(stream.squares);
    delta_.resize(stream.stream.size());
    out.delta = mirror.InOut(delta_);
    return out;
  }
  Context context_{Device::kCuda};
  std::vector<float> delta_;
};

class ResidualProducts : public ResidualCuda, public ::testing::WithParamInterface<Shape> {};

TEST_P(ResidualProducts, AddToTheStream) {
  const Shape& shape = GetParam();
  if (shape.gated) GTEST_SKIP() << "gated products have no stream";
  const int rows = 150, dim = shape.n;
  Product product(shape, rows, context_.queue);
  const std::vector<float> weight = PseudoVector(3, dim);
  for (const int count : {1, 31, 70, 150}) {
    std::vector<float> values = PseudoVector(4, size_t(count) * dim);
    Stream before(count, dim);
    before.stream = values;
    const std::vector<float> more = product.Run(0, count);
    ASSERT_TRUE(product.status().ok()) << product.status();
    for (size_t i = 0; i < values.size(); ++i) values[i] += more[i];
    const Stream expected = Expected(count, dim, values, weight);
    for (const auto& [name, plan] : AllPlans(product.Problem(count), product.aligned())) {
      Stream found = before;
      Mirror mirror(context_);
      MatMulParams p = product.Params(0, count);
      p.residual = Lend(mirror, found, weight);
      absl::Status status = MatMulBy(p, plan, context_);
      status.Update(mirror.Finish());
      ASSERT_TRUE(status.ok()) << status;
      ExpectEqual(found, expected, name + ", " + std::to_string(count) + " rows");
    }
  }
}

// The factor of a row is 1 for some rows and large or small for others; a product without a bias
// tells how it was used.
TEST_P(ResidualProducts, MultiplyByTheNorm) {
  Shape shape = GetParam();
  shape.bias = false;
  if (shape.gated) {
    // act(f a) * (f b) does not follow from act(a) * b: see GatedProductsNormBoth.
    return;
  }
  const int rows = 150;
  Product product(shape, rows, context_.queue);
  const int groups = SquareGroups(shape.k);
  std::vector<float> squares = PseudoVector(5, size_t(rows) * groups);
  for (float& value : squares) value = value * value * static_cast<float>(shape.k);
  for (const int count : {1, 31, 70, 150}) {
    std::vector<float> expected = product.Run(0, count);
    ASSERT_TRUE(product.status().ok()) << product.status();
    for (int r = 0; r < count; ++r) {
      const float factor = Factor(squares.data() + size_t(r) * groups, shape.k);
      for (int j = 0; j < shape.n; ++j) {
        expected[size_t(r) * shape.n + j] = expected[size_t(r) * shape.n + j] * factor + 0.0f;
      }
    }
    for (const auto& [name, plan] : AllPlans(product.Problem(count), product.aligned())) {
      std::vector<float> found(size_t(count) * shape.n, kNaN);
      Mirror mirror(context_);
      MatMulParams p = product.Params(0, count);
      p.out_stride = shape.n;
      p.out = mirror.InOut(found);
      p.norm = {mirror.In(squares), kEps};
      absl::Status status = MatMulBy(p, plan, context_);
      status.Update(mirror.Finish());
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_TRUE(testing::BitwiseEqual(found, expected, {count, shape.n}))
          << name << ", " << count << " rows";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ResidualProducts,
    ::testing::Values(Shape{.name = "whole", .n = 640, .k = 1536, .bias = true},
                      Shape{.name = "ragged", .n = 333, .k = 1200, .bias = true},
                      Shape{.name = "narrow", .n = 40, .k = 72},
                      Shape{.name = "long", .n = 128, .k = 7680, .bias = true},
                      Shape{.name = "unaligned", .n = 100, .k = 1090, .x_extra = 1}),
    [](const auto& info) { return info.param.name; });

// Gate and output are both multiplied; alone and in a crowd, by every plan, all rows are equal to
// those of x multiplied by a power of two where the factor is one.
TEST_F(ResidualCuda, GatedProductsNormBoth) {
  const Shape shape{.name = "", .n = 16 * 13, .k = 576, .gated = true};
  const int rows = 70, groups = SquareGroups(shape.k), outs = shape.n / 2;
  Product product(shape, rows, context_.queue);
  // The mean square of row r is 4^-(r % 5): the factor is 2^(r % 5), but for eps.
  std::vector<float> squares(size_t(rows) * groups, 0.0f);
  for (int r = 0; r < rows; ++r) {
    squares[size_t(r) * groups + r % groups] =
        static_cast<float>(shape.k) * std::ldexp(1.0f, -2 * (r % 5));
  }
  const auto run = [&](int first, int count, const MatMulPlan& plan, Activation activation) {
    std::vector<float> found(size_t(count) * outs, kNaN);
    Mirror mirror(context_);
    MatMulParams p = product.Params(first, count);
    p.activation = activation;
    p.out_stride = outs;
    p.out = mirror.InOut(found);
    p.norm = {mirror.In(squares) + size_t(first) * groups, 0.0f};
    absl::Status status = MatMulBy(p, plan, context_);
    status.Update(mirror.Finish());
    EXPECT_TRUE(status.ok()) << status;
    return found;
  };
  // relu(f a) * (f b) = f^2 relu(a) b, exactly for powers of two.
  const std::vector<float> relu = run(0, rows, {}, Activation::kRelu);
  std::vector<float> bare(size_t(rows) * outs, kNaN);
  Mirror mirror(context_);
  MatMulParams p = product.Params(0, rows);
  p.activation = Activation::kRelu;
  p.out_stride = outs;
  p.out = mirror.InOut(bare);
  ASSERT_TRUE(MatMul(p, context_).ok());
  ASSERT_TRUE(mirror.Finish().ok());
  for (int r = 0; r < rows; ++r) {
    for (int j = 0; j < outs; ++j) {
      const size_t at = size_t(r) * outs + j;
      ASSERT_EQ(relu[at], std::ldexp(bare[at], 2 * (r % 5))) << r << " " << j;
    }
  }
  for (const Activation activation : {Activation::kGeluTanh, Activation::kSilu}) {
    std::vector<float> alone;
    for (int r = 0; r < rows; ++r) {
      const std::vector<float> row = run(r, 1, {}, activation);
      alone.insert(alone.end(), row.begin(), row.end());
    }
    for (const auto& [name, plan] : AllPlans(product.Problem(rows))) {
      EXPECT_TRUE(testing::BitwiseEqual(run(0, rows, plan, activation), alone, {rows, outs}))
          << name;
    }
  }
}

TEST_F(ResidualCuda, TheEmbeddingBeginsAStream) {
  for (const int dim : {77, 640, 2560}) {
    const int vocab = 20, rows = 9;
    std::vector<int32_t> ids;
    for (int r = 0; r < rows; ++r) ids.push_back(r * 7 % vocab);
    const std::vector<float> table = PseudoVector(6, vocab * dim), weight = PseudoVector(3, dim);
    std::vector<float> values;
    for (const int id : ids) {
      for (int i = 0; i < dim; ++i) values.push_back(table[id * dim + i] * 1.7f);
    }
    Stream found(rows, dim);
    Mirror mirror(context_);
    EmbeddingParams p{rows, dim, vocab, DType::kF32, 1.7f, mirror.In(ids), mirror.In(table)};
    p.residual = Lend(mirror, found, weight);
    absl::Status status = Embedding(p, context_);
    status.Update(mirror.Finish());
    ASSERT_TRUE(status.ok()) << status;
    ExpectEqual(found, Expected(rows, dim, values, weight), std::to_string(dim));
  }
}

TEST_F(ResidualCuda, PicksRows) {
  const int rows = 9, dim = 333, groups = SquareGroups(dim);
  const std::vector<int32_t> ids = {2, 3, 8};
  const std::vector<float> squares = PseudoVector(5, rows * groups);
  std::vector<float> weighted;
  for (const float value : PseudoVector(4, rows * dim)) {
    weighted.push_back(Widen(RoundToBf16(value)));
  }
  std::vector<float> out(ids.size() * dim, kNaN), out_squares(ids.size() * groups, kNaN);
  Mirror mirror(context_);
  PickRowsParams p;
  p.num_rows = static_cast<int>(ids.size());
  p.dim = dim;
  p.row_ids = mirror.In(ids);
  p.weighted = mirror.InRounded(weighted);
  p.squares = mirror.In(squares);
  p.out_weighted = mirror.InOutRounded(out.data(), out.size());
  p.out_squares = mirror.InOut(out_squares);
  ASSERT_TRUE(PickRows(p, context_).ok());
  ASSERT_TRUE(mirror.Finish().ok());
  for (size_t r = 0; r < ids.size(); ++r) {
    EXPECT_TRUE(testing::BitwiseEqual(out.data() + r * dim, weighted.data() + ids[r] * dim, dim));
    EXPECT_TRUE(testing::BitwiseEqual(out_squares.data() + r * groups,
                                      squares.data() + ids[r] * groups, groups));
  }
}

TEST_F(ResidualCuda, NamesWhatIsWrong) {
  const std::vector<float> weights(16 * 8);
  auto packed = PackedMatrix::Pack({DType::kF32, 1, 16, 8, false, weights.data()}, context_);
  auto blocks =
      PackedMatrix::Pack({DType::kF32, 2, 16, 8, false, std::vector<float>(256).data()}, context_);
  ASSERT_TRUE(packed.ok() && blocks.ok());
  BF16 x[16];
  float out[32];
  MatMulParams p;
  p.num_rows = 1;
  p.x_stride = p.out_stride = 32;
  p.x_bf16 = x;
  p.weight = &*packed;
  p.residual.stream = out;
  const auto refusal = [&](const MatMulParams& params) {
    const absl::Status status = MatMul(params, context_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(p), HasSubstr("residual.weight: expected a tensor, found null"));
  p.residual.weight = p.residual.squares = out;
  p.residual.weighted = x;
  EXPECT_THAT(refusal(p), HasSubstr("residual.delta: expected a tensor, found null"));
  p.residual.delta = out;
  p.softcap = 1.0f;
  EXPECT_THAT(refusal(p), HasSubstr("residual: expected one block, not gated, without softcap"));
  p.softcap = 0.0f;
  p.out = out;
  EXPECT_THAT(refusal(p), HasSubstr("out: expected one of out, out_bf16 and residual, found 2"));
  p.residual = {};
  p.norm = {out, -1.0f};
  EXPECT_THAT(refusal(p), HasSubstr("norm.eps: expected a finite number >= 0"));
  p.norm.eps = 0.0f;
  p.weight = &*blocks;
  EXPECT_THAT(refusal(p), HasSubstr("norm: expected none with several blocks"));
}

TEST(ResidualCpu, IsForCuda) {
  const auto pool = MakePool(1);
  const Context context{Device::kCpu, pool.get()};
  const std::vector<float> weights(16 * 8);
  auto packed = PackedMatrix::Pack({DType::kF32, 1, 16, 8, false, weights.data()}, context);
  ASSERT_TRUE(packed.ok());
  float x[8], out[16];
  MatMulParams p;
  p.num_rows = 1;
  p.x_stride = 8;
  p.out_stride = 16;
  p.x = x;
  p.out = out;
  p.weight = &*packed;
  p.norm.squares = out;
  EXPECT_THAT(std::string(MatMul(p, context).message()),
              HasSubstr("norm, residual: expected none on the CPU"));
  PickRowsParams pick;
  pick.dim = 8;
  EXPECT_THAT(std::string(PickRows(pick, context).message()),
              HasSubstr("device: expected CUDA, found the CPU"));
}

}  // namespace
}  // namespace reprise::kernels
