// MatMul and Embedding on CUDA: against double precision, and the same bits however many rows there
// are and whichever kernel runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/matmul_plan.h"
#include "kernels/device_queue.h"
#include "kernels/matmul.h"
#include "tests/kernels/matmul_cases.h"
#include "tests/kernels/matmul_cuda_product.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

// The shared cases ------------------------------------------------------------------------------

class MatMulCudaCases : public MatMulCuda, public ::testing::WithParamInterface<MatMulCase> {};

TEST_P(MatMulCudaCases, MatchesReference) {
  const MatMulCase& c = GetParam();
  const Context context{Device::kCuda, nullptr, queue_};
  Weights weights(c);
  if (!c.e4m3) {
    for (double& value : weights.values) value = Widen(RoundToBf16(static_cast<float>(value)));
  }
  auto packed = PackedMatrix::Pack(weights.source, context);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(packed->dtype(), c.e4m3 ? DType::kE4M3 : DType::kBF16);
  const int inputs = c.blocks * c.k, outputs = c.blocks * c.n;
  std::vector<float> x(size_t(c.rows) * (inputs + c.extra), kNaN);
  reference::Values dense;
  for (int r = 0; r < c.rows; ++r) {
    for (int i = 0; i < inputs; ++i) {
      x[size_t(r) * (inputs + c.extra) + i] = Pseudo(8, r, i);
      dense.push_back(Widen(RoundToBf16(Pseudo(8, r, i))));
    }
  }
  std::vector<float> bias;
  if (c.bias) bias = PseudoVector(9, outputs);
  const reference::Values expected =
      reference::MatMul(c.rows, c.blocks, c.n, c.k, dense, weights.values, Doubles(bias));
  // Products are exact in float32, but tensor cores cut off rather than round: up to an ulp of the
  // sum so far for each 16 inputs.
  const double tolerance = c.tolerance + 2.4e-7 * (c.k / 16.0) * (c.e4m3 ? 64 : 1);
  for (const bool rounded : {false, true}) {
    std::vector<float> out(size_t(c.rows) * outputs, kNaN);
    Mirror mirror(context);
    MatMulParams p;
    p.num_rows = c.rows;
    p.x_stride = inputs + c.extra;
    p.out_stride = outputs;
    p.x_bf16 = mirror.InRounded(x);
    p.weight = &*packed;
    p.bias = c.bias ? mirror.In(bias) : nullptr;
    if (rounded) {
      p.out_bf16 = mirror.InOutRounded(out.data(), out.size());
    } else {
      p.out = mirror.InOut(out);
    }
    if (c.accumulate) {
      p.accumulate = true;
      EXPECT_THAT(std::string(MatMul(p, context).message()),
                  HasSubstr("accumulate: expected false on CUDA, found true"));
      ASSERT_TRUE(mirror.Finish().ok());
      return;
    }
    absl::Status status = MatMul(p, context);
    status.Update(mirror.Finish());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(Near(out, expected, rounded ? 0x1p-8 : tolerance)) << (rounded ? "bf16" : "f32");
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatMulCudaCases, ::testing::ValuesIn(MatMulCases()),
                         [](const auto& info) { return std::string(info.param.name); });

// Gates and blocks ------------------------------------------------------------------------------

class MatMulCudaGated : public MatMulCuda, public ::testing::WithParamInterface<bool> {};

TEST_P(MatMulCudaGated, MatchesReference) {
  const Context context{Device::kCuda, nullptr, queue_};
  const int n = 96, k = 80, rows = 5, half = n / 2;
  MatMulCase c{.rows = rows, .n = n, .k = k, .dtype = DType::kBF16, .e4m3 = GetParam()};
  Weights weights(c);
  weights.source.gated = true;
  auto packed = PackedMatrix::Pack(weights.source, context);
  ASSERT_TRUE(packed.ok()) << packed.status();
  std::vector<float> x = PseudoVector(8, rows * k), bias = PseudoVector(9, n);
  for (float& value : x) value = Widen(RoundToBf16(value));
  const reference::Values sums =
      reference::MatMul(rows, 1, n, k, Doubles(x), weights.values, Doubles(bias));
  for (const Activation activation :
       {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu, Activation::kRelu}) {
    reference::Values expected;
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < half; ++j) {
        expected.push_back(reference::Activate(activation, sums[r * n + j]) *
                           sums[r * n + half + j]);
      }
    }
    std::vector<float> out(rows * half, kNaN);
    Mirror mirror(context);
    MatMulParams p;
    p.num_rows = rows;
    p.x_stride = k;
    p.out_stride = half;
    p.activation = activation;
    p.x_bf16 = mirror.InRounded(x);
    p.weight = &*packed;
    p.bias = mirror.In(bias);
    p.out = mirror.InOut(out);
    absl::Status status = MatMul(p, context);
    status.Update(mirror.Finish());
    ASSERT_TRUE(status.ok()) << status;
    // The weights of the e4m3 case go up to 64.
    EXPECT_TRUE(Near(out, expected, GetParam() ? 2e-2 : 2e-5)) << static_cast<int>(activation);
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatMulCudaGated, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "e4m3" : "bf16");
});

// Products of e4m3 weights are those of the values that were kept, as bf16, times the scales; and
// the values that were kept are those of the CPU. By every plan.
TEST_F(MatMulCuda, E4m3IsItsBf16ValuesTimesScales) {
  const auto pool = MakePool(1);
  const Context context{Device::kCuda, nullptr, queue_};
  const int rows = 37;
  for (const int k : {200, 512, 1600}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      MatMulCase c{.rows = rows, .n = 200, .k = k, .dtype = dtype, .e4m3 = true};
      const Weights weights(c);
      const auto packed = PackedMatrix::Pack(weights.source, context);
      const auto host = PackedMatrix::Pack(weights.source, {Device::kCpu, pool.get()});
      ASSERT_TRUE(packed.ok() && host.ok()) << packed.status();
      const std::vector<float> kept(weights.kept.begin(), weights.kept.end());
      const auto plain = PackedMatrix::Pack({DType::kF32, 1, c.n, k, false, kept.data()}, context);
      ASSERT_TRUE(plain.ok()) << plain.status();
      EXPECT_TRUE(testing::BitwiseEqual(host->scales(), weights.scales.data(), c.n));
      const std::vector<float> x = PseudoVector(8, size_t(rows) * k);
      const auto run = [&](const PackedMatrix& matrix, const MatMulPlan& plan) {
        std::vector<float> out(size_t(rows) * c.n, kNaN);
        Mirror mirror(context);
        MatMulParams p;
        p.num_rows = rows;
        p.x_stride = k;
        p.out_stride = c.n;
        p.x_bf16 = mirror.InRounded(x);
        p.weight = &matrix;
        p.out = mirror.InOut(out);
        absl::Status status = MatMulBy(p, plan, context);
        status.Update(mirror.Finish());
        EXPECT_TRUE(status.ok()) << status;
        return out;
      };
      std::vector<float> expected = run(*plain, {});
      for (size_t i = 0; i < expected.size(); ++i) expected[i] *= weights.scales[i % c.n];
      const cuda::MatMulProblem problem{rows, 1, c.n, k, false, 132, true};
      for (const auto& [name, plan] : AllPlans(problem)) {
        EXPECT_TRUE(testing::BitwiseEqual(run(*packed, plan), expected, {rows, c.n}))
            << name << ", k " << k << ", " << DTypeName(dtype);
      }
    }
  }
}

TEST_F(MatMulCuda, SeveralBlocksMayReadTheSameX) {
  const Context context{Device::kCuda, nullptr, queue_};
  const int n = 40, k = 24, rows = 9, blocks = 6, x_blocks = 2;
  MatMulCase c{.rows = rows, .n = n, .k = k, .dtype = DType::kBF16, .blocks = blocks};
  Weights weights(c);
  weights.source.x_blocks = x_blocks;
  auto packed = PackedMatrix::Pack(weights.source, context);
  ASSERT_TRUE(packed.ok()) << packed.status();
  std::vector<float> x = PseudoVector(8, rows * x_blocks * k);
  for (float& value : x) value = Widen(RoundToBf16(value));
  reference::Values wide;  // a copy of x per block
  for (int r = 0; r < rows; ++r) {
    for (int b = 0; b < blocks; ++b) {
      for (int i = 0; i < k; ++i) wide.push_back(x[r * x_blocks * k + b % x_blocks * k + i]);
    }
  }
  const reference::Values expected =
      reference::MatMul(rows, blocks, n, k, wide, weights.values, {});
  MatMulParams p;
  p.num_rows = rows;
  p.x_stride = x_blocks * k;
  p.out_stride = blocks * n;
  p.weight = &*packed;
  for (const auto& plan : AllPlans({rows, blocks, n, k})) {
    std::vector<float> out(rows * blocks * n, kNaN);
    Mirror mirror(context);
    p.x_bf16 = mirror.InRounded(x);
    p.out = mirror.InOut(out);
    absl::Status status = MatMulBy(p, plan.second, context);
    status.Update(mirror.Finish());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(Near(out, expected, 4e-6)) << plan.first;
  }
}

// Bits ------------------------------------------------------------------------------------------

class MatMulCudaBits : public MatMulCuda, public ::testing::WithParamInterface<Shape> {};

// Any kernel and any cut: the same bits as a product per row.
TEST_P(MatMulCudaBits, EveryPlan) {
  const int rows = 200;
  Product product(GetParam(), rows, queue_);
  const size_t outputs = GetParam().outputs();
  const std::vector<float> alone = product.RunAlone(rows);
  ASSERT_TRUE(product.status().ok()) << product.status();
  std::vector<float> rounded;
  for (const float value : alone) rounded.push_back(Widen(RoundToBf16(value)));
  std::set<std::string> wrong;  // one message per plan is enough
  for (const int count : {1, 7, 32, 33, 70, 200}) {
    const int first = std::min(5, rows - count);
    for (const auto& [name, plan] : AllPlans(product.Problem(count), product.aligned())) {
      if (wrong.count(name) != 0) continue;
      const std::vector<float> found = product.Run(first, count, plan);
      ASSERT_TRUE(product.status().ok()) << name << ": " << product.status();
      const auto equal = testing::BitwiseEqual(found.data(), alone.data() + first * outputs,
                                               count * outputs, {count, int64_t(outputs)});
      EXPECT_TRUE(equal) << name << ", " << count << " rows";
      if (!equal) wrong.insert(name);
      if (count != 33) continue;
      const std::vector<float> narrow = product.RunRounded(first, count, plan);
      EXPECT_TRUE(testing::BitwiseEqual(narrow.data(), rounded.data() + first * outputs,
                                        count * outputs, {count, int64_t(outputs)}))
          << name << ", bf16";
    }
  }
  ExpectCountersZero();
}

INSTANTIATE_TEST_SUITE_P(
    All, MatMulCudaBits,
    ::testing::Values(
        Shape{.name = "one_segment", .n = 384, .k = 384},
        Shape{.name = "segments", .n = 384, .k = 1536},
        Shape{.name = "ragged", .n = 333, .k = 1200, .bias = true},
        Shape{.name = "tiny", .n = 3, .k = 5, .x_extra = 3},
        Shape{.name = "long", .n = 64, .k = 7680},
        Shape{.name = "gated", .n = 2304, .k = 576, .gated = true, .bias = true},
        Shape{.name = "gated_ragged", .n = 16 * 13, .k = 1100, .gated = true, .x_extra = 4},
        Shape{.name = "blocks", .n = 256, .k = 256, .blocks = 20, .x_blocks = 10, .bias = true},
        Shape{.name = "blocks_ragged", .n = 72, .k = 600, .blocks = 6, .x_blocks = 3},
        Shape{.name = "unaligned_stride", .n = 100, .k = 1090, .x_extra = 1},
        Shape{.name = "unaligned_x", .n = 100, .k = 640, .x_offset = 3},
        Shape{.name = "unaligned_blocks", .n = 33, .k = 515, .blocks = 4, .x_blocks = 2},
        Shape{.name = "e4m3_segments", .n = 384, .k = 1536, .e4m3 = true},
        Shape{.name = "e4m3_ragged", .n = 333, .k = 1200, .bias = true, .e4m3 = true},
        Shape{.name = "e4m3_long", .n = 64, .k = 7680, .e4m3 = true},
        Shape{.name = "e4m3_gated", .n = 2304, .k = 576, .gated = true, .bias = true, .e4m3 = true},
        Shape{.name = "e4m3_blocks", .n = 72, .k = 600, .blocks = 6, .x_blocks = 3, .e4m3 = true},
        Shape{.name = "e4m3_unaligned", .n = 100, .k = 1090, .x_extra = 1, .e4m3 = true}),
    [](const auto& info) { return info.param.name; });

// The shapes of RecurrentGemma-2B and the rows that a step may have, as MatMul runs them.
class MatMulCudaModel : public MatMulCuda, public ::testing::WithParamInterface<Shape> {};

TEST_P(MatMulCudaModel, RowsAloneAndTogether) {
  const bool head = GetParam().n > 100000;  // a row is a megabyte
  const int rows = head ? 65 : 1000;
  Product product(GetParam(), rows, queue_);
  const size_t outputs = GetParam().outputs();
  const std::vector<float> alone = product.RunAlone(rows);
  ASSERT_TRUE(product.status().ok()) << product.status();
  for (const int count : {1,  2,  3,  4,  5,  6,   7,   8,   9,   15,  16,  17,  31,
                          32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 512, 1000}) {
    if (count > rows) break;
    const int first = std::min(3, rows - count);
    const std::vector<float> found = product.Run(first, count);
    ASSERT_TRUE(product.status().ok()) << product.status();
    ASSERT_TRUE(testing::BitwiseEqual(found.data(), alone.data() + first * outputs, count * outputs,
                                      {count, int64_t(outputs)}))
        << count << " rows";
  }
  ExpectCountersZero();
}

INSTANTIATE_TEST_SUITE_P(
    All, MatMulCudaModel,
    ::testing::Values(
        Shape{.name = "xy", .n = 5120, .k = 2560, .bias = true},
        Shape{.name = "gates", .n = 256, .k = 256, .blocks = 20, .x_blocks = 10, .bias = true},
        Shape{.name = "lru_out", .n = 2560, .k = 2560, .bias = true},
        Shape{.name = "qkv", .n = 3072, .k = 2560},
        Shape{.name = "mlp", .n = 15360, .k = 2560, .gated = true, .bias = true},
        Shape{.name = "down", .n = 2560, .k = 7680, .bias = true},
        Shape{.name = "head", .n = 256000, .k = 2560},
        Shape{.name = "e4m3_xy", .n = 5120, .k = 2560, .bias = true, .e4m3 = true},
        Shape{.name = "e4m3_lru_out", .n = 2560, .k = 2560, .bias = true, .e4m3 = true},
        Shape{.name = "e4m3_qkv", .n = 3072, .k = 2560, .e4m3 = true},
        Shape{.name = "e4m3_mlp", .n = 15360, .k = 2560, .gated = true, .bias = true, .e4m3 = true},
        Shape{.name = "e4m3_down", .n = 2560, .k = 7680, .bias = true, .e4m3 = true}),
    [](const auto& info) { return info.param.name; });

TEST_F(MatMulCuda, RowsDoNotTouchEachOther) {
  const Shape shape{.name = "", .n = 384, .k = 1152};
  const int rows = 40;
  Product product(shape, rows, queue_);
  const std::vector<float> before = product.RunAlone(rows);
  product.SetRow(9, 0.0f);
  product.SetRow(17, kNaN);
  product.SetRow(23, INFINITY);
  for (const auto& [name, plan] : AllPlans(product.Problem(rows))) {
    const std::vector<float> after = product.Run(0, rows, plan);
    ASSERT_TRUE(product.status().ok()) << product.status();
    for (int row = 0; row < rows; ++row) {
      const float* const found = after.data() + row * shape.n;
      if (row == 17 || row == 23) {
        for (int j = 0; j < shape.n; ++j) ASSERT_FALSE(std::isfinite(found[j])) << name;
      } else if (row == 9) {  // +0, not -0, whatever the kernel
        const std::vector<float> zeros(shape.n, 0.0f);
        ASSERT_TRUE(testing::BitwiseEqual(found, zeros.data(), shape.n)) << name;
      } else {
        ASSERT_TRUE(testing::BitwiseEqual(found, before.data() + row * shape.n, shape.n))
            << name << ", row " << row;
      }
    }
  }
}

TEST_F(MatMulCuda, SoftcapWithinIsSoftcapAfter) {
  for (const int n : {333, 384}) {  // the one is not stored four at a time
    const Shape shape{.name = "", .n = n, .k = 1200, .bias = true};
    const int rows = 40;
    Product product(shape, rows, queue_);
    const std::vector<float> after = product.RunCapped(rows, 3.0f, nullptr);
    EXPECT_NE(after, product.Run(0, rows));
    for (const auto& [name, plan] : AllPlans(product.Problem(rows, 3.0f))) {
      const std::vector<float> within = product.RunCapped(rows, 3.0f, &plan);
      ASSERT_TRUE(product.status().ok()) << product.status();
      EXPECT_TRUE(testing::BitwiseEqual(within, after, {rows, n})) << name;
    }
  }
}

// A chain in which every product reads what the one before wrote, recorded and replayed.
TEST_F(MatMulCuda, GraphsGiveTheSameBits) {
  const Context context{Device::kCuda, nullptr, queue_};
  const int width = 640;
  MatMulCase c{.n = width, .k = width, .dtype = DType::kBF16};
  const Weights weights(c);
  auto packed = PackedMatrix::Pack(weights.source, context);
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (const int rows : {1, 8, 30, 100}) {
    const size_t count = size_t(rows) * width;
    std::vector<BF16> x;
    for (const float value : PseudoVector(8, count)) x.push_back(RoundToBf16(value));
    auto a = Buffer::Allocate(Device::kCuda, count * 2);
    auto b = Buffer::Allocate(Device::kCuda, count * 2);
    ASSERT_TRUE(a.ok() && b.ok());
    const auto chain = [&] {
      absl::Status status;
      for (int i = 0; i < 40; ++i) {
        MatMulParams p;
        p.num_rows = rows;
        p.x_stride = p.out_stride = width;
        p.x_bf16 = (i % 2 == 0 ? a : b)->as<BF16>();
        p.out_bf16 = (i % 2 == 0 ? b : a)->as<BF16>();
        p.weight = &*packed;
        status.Update(MatMul(p, context));
      }
      return status;
    };
    const auto result = [&](const std::function<absl::Status()>& run) {
      std::vector<uint16_t> out(count);
      absl::Status status = queue_->Upload(a->data(), x.data(), count * 2);
      status.Update(run());
      status.Update(queue_->Download(out.data(), a->data(), count * 2));
      status.Update(queue_->Synchronize());
      EXPECT_TRUE(status.ok()) << status;
      return out;
    };
    const std::vector<uint16_t> eager = result(chain);
    ASSERT_TRUE(queue_->BeginCapture().ok());
    ASSERT_TRUE(chain().ok());
    auto graph = queue_->EndCapture();
    ASSERT_TRUE(graph.ok()) << graph.status();
    for (int i = 0; i < 5; ++i) {
      const std::vector<uint16_t> replayed = result([&] { return queue_->Launch(*graph); });
      EXPECT_TRUE(testing::BitwiseEqual(replayed, eager, {rows, width})) << rows << " rows";
    }
  }
  ExpectCountersZero();
}

TEST_F(MatMulCuda, LittleScratch) {
  auto small = DeviceQueue::Create(256 << 10);
  ASSERT_TRUE(small.ok()) << small.status();
  const Shape shape{.name = "", .n = 500, .k = 3000, .bias = true};
  Product usual(shape, 70, queue_), tight(shape, 70, small->get());
  for (const int rows : {1, 8, 30, 70}) {
    const std::vector<float> expected = usual.Run(0, rows), found = tight.Run(0, rows);
    ASSERT_TRUE(usual.status().ok()) << usual.status();
    ASSERT_TRUE(tight.status().ok()) << tight.status();
    EXPECT_TRUE(testing::BitwiseEqual(found, expected, {rows, shape.n}));
  }
  const Context context{Device::kCuda, nullptr, small->get()};
  const std::vector<float> weights(20000);
  const auto packed =
      PackedMatrix::Pack({DType::kF32, 1, 1, 20000, false, weights.data()}, context);
  EXPECT_EQ(packed.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(MatMulCuda, NamesWhatIsWrong) {
  const Context context{Device::kCuda, nullptr, queue_};
  const std::vector<float> weights(16 * 8);
  auto packed = PackedMatrix::Pack({DType::kF32, 1, 16, 8, false, weights.data()}, context);
  ASSERT_TRUE(packed.ok());
  BF16 x[8];
  float out[16];
  MatMulParams p;
  p.num_rows = 1;
  p.x_stride = 8;
  p.out_stride = 16;
  p.weight = &*packed;
  p.out = out;
  const auto refusal = [&](const MatMulParams& params) {
    const absl::Status status = MatMul(params, context);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(p), HasSubstr("x_bf16: expected a tensor, found null"));
  p.x_bf16 = x;
  p.out_bf16 = x;
  EXPECT_THAT(refusal(p), HasSubstr("out: expected one of out, out_bf16 and residual, found 2"));
  p.out = nullptr;
  p.out_bf16 = nullptr;
  EXPECT_THAT(refusal(p), HasSubstr("out_bf16 and residual, found 0"));
  p.num_rows = 0;
  EXPECT_TRUE(MatMul(p, context).ok());
}

// Embedding -------------------------------------------------------------------------------------

TEST_F(MatMulCuda, EmbeddingGathersScaledRows) {
  const Context context{Device::kCuda, nullptr, queue_};
  for (const int dim : {77, 640, 2560}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const int vocab = 50, rows = 19;
      MatMulCase c{.n = vocab, .k = dim, .dtype = dtype};
      const Weights table(c);
      std::vector<int32_t> ids;
      for (int r = 0; r < rows; ++r) ids.push_back(r * 17 % vocab);
      ids[3] = -5;  // not for the device to refuse, but it must not read there
      ids[4] = vocab + 7;
      std::vector<float> out(rows * dim, kNaN), expected;
      for (const int32_t id : ids) {
        const int row = std::clamp(id, 0, vocab - 1);
        for (int i = 0; i < dim; ++i) {
          expected.push_back(static_cast<float>(table.values[row * dim + i]) * 1.7f);
        }
      }
      Mirror mirror(context);
      EmbeddingParams p{rows, dim, vocab, dtype, 1.7f, mirror.In(ids)};
      p.table = dtype == DType::kF32 ? static_cast<const void*>(mirror.In(table.f32))
                                     : mirror.In(table.narrow);
      p.out = mirror.InOut(out);
      absl::Status status = Embedding(p, context);
      status.Update(mirror.Finish());
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_TRUE(testing::BitwiseEqual(out, expected, {rows, dim})) << DTypeName(dtype);
    }
  }
}

}  // namespace
}  // namespace reprise::kernels
