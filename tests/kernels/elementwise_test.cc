#include "kernels/elementwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/mirror.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

struct NormCase {
  const char* name = "base";
  int rows = 3;
  int dim = 128;
  bool delta = false;
  float weight_offset = 1.0f;
  float eps = 1e-6f;
  float scale = 1.0f;
};

std::ostream& operator<<(std::ostream& out, const NormCase& c) { return out << c.name; }

class RmsNormTest : public ::testing::TestWithParam<NormCase> {
 protected:
  struct Result {
    std::vector<float> x, out;
  };
  // Rows [first, first + rows).
  static Result Run(const NormCase& c, int first, int rows, ThreadPool* pool) {
    Result result;
    result.out.assign(size_t(rows) * c.dim, kNaN);
    std::vector<float> delta;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < c.dim; ++i) {
        result.x.push_back(c.scale * Pseudo(1, first + r, i));
        delta.push_back(c.scale * Pseudo(2, first + r, i));
      }
    }
    const std::vector<float> weight = PseudoVector(3, c.dim);
    const absl::Status status =
        RmsNorm({rows, c.dim, c.eps, c.weight_offset, c.delta ? delta.data() : nullptr,
                 weight.data(), result.x.data(), result.out.data()},
                {Device::kCpu, pool});
    EXPECT_TRUE(status.ok()) << status;
    return result;
  }
};

TEST_P(RmsNormTest, MatchesReference) {
  const NormCase& c = GetParam();
  const auto pool = MakePool(2);
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    const Result result = Run(c, 0, c.rows, pool.get());
    for (int r = 0; r < c.rows; ++r) {
      for (int i = 0; i < c.dim; ++i) {
        const float sum = c.scale * Pseudo(1, r, i) + c.scale * Pseudo(2, r, i);
        ASSERT_EQ(result.x[r * c.dim + i], c.delta ? sum : c.scale * Pseudo(1, r, i));
      }
    }
    EXPECT_TRUE(Near(result.out,
                     reference::RmsNorm(c.rows, c.dim, c.eps, c.weight_offset, Doubles(result.x),
                                        Doubles(PseudoVector(3, c.dim))),
                     1e-6, 0.1))
        << hwy::TargetName(target);
  }
}

TEST_P(RmsNormTest, AddsInTheOrderOfTheContract) {
  const NormCase& c = GetParam();
  const auto pool = MakePool(1);
  const Result result = Run(c, 0, 1, pool.get());
  float partial[16] = {};
  for (int i = 0; i < c.dim; ++i) {
    partial[i % 16] = std::fma(result.x[i], result.x[i], partial[i % 16]);
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  const float inverse = 1.0f / std::sqrt(partial[0] / static_cast<float>(c.dim) + c.eps);
  std::vector<float> expected;
  for (int i = 0; i < c.dim; ++i) {
    expected.push_back(result.x[i] * inverse * (c.weight_offset + Pseudo(3, i)));
  }
  EXPECT_TRUE(testing::BitwiseEqual(result.out, expected));
}

TEST_P(RmsNormTest, SameBitsForRowsThreadsAndTargets) {
  const NormCase& c = GetParam();
  const auto one = MakePool(1), three = MakePool(3);
  const Result whole = Run(c, 0, 17, one.get());
  for (const int64_t target : FusedTargets()) {
    const ScopedTarget scoped(target);
    EXPECT_TRUE(testing::BitwiseEqual(Run(c, 0, 17, three.get()).out, whole.out, {17, c.dim}));
    for (int r = 0; r < 17; ++r) {
      const Result alone = Run(c, r, 1, three.get());
      EXPECT_TRUE(testing::BitwiseEqual(alone.out.data(), whole.out.data() + r * c.dim, c.dim));
      EXPECT_TRUE(testing::BitwiseEqual(alone.x.data(), whole.x.data() + r * c.dim, c.dim));
    }
  }
}

const NormCase kNormCases[] = {{},
                               {.name = "one_row", .rows = 1},
                               {.name = "dim_1", .dim = 1},
                               {.name = "dim_15", .dim = 15},
                               {.name = "dim_77", .dim = 77},
                               {.name = "dim_384", .dim = 384},
                               {.name = "dim_2047", .dim = 2047},
                               {.name = "dim_2560", .dim = 2560},
                               {.name = "dim_4096", .dim = 4096},
                               {.name = "dim_20000", .dim = 20000},
                               {.name = "delta", .delta = true},
                               {.name = "delta_dim_77", .dim = 77, .delta = true},
                               {.name = "delta_dim_2560", .dim = 2560, .delta = true},
                               {.name = "delta_dim_8192", .dim = 8192, .delta = true},
                               {.name = "offset_0", .weight_offset = 0.0f},
                               {.name = "eps_large", .eps = 0.1f},
                               {.name = "tiny", .scale = 1e-12f},
                               {.name = "large", .scale = 1e15f}};
std::string NormName(const ::testing::TestParamInfo<NormCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(All, RmsNormTest, ::testing::ValuesIn(kNormCases), NormName);

TEST(RmsNormCuda, IsPartOfProducts) {
  Context context{Device::kCuda};
  context.queue = TestQueue();
  if (context.queue == nullptr) GTEST_SKIP() << "no CUDA device";
  std::vector<float> x(8), weight(8), out(8);
  const absl::Status status =
      RmsNorm({1, 8, 1e-6f, 1.0f, nullptr, weight.data(), x.data(), out.data()}, context);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("device: expected the CPU"));
}

TEST(RmsNormResidualTest, WithoutOutOnlyAdds) {
  const auto pool = MakePool(1);
  std::vector<float> x = PseudoVector(1, 77);
  const std::vector<float> before = x, delta = PseudoVector(2, 77);
  ASSERT_TRUE(RmsNorm({1, 77, 1e-6f, 1.0f, delta.data(), nullptr, x.data(), nullptr},
                      {Device::kCpu, pool.get()})
                  .ok());
  for (int i = 0; i < 77; ++i) EXPECT_EQ(x[i], before[i] + delta[i]);
}

TEST(RmsNormRowIdsTest, TakesTheNamedRowsOnly) {
  const auto pool = MakePool(2);
  const Context context{Device::kCpu, pool.get()};
  constexpr int kRows = 9, kDim = 70;
  const std::vector<int32_t> ids = {7, 2, 3};
  const std::vector<float> delta = PseudoVector(2, kRows * kDim), weight = PseudoVector(3, kDim);
  std::vector<float> x = PseudoVector(1, kRows * kDim), all = x;
  const std::vector<float> before = x;
  std::vector<float> out(ids.size() * kDim, kNaN), every(kRows * kDim, kNaN);
  ASSERT_TRUE(
      RmsNorm({kRows, kDim, 1e-6f, 1.0f, delta.data(), weight.data(), all.data(), every.data()},
              context)
          .ok());
  RmsNormParams p{3, kDim, 1e-6f, 1.0f, delta.data(), weight.data(), x.data(), out.data()};
  p.row_ids = ids.data();
  ASSERT_TRUE(RmsNorm(p, context).ok());
  for (int r = 0; r < kRows; ++r) {
    const auto at = std::find(ids.begin(), ids.end(), r);
    for (int i = 0; i < kDim; ++i) {
      EXPECT_EQ(x[r * kDim + i], at == ids.end() ? before[r * kDim + i] : all[r * kDim + i]);
      if (at == ids.end()) continue;
      EXPECT_EQ(out[(at - ids.begin()) * kDim + i], every[r * kDim + i]);
    }
  }
  const int32_t bad[] = {0, 4, -2};
  p.row_ids = bad;
  EXPECT_THAT(std::string(RmsNorm(p, context).message()),
              HasSubstr("row_ids[2]: expected >= 0, found -2"));
}

// Values that the model meets and values that it should not, both signs.
std::vector<float> Sweep() {
  std::vector<float> values = {0.0f, -0.0f, 1e-30f, -1e-30f, 1e4f, -1e4f, 3e38f, -3e38f};
  for (int i = 0; i < 20001; ++i) values.push_back(static_cast<float>(i - 10000) * 0.0021f);
  for (int i = 0; i < 2000; ++i) values.push_back(static_cast<float>(i - 1000) * 0.11f);
  return values;
}

TEST(GatedActivationTest, AccurateOverTheWholeRange) {
  const auto pool = MakePool(1);
  const std::vector<float> gate = Sweep(), up(gate.size(), 1.0f);
  const int dim = static_cast<int>(gate.size());
  for (const Activation act :
       {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu, Activation::kRelu}) {
    std::vector<double> expected;
    for (const float x : gate) expected.push_back(reference::Activate(act, x));
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      std::vector<float> out(dim, kNaN);
      ASSERT_TRUE(GatedActivation({act, 1, dim, dim, dim, dim, gate.data(), up.data(), out.data()},
                                  {Device::kCpu, pool.get()})
                      .ok());
      // Relative also for the small values of the left tail; there the rounded argument of exp,
      // up to 88, costs most.
      EXPECT_TRUE(Near(out, expected, 1.2e-5, 1e-30)) << static_cast<int>(act);
      EXPECT_TRUE(Near(out, expected, 5e-7, 1e-2)) << static_cast<int>(act);
    }
  }
}

TEST(GatedActivationTest, SameBitsForRowsStridesThreadsTargetsAndAliases) {
  const int rows = 17, dim = 4133;
  const auto one = MakePool(1), three = MakePool(3);
  const std::vector<float> gate = PseudoVector(1, rows * dim, 5.0f);
  const std::vector<float> up = PseudoVector(2, rows * dim);
  for (const Activation act :
       {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu, Activation::kRelu}) {
    std::vector<float> whole(rows * dim, kNaN);
    ASSERT_TRUE(
        GatedActivation({act, rows, dim, dim, dim, dim, gate.data(), up.data(), whole.data()},
                        {Device::kCpu, one.get()})
            .ok());
    for (const int64_t target : FusedTargets()) {
      const ScopedTarget scoped(target);
      for (int r = 0; r < rows; r += 4) {
        std::vector<float> out(dim, kNaN);
        ASSERT_TRUE(GatedActivation({act, 1, dim, dim, dim, dim, gate.data() + r * dim,
                                     up.data() + r * dim, out.data()},
                                    {Device::kCpu, three.get()})
                        .ok());
        EXPECT_TRUE(testing::BitwiseEqual(out.data(), whole.data() + r * dim, dim));
      }
      std::vector<float> in_place = gate;
      ASSERT_TRUE(GatedActivation(
                      {act, rows, dim, dim, dim, dim, in_place.data(), up.data(), in_place.data()},
                      {Device::kCpu, three.get()})
                      .ok());
      EXPECT_TRUE(testing::BitwiseEqual(in_place, whole, {rows, dim}));
      // Gate and up side by side in one buffer, as a fused projection leaves them.
      std::vector<float> fused, strided(rows * (dim + 3), kNaN);
      for (int r = 0; r < rows; ++r) {
        fused.insert(fused.end(), gate.begin() + r * dim, gate.begin() + (r + 1) * dim);
        fused.insert(fused.end(), up.begin() + r * dim, up.begin() + (r + 1) * dim);
      }
      ASSERT_TRUE(GatedActivation({act, rows, dim, 2 * dim, 2 * dim, dim + 3, fused.data(),
                                   fused.data() + dim, strided.data()},
                                  {Device::kCpu, three.get()})
                      .ok());
      for (int r = 0; r < rows; ++r) {
        EXPECT_TRUE(
            testing::BitwiseEqual(strided.data() + r * (dim + 3), whole.data() + r * dim, dim));
        EXPECT_TRUE(std::isnan(strided[r * (dim + 3) + dim]));
      }
    }
  }
}

TEST(SoftcapTest, AccurateAndSameBits) {
  const auto one = MakePool(1), three = MakePool(3);
  const std::vector<float> values = Sweep();
  const int dim = static_cast<int>(values.size());
  for (const float cap : {30.0f, 1.0f, 50.0f}) {
    std::vector<double> expected;
    for (const float x : values) expected.push_back(double{cap} * std::tanh(x / double{cap}));
    std::vector<float> first;
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      std::vector<float> x = values;
      ASSERT_TRUE(Softcap({1, dim, cap, x.data()}, {Device::kCpu, one.get()}).ok());
      EXPECT_TRUE(Near(x, expected, 6e-7, 1e-35)) << cap << " " << hwy::TargetName(target);
      for (const float value : x) ASSERT_LE(std::fabs(value), cap);
    }
    for (const int64_t target : FusedTargets()) {
      const ScopedTarget scoped(target);
      std::vector<float> x = values;
      ASSERT_TRUE(Softcap({1, dim, cap, x.data()}, {Device::kCpu, three.get()}).ok());
      if (first.empty()) first = x;
      EXPECT_TRUE(testing::BitwiseEqual(x, first));
      for (int i = 0; i < dim; i += 997) {  // alone, in the first lane
        float value = values[i];
        ASSERT_TRUE(Softcap({1, 1, cap, &value}, {Device::kCpu, one.get()}).ok());
        EXPECT_TRUE(testing::BitwiseEqual(&value, first.data() + i, 1));
      }
    }
  }
}

class ElementwiseCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    context_.queue = TestQueue();
    if (context_.queue == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  Context context_{Device::kCuda};
};

constexpr Activation kActivations[] = {Activation::kGeluTanh, Activation::kGelu, Activation::kSilu,
                                       Activation::kRelu};

TEST_F(ElementwiseCudaTest, GatedActivationIsAccurateOverTheWholeRange) {
  const std::vector<float> gate = Sweep(), up(gate.size(), 1.0f);
  const int dim = static_cast<int>(gate.size());
  for (const Activation act : kActivations) {
    std::vector<double> expected;
    for (const float x : gate) expected.push_back(reference::Activate(act, x));
    std::vector<float> out(dim, kNaN);
    Mirror mirror(context_);
    ASSERT_TRUE(GatedActivation(
                    {act, 1, dim, dim, dim, dim, mirror.In(gate), mirror.In(up), mirror.InOut(out)},
                    context_)
                    .ok());
    ASSERT_TRUE(mirror.Finish().ok());
    EXPECT_TRUE(Near(out, expected, 1.5e-5, 1e-30)) << static_cast<int>(act);
    EXPECT_TRUE(Near(out, expected, 7e-7, 1e-2)) << static_cast<int>(act);
  }
}

TEST_F(ElementwiseCudaTest, GatedActivationHasTheSameBitsForRowsStridesAndAliases) {
  const int rows = 17;
  for (const int dim : {4132, 4133}) {  // in pieces of four and one by one
    const std::vector<float> gate = PseudoVector(1, rows * dim, 5.0f);
    const std::vector<float> up = PseudoVector(2, rows * dim);
    for (const Activation act : kActivations) {
      std::vector<float> whole(rows * dim, kNaN), in_gate = gate, in_up = up;
      std::vector<float> fused, strided(rows * (dim + 3), kNaN), alone(dim, kNaN);
      for (int r = 0; r < rows; ++r) {
        fused.insert(fused.end(), gate.begin() + r * dim, gate.begin() + (r + 1) * dim);
        fused.insert(fused.end(), up.begin() + r * dim, up.begin() + (r + 1) * dim);
      }
      Mirror mirror(context_);
      const float* const g = mirror.In(gate);
      const float* const u = mirror.In(up);
      float* const aliased_gate = mirror.InOut(in_gate);
      float* const aliased_up = mirror.InOut(in_up);
      const float* const f = mirror.In(fused);
      const auto run = [&](const GatedActivationParams& p) {
        const absl::Status status = GatedActivation(p, context_);
        EXPECT_TRUE(status.ok()) << status;
      };
      run({act, rows, dim, dim, dim, dim, g, u, mirror.InOut(whole)});
      run({act, rows, dim, dim, dim, dim, aliased_gate, u, aliased_gate});
      run({act, rows, dim, dim, dim, dim, g, aliased_up, aliased_up});
      run({act, rows, dim, 2 * dim, 2 * dim, dim + 3, f, f + dim, mirror.InOut(strided)});
      run({act, 1, dim, dim, dim, dim, g + 5 * dim, u + 5 * dim, mirror.InOut(alone)});
      ASSERT_TRUE(mirror.Finish().ok());
      EXPECT_TRUE(testing::BitwiseEqual(in_gate, whole, {rows, dim}));
      EXPECT_TRUE(testing::BitwiseEqual(in_up, whole, {rows, dim}));
      EXPECT_TRUE(testing::BitwiseEqual(alone.data(), whole.data() + 5 * dim, dim));
      for (int r = 0; r < rows; ++r) {
        EXPECT_TRUE(
            testing::BitwiseEqual(strided.data() + r * (dim + 3), whole.data() + r * dim, dim));
        EXPECT_TRUE(std::isnan(strided[r * (dim + 3) + dim]));
      }
    }
  }
}

TEST_F(ElementwiseCudaTest, SoftcapIsAccurateAndHasTheSameBits) {
  std::vector<float> values = Sweep();
  values.resize(values.size() / 4 * 4);
  const int dim = static_cast<int>(values.size());
  for (const float cap : {30.0f, 1.0f, 50.0f}) {
    std::vector<double> expected;
    for (const float x : values) expected.push_back(double{cap} * std::tanh(x / double{cap}));
    std::vector<float> x = values, odd = values;
    Mirror mirror(context_);
    ASSERT_TRUE(Softcap({1, dim, cap, mirror.InOut(x)}, context_).ok());
    // Not aligned, and not in pieces of four.
    ASSERT_TRUE(Softcap({1, dim - 2, cap, mirror.InOut(odd) + 1}, context_).ok());
    ASSERT_TRUE(mirror.Finish().ok());
    EXPECT_TRUE(Near(x, expected, 6e-7, 1e-35)) << cap;
    for (const float value : x) ASSERT_LE(std::fabs(value), cap);
    EXPECT_TRUE(testing::BitwiseEqual(x.data() + 1, odd.data() + 1, dim - 2));
    EXPECT_EQ(odd[0], values[0]);
    EXPECT_EQ(odd[dim - 1], values[dim - 1]);
  }
}

TEST(ElementwiseErrors, NameTheTensor) {
  const auto pool = MakePool(1);
  const Context context{Device::kCpu, pool.get()};
  float a[16] = {}, b[16] = {};
  const auto message = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(RmsNorm({1, 0, 1e-6f, 1.0f, nullptr, a, a, b}, context)),
              HasSubstr("RmsNorm: dim: expected >= 1, found 0"));
  EXPECT_THAT(message(RmsNorm({1, 8, -1.0f, 1.0f, nullptr, a, a, b}, context)), HasSubstr("eps"));
  EXPECT_THAT(message(RmsNorm({1, 8, NAN, 1.0f, nullptr, a, a, b}, context)), HasSubstr("eps"));
  EXPECT_THAT(message(RmsNorm({1, 8, 1e-6f, 1.0f, nullptr, nullptr, a, b}, context)),
              HasSubstr("weight: expected a tensor, found null"));
  EXPECT_THAT(message(RmsNorm({1, 8, 1e-6f, 1.0f, nullptr, b, a, a + 4}, context)),
              HasSubstr("out: expected memory apart from x"));
  EXPECT_THAT(message(RmsNorm({1, 8, 1e-6f, 1.0f, b, b, a, b + 7}, context)),
              HasSubstr("out: expected memory apart from delta"));
  const Activation silu = Activation::kSilu;
  EXPECT_THAT(message(GatedActivation({silu, 1, 8, 7, 8, 8, a, a, b}, context)),
              HasSubstr("gate_stride: expected >= 8, found 7"));
  EXPECT_THAT(message(GatedActivation({silu, 1, 8, 8, 8, 8, a, nullptr, b}, context)),
              HasSubstr("up"));
  EXPECT_THAT(
      message(GatedActivation({static_cast<Activation>(9), 1, 8, 8, 8, 8, a, a, b}, context)),
      HasSubstr("activation"));
  EXPECT_THAT(message(Softcap({1, 8, 0.0f, a}, context)), HasSubstr("cap"));
  EXPECT_THAT(message(Softcap({-1, 8, 1.0f, a}, context)), HasSubstr("num_rows"));
}

}  // namespace
}  // namespace reprise::kernels
