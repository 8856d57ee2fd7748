#include "kernels/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/matmul_plan.h"
#include "tests/kernels/matmul_cases.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

// Row r of x holds the same numbers whatever the batch.
std::vector<float> MakeX(const MatMulCase& c, int first_row, int rows) {
  const int inputs = c.blocks * c.k;
  std::vector<float> x(size_t(rows) * (inputs + c.extra), kNaN);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < inputs; ++i) {
      x[size_t(r) * (inputs + c.extra) + i] = Pseudo(8, first_row + r, i);
    }
  }
  return x;
}

// Runs rows [first_row, first_row + rows) and gives the dense outputs [rows, blocks * n].
std::vector<float> RunRows(const MatMulCase& c, const PackedMatrix& weight, int first_row, int rows,
                           ThreadPool* pool) {
  const int outputs = c.blocks * c.n;
  const std::vector<float> x = MakeX(c, first_row, rows);
  const std::vector<float> bias = PseudoVector(9, outputs);
  MatMulParams p;
  p.num_rows = rows;
  p.x_stride = c.blocks * c.k + c.extra;
  p.out_stride = outputs + 2 * c.extra;
  p.x = x.data();
  p.weight = &weight;
  p.bias = c.bias ? bias.data() : nullptr;
  p.accumulate = c.accumulate;
  std::vector<float> out(size_t(rows) * p.out_stride, kNaN);
  if (c.accumulate) {
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < outputs; ++j) out[r * p.out_stride + j] = Pseudo(10, first_row + r, j);
    }
  }
  p.out = out.data();
  const absl::Status status = MatMul(p, {Device::kCpu, pool});
  EXPECT_TRUE(status.ok()) << status;
  std::vector<float> dense;
  for (int r = 0; r < rows; ++r) {
    const auto row = out.begin() + r * p.out_stride;
    dense.insert(dense.end(), row, row + outputs);
    for (int64_t j = outputs; j < p.out_stride; ++j) EXPECT_TRUE(std::isnan(row[j]));
  }
  return dense;
}

class MatMulTest : public ::testing::TestWithParam<MatMulCase> {
 protected:
  MatMulTest() : weights_(GetParam()) {
    auto packed = PackedMatrix::Pack(weights_.source, {Device::kCpu, pool_.get()});
    EXPECT_TRUE(packed.ok()) << packed.status();
    packed_ = *std::move(packed);
  }
  std::unique_ptr<ThreadPool> pool_ = MakePool(2);
  Weights weights_;
  PackedMatrix packed_;
};

TEST_P(MatMulTest, MatchesReference) {
  const MatMulCase& c = GetParam();
  MatMulCase dense = c;
  dense.extra = 0;
  std::vector<double> bias;
  if (c.bias) bias = Doubles(PseudoVector(9, size_t(c.blocks) * c.n));
  std::vector<double> expected = reference::MatMul(
      c.rows, c.blocks, c.n, c.k, Doubles(MakeX(dense, 0, c.rows)), weights_.values, bias);
  if (c.accumulate) {
    for (int r = 0; r < c.rows; ++r) {
      for (int j = 0; j < c.blocks * c.n; ++j) {
        expected[size_t(r) * c.blocks * c.n + j] += Pseudo(10, r, j);
      }
    }
  }
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    EXPECT_TRUE(Near(RunRows(c, packed_, 0, c.rows, pool_.get()), expected, c.tolerance))
        << hwy::TargetName(target);
  }
}

// The contract to the letter: fused multiply-adds in the order of i, then bias, then the old value.
TEST_P(MatMulTest, AddsInTheOrderOfTheContract) {
  const MatMulCase& c = GetParam();
  const std::vector<float> x = MakeX(c, 0, c.rows);
  const int64_t stride = c.blocks * c.k + c.extra;
  std::vector<float> expected;
  for (int r = 0; r < c.rows; ++r) {
    for (int b = 0; b < c.blocks; ++b) {
      for (int j = 0; j < c.n; ++j) {
        float sum = 0.0f;
        for (int i = 0; i < c.k; ++i) {
          const auto w = static_cast<float>(weights_.kept[(size_t(b) * c.n + j) * c.k + i]);
          sum = std::fma(x[r * stride + b * c.k + i], w, sum);
        }
        if (c.e4m3) sum *= weights_.scales[b * c.n + j];
        if (c.bias) sum += Pseudo(9, b * c.n + j);
        if (c.accumulate) sum += Pseudo(10, r, b * c.n + j);
        expected.push_back(sum);
      }
    }
  }
  for (const int64_t target : FusedTargets()) {
    const ScopedTarget scoped(target);
    EXPECT_TRUE(testing::BitwiseEqual(RunRows(c, packed_, 0, c.rows, pool_.get()), expected,
                                      {c.rows, c.blocks * c.n}))
        << hwy::TargetName(target);
  }
}

TEST_P(MatMulTest, SameBitsForRowsThreadsAndTargets) {
  const MatMulCase& c = GetParam();
  const int outputs = c.blocks * c.n;
  const std::vector<float> whole = RunRows(c, packed_, 0, 40, pool_.get());
  const auto one = MakePool(1), three = MakePool(3);
  for (const int64_t target : FusedTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    for (ThreadPool* pool : {one.get(), pool_.get(), three.get()}) {
      EXPECT_TRUE(testing::BitwiseEqual(RunRows(c, packed_, 0, 40, pool), whole, {40, outputs}));
    }
    for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 17, 25}) {
      for (const int first : {0, 3, 15}) {
        const std::vector<float> part = RunRows(c, packed_, first, rows, pool_.get());
        EXPECT_TRUE(testing::BitwiseEqual(part.data(), whole.data() + first * outputs, part.size(),
                                          {rows, outputs}))
            << rows << " rows from " << first;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatMulTest, ::testing::ValuesIn(MatMulCases()),
                         [](const auto& info) { return std::string(info.param.name); });

// More rows than a row block, so that several are cut.
TEST(MatMulShapeTest, SeveralRowBlocks) {
  const MatMulCase c{.name = "rows_1100", .n = 70, .k = 150, .dtype = DType::kBF16};
  const auto pool = MakePool(2);
  Weights weights(c);
  const auto packed = PackedMatrix::Pack(weights.source, {Device::kCpu, pool.get()});
  ASSERT_TRUE(packed.ok());
  const std::vector<float> whole = RunRows(c, *packed, 0, 1100, pool.get());
  for (const int row : {0, 503, 504, 549, 550, 1099}) {
    const std::vector<float> alone = RunRows(c, *packed, row, 1, pool.get());
    EXPECT_TRUE(testing::BitwiseEqual(alone.data(), whole.data() + row * 70, 70)) << row;
  }
}

TEST(MatMulShapeTest, AllF16ValuesAreWidenedExactly) {
  const auto pool = MakePool(1);
  std::vector<uint16_t> bits(65536);
  for (int i = 0; i < 65536; ++i) bits[i] = static_cast<uint16_t>(i);
  const int32_t id = 0;
  std::vector<float> out(65536, kNaN);
  for (const int64_t target : FusedTargets()) {
    const ScopedTarget scoped(target);
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      ASSERT_TRUE(Embedding({1, 65536, 1, dtype, 1.0f, &id, bits.data(), out.data()},
                            {Device::kCpu, pool.get()})
                      .ok());
      for (int i = 0; i < 65536; ++i) {
        const double expected = reference::ReadElement(bits.data(), dtype, i);
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(out[i])) << i;
        } else {
          ASSERT_EQ(out[i], expected) << DTypeName(dtype) << " " << i;
        }
      }
    }
  }
}

TEST(MatMulShapeTest, AllE4m3ValuesAreWidenedExactly) {
  const auto pool = MakePool(1);
  std::vector<float> values;
  for (int bits = 0; bits < 256; ++bits) {
    if ((bits & 0x7f) != 0x7f) values.push_back(static_cast<float>(reference::E4m3Value(bits)));
  }
  const int k = static_cast<int>(values.size());
  PackedMatrix::Source source{DType::kF32, 1, 1, k, false, values.data()};
  source.e4m3 = true;
  const auto packed = PackedMatrix::Pack(source, {Device::kCpu, pool.get()});
  ASSERT_TRUE(packed.ok()) << packed.status();
  ASSERT_EQ(packed->scales()[0], 1.0f);
  std::vector<float> x(size_t(k) * k), out(k, kNaN);
  for (int i = 0; i < k; ++i) x[size_t(i) * k + i] = 1.0f;
  MatMulParams p;
  p.num_rows = p.x_stride = k;
  p.out_stride = 1;
  p.x = x.data();
  p.weight = &*packed;
  p.out = out.data();
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    ASSERT_TRUE(MatMul(p, {Device::kCpu, pool.get()}).ok());
    EXPECT_EQ(out, values) << hwy::TargetName(target);
  }
}

TEST(MatMulShapeTest, E4m3TakesAByteAndAScalePerOutput) {
  const auto pool = MakePool(1);
  const std::vector<float> weights(2 * 70 * 96);
  PackedMatrix::Source source{DType::kF32, 2, 70, 96, false, weights.data()};
  source.e4m3 = true;
  const auto packed = PackedMatrix::Pack(source, {Device::kCpu, pool.get()});
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(packed->dtype(), DType::kE4M3);
  EXPECT_EQ(packed->bytes(), 2u * (128 * 96 + 70 * sizeof(float)));
  EXPECT_EQ(packed->bytes(), PackedMatrix::PackedBytes(source, Device::kCpu));
  for (int i = 0; i < 140; ++i) EXPECT_EQ(packed->scales()[i], 1.0f);  // of nothing but zeros
}

TEST(MatMulPlanTest, TilesCoverTheRows) {
  for (const size_t rows : {1, 5, 6, 7, 8, 13, 48, 100, 503, 504, 505, 512, 1100, 5000}) {
    for (const size_t panels : {1, 3, 18, 120}) {
      for (const int threads : {1, 2, 7, 64}) {
        const cpu::MatMulPlan plan = cpu::PlanMatMul(rows, panels, 640, threads, 6);
        EXPECT_GE(plan.row_block * plan.row_blocks, rows);
        EXPECT_LT(plan.row_block * (plan.row_blocks - 1), rows);
        EXPECT_GE(plan.micro_rows, 1u);
        EXPECT_LE(plan.micro_rows, 6u);
        EXPECT_LE(plan.row_block, 504u + 6u);
        EXPECT_GE(plan.k_block, 1u);
      }
    }
  }
}

TEST(EmbeddingTest, GathersScaledRows) {
  const auto pool = MakePool(2);
  const int vocab = 50, dim = 77, rows = 19;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    MatMulCase c{.n = vocab, .k = dim, .dtype = dtype};
    const Weights table(c);
    std::vector<int32_t> ids;
    for (int r = 0; r < rows; ++r) ids.push_back(r * 17 % vocab);
    std::vector<float> out(rows * dim, kNaN), expected;
    for (const int32_t id : ids) {
      for (int i = 0; i < dim; ++i) {
        expected.push_back(static_cast<float>(table.values[id * dim + i]) * 1.7f);
      }
    }
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      ASSERT_TRUE(
          Embedding({rows, dim, vocab, dtype, 1.7f, ids.data(), table.source.data, out.data()},
                    {Device::kCpu, pool.get()})
              .ok());
      EXPECT_TRUE(testing::BitwiseEqual(out, expected, {rows, dim})) << DTypeName(dtype);
    }
  }
}

TEST(EmbeddingTest, NamesTheFirstBadId) {
  const auto pool = MakePool(1);
  const std::vector<float> table(12);
  std::vector<float> out(9, kNaN);
  for (const int32_t bad : {4, -1, std::numeric_limits<int32_t>::max()}) {
    const int32_t ids[] = {3, bad, 9};
    const absl::Status status = Embedding(
        {3, 3, 4, DType::kF32, 1.0f, ids, table.data(), out.data()}, {Device::kCpu, pool.get()});
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("ids[1]: expected 0..3, found " + std::to_string(bad)));
  }
  EXPECT_TRUE(std::isnan(out[0]));  // refused before any work
}

class MatMulErrors : public ::testing::Test {
 protected:
  MatMulErrors() {
    packed_ = PackedMatrix::Pack({DType::kF32, 2, 3, 4, false, weights_}, context_).value();
    p_.num_rows = 2;
    p_.x_stride = 8;
    p_.out_stride = 6;
    p_.x = x_;
    p_.weight = &packed_;
    p_.out = out_;
  }
  std::string Refusal(const MatMulParams& p) {
    const absl::Status status = MatMul(p, context_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }
  std::string PackRefusal(const PackedMatrix::Source& source) {
    const auto packed = PackedMatrix::Pack(source, context_);
    EXPECT_FALSE(packed.ok());
    return std::string(packed.status().message());
  }

  std::unique_ptr<ThreadPool> pool_ = MakePool(1);
  Context context_{Device::kCpu, pool_.get()};
  float weights_[24] = {}, x_[32] = {}, out_[32] = {};
  PackedMatrix packed_;
  MatMulParams p_;
};

TEST_F(MatMulErrors, NamesTheTensor) {
  EXPECT_TRUE(MatMul(p_, context_).ok());
  auto p = p_;
  p.weight = nullptr;
  EXPECT_THAT(Refusal(p), HasSubstr("MatMul: weight: expected a tensor, found null"));
  const PackedMatrix empty;
  p.weight = &empty;
  EXPECT_THAT(Refusal(p), HasSubstr("weight: expected a packed matrix"));
  p = p_;
  p.x_stride = 7;
  EXPECT_THAT(Refusal(p), HasSubstr("x_stride: expected >= 8, found 7"));
  p = p_;
  p.out_stride = 5;
  EXPECT_THAT(Refusal(p), HasSubstr("out_stride: expected >= 6, found 5"));
  p = p_;
  p.num_rows = -1;
  EXPECT_THAT(Refusal(p), HasSubstr("num_rows: expected >= 0, found -1"));
  p = p_;
  p.out = x_ + 15;
  EXPECT_THAT(Refusal(p), HasSubstr("out: expected memory apart from x"));
  p = p_;
  p.x = nullptr;
  EXPECT_THAT(Refusal(p), HasSubstr("x: expected a tensor, found null"));
  p = p_;
  p.softcap = 30.0f;
  EXPECT_THAT(Refusal(p), HasSubstr("softcap: expected 0 on the CPU, found 30"));
  p = p_;
  p.num_rows = 0;
  p.x = nullptr;
  EXPECT_TRUE(MatMul(p, context_).ok());  // no rows, no work
}

TEST_F(MatMulErrors, OutMayLieBesideXInOneBuffer) {
  float both[32] = {};
  auto p = p_;
  p.x_stride = p.out_stride = 16;
  p.x = both;
  p.out = both + 8;
  EXPECT_TRUE(MatMul(p, context_).ok());
  p.out = both + 7;
  EXPECT_THAT(Refusal(p), HasSubstr("out"));
  p.out = both + 11;
  EXPECT_THAT(Refusal(p), HasSubstr("out"));
}

TEST_F(MatMulErrors, Pack) {
  EXPECT_THAT(PackRefusal({DType::kU8, 1, 1, 1, false, weights_}),
              HasSubstr("dtype: expected f32, bf16 or f16, found u8"));
  EXPECT_THAT(PackRefusal({DType::kF32, 0, 1, 1, false, weights_}), HasSubstr("blocks"));
  EXPECT_THAT(PackRefusal({DType::kF32, 1, 0, 1, false, weights_}), HasSubstr("n: expected >= 1"));
  EXPECT_THAT(PackRefusal({DType::kF32, 1, 1, -5, false, weights_}), HasSubstr("k: expected >= 1"));
  EXPECT_THAT(PackRefusal({DType::kF32, 1, 1, 1, false, nullptr}), HasSubstr("data"));
  const int huge = std::numeric_limits<int>::max();
  EXPECT_THAT(PackRefusal({DType::kF32, 2, huge, huge, false, weights_}), HasSubstr("2^31"));
  const auto packed = PackedMatrix::Pack({DType::kF32, 1, huge, huge, false, weights_}, context_);
  EXPECT_EQ(packed.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace reprise::kernels
