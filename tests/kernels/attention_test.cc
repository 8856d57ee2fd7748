#include "kernels/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/mirror.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/sequence_suite.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

struct AttentionCase {
  int heads = 4;
  int kv_heads = 1;
  int head_dim = 32;
  int window = 100;
  int extra_blocks = 0;
  int extra_stride = 0;
  float sharpness = 1.0f;  // factor of q: how far scores spread
};

class AttentionOp : public SequenceOp {
 public:
  explicit AttentionOp(const AttentionCase& c) : case_(c) {}

  int ring_blocks() const { return WindowBlocks(case_.window) + case_.extra_blocks; }
  int64_t ring_floats() const {
    return int64_t{ring_blocks()} * case_.kv_heads * case_.head_dim * kGridTokens;
  }
  // A slot holds the ring of keys, the ring of values, and a canary; bf16 on CUDA.
  int64_t slot_elements() const { return 2 * ring_floats() + 8; }
  static int64_t ElementBytes(Device device) { return device == Device::kCpu ? 4 : 2; }
  int64_t state_bytes(Device device) const override {
    return 2 * ring_floats() * ElementBytes(device);
  }
  int64_t slot_bytes(Device device) const override {
    return slot_elements() * ElementBytes(device);
  }
  int64_t out_dim() const override { return case_.heads * case_.head_dim; }
  int64_t out_stride() const override { return out_dim() + case_.extra_stride; }

  float Input(int what, int id, int64_t t, int i) const {
    return (what == 0 ? case_.sharpness : 1.0f) * 2.0f * Pseudo(500 + 10 * id + what, t, i);
  }

  absl::Status Run(const RaggedRows& rows, const std::vector<RowId>& ids, void* state,
                   int num_slots, float* out, const Context& context) const override {
    const bool cuda = context.device == Device::kCuda;
    Mirror mirror(context);
    WindowAttentionParams p;
    p.rows = mirror.Rows(rows);
    p.heads = case_.heads;
    p.kv_heads = case_.kv_heads;
    p.head_dim = case_.head_dim;
    p.window = case_.window;
    p.ring_blocks = ring_blocks();
    p.scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim));
    std::vector<float> inputs[3];
    int64_t* strides[3] = {&p.q_stride, &p.k_stride, &p.v_stride};
    for (int what = 0; what < 3; ++what) {
      const int dim = (what == 0 ? case_.heads : case_.kv_heads) * case_.head_dim;
      const int64_t stride = dim + (what + 1) * case_.extra_stride;
      *strides[what] = stride;
      inputs[what].assign(ids.size() * stride, kNaN);
      for (size_t r = 0; r < ids.size(); ++r) {
        for (int i = 0; i < dim; ++i) {
          inputs[what][r * stride + i] = Input(what, ids[r].id, ids[r].t, i);
        }
      }
    }
    p.out_stride = out_stride();
    p.k_slot_stride = p.v_slot_stride = slot_elements();
    p.num_slots = num_slots;
    void* const rings = mirror.InOutBytes(state, num_slots * slot_bytes(context.device));
    if (cuda) {
      p.q_bf16 = mirror.InRounded(inputs[0]);
      p.k_bf16 = mirror.InRounded(inputs[1]);
      p.v_bf16 = mirror.InRounded(inputs[2]);
      p.k_ring_bf16 = static_cast<BF16*>(rings);
      p.v_ring_bf16 = p.k_ring_bf16 + ring_floats();
      p.out_bf16 = mirror.InOutRounded(out, ids.size() * out_stride());
    } else {
      p.q = inputs[0].data();
      p.k = inputs[1].data();
      p.v = inputs[2].data();
      p.k_ring = static_cast<float*>(rings);
      p.v_ring = p.k_ring + ring_floats();
      p.out = out;
    }
    absl::Status status = mirror.Call([&] { return WindowAttention(p, context); });
    status.Update(mirror.Finish());
    return status;
  }

  std::vector<double> Reference(int id, int64_t tokens, Device device) const override {
    std::vector<double> inputs[3];
    for (int what = 0; what < 3; ++what) {
      const int dim = (what == 0 ? case_.heads : case_.kv_heads) * case_.head_dim;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int i = 0; i < dim; ++i) {
          const float input = Input(what, id, t, i);
          inputs[what].push_back(device == Device::kCpu ? input : Widen(RoundToBf16(input)));
        }
      }
    }
    return reference::WindowAttention(tokens, case_.heads, case_.kv_heads, case_.head_dim,
                                      case_.window, 1.0f / std::sqrt(float(case_.head_dim)),
                                      inputs[0], inputs[1], inputs[2]);
  }

 private:
  AttentionCase case_;
};

SequenceCase Make(std::string name, AttentionCase c, int64_t tokens = 300,
                  double tolerance = 2e-6) {
  return {name, [c] { return std::make_unique<AttentionOp>(c); }, tolerance, tokens};
}

class WindowAttentionTest : public ::testing::TestWithParam<SequenceCase> {};

TEST_P(WindowAttentionTest, MatchesReference) { ExpectMatchesReference(GetParam()); }
TEST_P(WindowAttentionTest, SameBitsHoweverChunked) { ExpectSameBitsHoweverChunked(GetParam()); }
TEST_P(WindowAttentionTest, SameBitsInBatch) { ExpectSameBitsInBatch(GetParam()); }
TEST_P(WindowAttentionTest, SameBitsForThreadsSlotsAndTargets) {
  ExpectSameBitsForThreadsSlotsAndTargets(GetParam());
}

class WindowAttentionGraphTest : public ::testing::TestWithParam<SequenceCase> {};
TEST_P(WindowAttentionGraphTest, SameBits) { ExpectSameBitsThroughGraphs(GetParam()); }

std::vector<SequenceCase> CpuCases() {
  return {Make("base", {}),
          Make("window_1", {.window = 1}),
          Make("window_2", {.window = 2}),
          Make("window_63", {.window = 63}),
          Make("window_64", {.window = 64}),
          Make("window_65", {.window = 65}),
          Make("window_128", {.window = 128}),
          Make("window_beyond_length", {.window = 1000}),
          Make("spare_blocks", {.extra_blocks = 2}),
          Make("ten_heads", {.heads = 10}),
          Make("one_head", {.heads = 1}),
          Make("kv_heads_2", {.heads = 6, .kv_heads = 2}),
          Make("kv_heads_each", {.heads = 3, .kv_heads = 3}),
          Make("head_dim_1", {.head_dim = 1}),
          Make("head_dim_77", {.head_dim = 77}),
          Make("head_dim_256", {.heads = 5, .head_dim = 256}, 150),
          Make("head_dim_512", {.heads = 2, .head_dim = 512}, 70),
          Make("strided", {.extra_stride = 3}),
          Make("sharp", {.sharpness = 40.0f}, 300, 3e-5),
          Make("one_token", {}, 1),
          Make("to_boundary", {}, 64),
          Make("past_boundary", {}, 65),
          Make("long", {.heads = 2, .head_dim = 8}, 1000)};
}

// The weights of the values and the result are each rounded to 8 bits: together up to 3 2^-9 of
// the values' size, 2.
SequenceCase MakeCuda(std::string name, AttentionCase c, int64_t tokens = 300) {
  SequenceCase test = Make(std::move(name), c, tokens, 1.2e-2);
  test.device = Device::kCuda;
  return test;
}

std::vector<SequenceCase> CudaCases() {
  return {MakeCuda("base", {}),
          MakeCuda("window_1", {.window = 1}),
          MakeCuda("window_2", {.window = 2}),
          MakeCuda("window_63", {.window = 63}),
          MakeCuda("window_64", {.window = 64}),
          MakeCuda("window_65", {.window = 65}),
          MakeCuda("window_128", {.window = 128}),
          MakeCuda("window_255", {.window = 255}, 600),
          MakeCuda("window_beyond_length", {.window = 1000}),
          MakeCuda("spare_blocks", {.extra_blocks = 2}),
          MakeCuda("ten_heads", {.heads = 10}),
          MakeCuda("one_head", {.heads = 1}),
          MakeCuda("many_heads", {.heads = 80, .head_dim = 16}, 150),
          MakeCuda("kv_heads_2", {.heads = 6, .kv_heads = 2}),
          MakeCuda("kv_heads_each", {.heads = 3, .kv_heads = 3}),
          MakeCuda("head_dim_16", {.head_dim = 16}),
          MakeCuda("head_dim_64", {.head_dim = 64}),
          MakeCuda("head_dim_80", {.head_dim = 80}),
          MakeCuda("head_dim_128", {.head_dim = 128}),
          MakeCuda("head_dim_144", {.head_dim = 144}),
          MakeCuda("head_dim_256", {.heads = 5, .head_dim = 256}, 150),
          MakeCuda("strided", {.extra_stride = 8}),
          MakeCuda("sharp", {.sharpness = 40.0f}),
          MakeCuda("one_token", {}, 1),
          MakeCuda("to_boundary", {}, 64),
          MakeCuda("past_boundary", {}, 65),
          MakeCuda("long", {.heads = 2, .head_dim = 32}, 1000)};
}

std::string Name(const ::testing::TestParamInfo<SequenceCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(All, WindowAttentionTest, ::testing::ValuesIn(CpuCases()), Name);
INSTANTIATE_TEST_SUITE_P(Cuda, WindowAttentionTest, ::testing::ValuesIn(CudaCases()), Name);
INSTANTIATE_TEST_SUITE_P(Cuda, WindowAttentionGraphTest, ::testing::ValuesIn(CudaCases()), Name);

// The windows of real models: whole groups of blocks, rings that are overwritten within a chunk.
// The largest has tiles enough in one chunk that each goes through all of its groups by itself.
class LongWindowTest : public ::testing::TestWithParam<SequenceCase> {};

TEST_P(LongWindowTest, MatchesReference) { ExpectMatchesReference(GetParam()); }
TEST_P(LongWindowTest, SameBitsHoweverChunked) {
  SequenceCase test = GetParam();
  test.plans = {{test.tokens - 3, 1}, {1000}, {2100, 1, 1, 1, 64}, {257, 1, 600, 64, 5}};
  ExpectSameBitsHoweverChunked(test);
}

INSTANTIATE_TEST_SUITE_P(
    Cuda, LongWindowTest,
    ::testing::Values(MakeCuda("small_model", {.heads = 6, .head_dim = 64, .window = 512}, 1500),
                      MakeCuda("one_head", {.heads = 1, .head_dim = 64, .window = 2048}, 3000),
                      MakeCuda("one_large_head", {.heads = 1, .head_dim = 256, .window = 2048},
                               2500)),
    Name);

TEST(LongWindowCudaTest, TenHeadsOf256) {
  SequenceCase test = MakeCuda("", {.heads = 10, .head_dim = 256, .window = 2048}, 3000);
  test.plans = {{2999, 1}, {1000}, {2100, 1, 1, 1, 64}, {12, 300, 600}};
  ExpectSameBitsHoweverChunked(test);
}

TEST(WindowAttentionCudaTest, RefusesWhatItDoesNotTake) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  const Context context{Device::kCuda, nullptr, TestQueue()};
  const auto refusal = [&](AttentionCase c) {
    const AttentionOp op(c);
    std::vector<uint8_t> state(op.slot_bytes(Device::kCuda));
    std::vector<float> out(op.out_stride());
    const int32_t offsets[] = {0, 1}, slots[] = {0};
    const int64_t positions[] = {0};
    const absl::Status status =
        op.Run({1, 1, offsets, slots, positions}, {{0, 0}}, state.data(), 1, out.data(), context);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal({.head_dim = 24}), HasSubstr("head_dim: CUDA takes multiples of 16"));
  EXPECT_THAT(refusal({.head_dim = 272}), HasSubstr("head_dim: CUDA takes multiples of 16"));
  EXPECT_THAT(refusal({.extra_stride = 4}), HasSubstr("q: CUDA takes rows and slots"));
}

TEST(RopeTest, TableAndRotationMatchReference) {
  const auto pool = MakePool(2);
  const Context context{Device::kCpu, pool.get()};
  struct Case {
    int heads, head_dim, rotary_dims, extra;
    float theta;
    int64_t start;
    double tolerance;  // grows with the angle, which is a float32 product
  };
  const Case cases[] = {{3, 64, 64, 0, 10000.0f, 0, 1e-5},    {3, 64, 32, 0, 10000.0f, 0, 1e-5},
                        {1, 10, 6, 0, 10000.0f, 0, 1e-5},     {3, 64, 64, 5, 10000.0f, 0, 1e-5},
                        {3, 64, 64, 0, 500000.0f, 0, 1e-5},   {3, 64, 64, 0, 10000.0f, 63, 3e-5},
                        {3, 64, 64, 0, 10000.0f, 8000, 1e-3}, {2, 16, 0, 0, 10000.0f, 0, 0.0}};
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.heads << " heads of " << c.head_dim << ", "
                                      << c.rotary_dims << " rotated from " << c.start);
    const int rows = 40, half = c.rotary_dims / 2, dim = c.heads * c.head_dim;
    const int32_t offsets[] = {0, rows}, slots[] = {0};
    const int64_t positions[] = {c.start};
    std::vector<float> cos(rows * half, kNaN), sin(rows * half, kNaN);
    ASSERT_TRUE(
        RopeTable(
            {{rows, 1, offsets, slots, positions}, c.rotary_dims, c.theta, cos.data(), sin.data()},
            context)
            .ok());
    const std::vector<float> dense = PseudoVector(1, rows * dim);
    std::vector<float> x(rows * (dim + c.extra), kNaN);
    for (int r = 0; r < rows; ++r) {
      std::copy_n(dense.begin() + r * dim, dim, x.begin() + r * (dim + c.extra));
    }
    std::vector<float> first;
    for (const int64_t target : FusedTargets()) {
      const ScopedTarget scoped(target);
      std::vector<float> rotated = x;
      ASSERT_TRUE(Rope({rows, c.heads, c.head_dim, c.rotary_dims, dim + c.extra, cos.data(),
                        sin.data(), rotated.data()},
                       context)
                      .ok());
      if (first.empty()) first = rotated;
      EXPECT_TRUE(testing::BitwiseEqual(rotated, first));
    }
    std::vector<float> packed;
    for (int r = 0; r < rows; ++r) {
      const auto row = first.begin() + r * (dim + c.extra);
      packed.insert(packed.end(), row, row + dim);
      for (int i = dim; i < dim + c.extra; ++i) EXPECT_TRUE(std::isnan(row[i]));
    }
    EXPECT_TRUE(Near(
        packed,
        reference::Rope(rows, c.heads, c.head_dim, c.rotary_dims, c.theta, c.start, Doubles(dense)),
        c.tolerance));
  }
}

TEST(RopeTest, RowsDoNotDependOnTheBatch) {
  const auto pool = MakePool(3);
  const Context context{Device::kCpu, pool.get()};
  const int32_t offsets[] = {0, 3, 4, 9}, slots[] = {4, -1, 0};
  const int64_t positions[] = {7, 3, 61};
  std::vector<float> cos(9 * 8, kNaN), sin(9 * 8, kNaN);
  ASSERT_TRUE(
      RopeTable({{9, 3, offsets, slots, positions}, 16, 10000.0f, cos.data(), sin.data()}, context)
          .ok());
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(cos[3 * 8 + i], 0.0f);  // padding
    EXPECT_EQ(sin[3 * 8 + i], 0.0f);
  }
  const int32_t lone_offsets[] = {0, 1}, lone_slots[] = {2};
  const int64_t lone_positions[] = {64};
  std::vector<float> lone_cos(8), lone_sin(8);
  ASSERT_TRUE(RopeTable({{1, 1, lone_offsets, lone_slots, lone_positions},
                         16,
                         10000.0f,
                         lone_cos.data(),
                         lone_sin.data()},
                        context)
                  .ok());
  EXPECT_TRUE(testing::BitwiseEqual(cos.data() + 7 * 8, lone_cos.data(), 8));
  EXPECT_TRUE(testing::BitwiseEqual(sin.data() + 7 * 8, lone_sin.data(), 8));
}

// The same tables, and the rotation of the CPU (with fused multiply-adds), rounded.
TEST(RopeCudaTest, AsOnTheCpu) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  if (FusedTargets().empty()) GTEST_SKIP() << "the CPU rounds twice";
  const auto pool = MakePool(1);
  const Context cpu{Device::kCpu, pool.get()}, cuda{Device::kCuda, nullptr, TestQueue()};
  struct Case {
    int heads, plain_heads, head_dim, rotary_dims, extra;
    int64_t start;
  };
  const Case cases[] = {{3, 0, 64, 64, 0, 0}, {3, 1, 64, 32, 0, 63}, {11, 1, 256, 128, 0, 8000},
                        {1, 2, 10, 6, 0, 0},  {3, 1, 64, 64, 5, 0},  {3, 1, 64, 64, 8, 1000000},
                        {2, 1, 16, 0, 0, 5},  {1, 0, 8, 8, 0, 70}};
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.heads << " + " << c.plain_heads << " heads of "
                                      << c.head_dim << ", " << c.rotary_dims << " rotated");
    // Padding in the middle: its tables are zeros, so that its rotated dimensions are, too.
    const int half = c.rotary_dims / 2, rows = 40;
    const int dim = (c.heads + c.plain_heads) * c.head_dim, stride = dim + c.extra;
    const int32_t offsets[] = {0, 3, 5, rows}, slots[] = {1, -1, 0};
    const int64_t positions[] = {c.start, 7, c.start + 100};
    const RaggedRows ragged = {rows, 3, offsets, slots, positions};
    std::vector<float> cos(rows * half, kNaN), sin = cos, cuda_cos = cos, cuda_sin = cos;
    std::vector<float> x(rows * stride, kNaN), out = x;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < dim; ++i) x[r * stride + i] = Pseudo(1, r, i);
    }
    ASSERT_TRUE(RopeTable({ragged, c.rotary_dims, 10000.0f, cos.data(), sin.data()}, cpu).ok());
    Mirror mirror(cuda);
    RopeTableParams table{mirror.Rows(ragged), c.rotary_dims, 10000.0f, nullptr, nullptr};
    table.cos = mirror.InOut(cuda_cos);
    table.sin = mirror.InOut(cuda_sin);
    ASSERT_TRUE(RopeTable(table, cuda).ok());
    RopeParams p{rows, c.heads, c.head_dim, c.rotary_dims, stride, table.cos, table.sin, nullptr};
    p.plain_heads = c.plain_heads;
    p.x = mirror.In(x);
    p.out_bf16 = mirror.InOutRounded(out.data(), out.size());
    p.out_stride = stride;
    ASSERT_TRUE(Rope(p, cuda).ok());
    ASSERT_TRUE(mirror.Finish().ok());
    for (int i = 0; i < rows * half; ++i) {  // a rounding's doubt in double may show once
      ASSERT_NEAR(cuda_cos[i], cos[i], 6e-8) << i;
      ASSERT_NEAR(cuda_sin[i], sin[i], 6e-8) << i;
    }
    const ScopedTarget scoped(FusedTargets()[0]);
    ASSERT_TRUE(Rope({rows, c.heads, c.head_dim, c.rotary_dims, stride, cuda_cos.data(),
                      cuda_sin.data(), x.data()},
                     cpu)
                    .ok());
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < stride; ++i) {
        if (i < dim) {
          ASSERT_EQ(out[r * stride + i], Widen(RoundToBf16(x[r * stride + i]))) << r << " " << i;
        } else {
          ASSERT_TRUE(std::isnan(out[r * stride + i]));
        }
      }
    }
  }
}

class AttentionErrors : public ::testing::Test {
 protected:
  AttentionErrors() {
    p_.rows = {2, 1, offsets_, slots_, positions_};
    p_.heads = 4;
    p_.kv_heads = 2;
    p_.head_dim = 4;
    p_.window = 64;
    p_.ring_blocks = 2;
    p_.scale = 0.5f;
    p_.q_stride = p_.out_stride = 16;
    p_.k_stride = p_.v_stride = 8;
    p_.k_slot_stride = p_.v_slot_stride = 2 * 8 * 64;
    p_.num_slots = 1;
    p_.q = p_.k = p_.v = in_;
    p_.k_ring = rings_;
    p_.v_ring = rings_ + 1024;
    p_.out = out_;
  }
  std::string Refusal(const WindowAttentionParams& params) {
    const absl::Status status = WindowAttention(params, {Device::kCpu, pool_.get()});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  int32_t offsets_[2] = {0, 2}, slots_[1] = {0};
  int64_t positions_[1] = {0};
  float in_[32] = {}, out_[32] = {}, rings_[2048] = {};
  WindowAttentionParams p_;
  std::unique_ptr<ThreadPool> pool_ = MakePool(1);
};

TEST_F(AttentionErrors, NamesTheTensor) {
  EXPECT_TRUE(WindowAttention(p_, {Device::kCpu, pool_.get()}).ok());
  auto p = p_;
  p.kv_heads = 3;
  EXPECT_THAT(Refusal(p), HasSubstr("kv_heads: expected a divisor of heads 4, found 3"));
  p = p_;
  p.kv_heads = 0;
  EXPECT_THAT(Refusal(p), HasSubstr("kv_heads: expected 1..4, found 0"));
  p = p_;
  p.head_dim = 513;
  EXPECT_THAT(Refusal(p), HasSubstr("head_dim: expected 1..512, found 513"));
  p = p_;
  p.window = 0;
  EXPECT_THAT(Refusal(p), HasSubstr("window: expected 1.."));
  p = p_;
  p.window = 65;
  EXPECT_THAT(Refusal(p), HasSubstr("ring_blocks: expected >= 3, found 2"));
  p = p_;
  p.scale = NAN;
  EXPECT_THAT(Refusal(p), HasSubstr("scale"));
  p = p_;
  p.k_slot_stride = 1023;
  EXPECT_THAT(Refusal(p), HasSubstr("k_slot_stride: expected >= 1024, found 1023"));
  p = p_;
  p.q_stride = 15;
  EXPECT_THAT(Refusal(p), HasSubstr("q_stride"));
  p = p_;
  p.v_ring = nullptr;
  EXPECT_THAT(Refusal(p), HasSubstr("v_ring"));
  p = p_;
  p.out = in_ + 1;
  EXPECT_THAT(Refusal(p), HasSubstr("out: expected memory apart from q"));
  slots_[0] = 1;
  EXPECT_THAT(Refusal(p_), HasSubstr("slots[0]: expected < 1, found 1"));
}

TEST_F(AttentionErrors, Rope) {
  const Context context{Device::kCpu, pool_.get()};
  EXPECT_THAT(std::string(kernels::Rope({1, 1, 4, 3, 4, in_, in_, out_}, context).message()),
              HasSubstr("rotary_dims: expected an even number, found 3"));
  EXPECT_THAT(std::string(kernels::Rope({1, 1, 4, 6, 4, in_, in_, out_}, context).message()),
              HasSubstr("rotary_dims: expected 0..4, found 6"));
  EXPECT_THAT(std::string(kernels::Rope({1, 2, 4, 4, 7, in_, in_, out_}, context).message()),
              HasSubstr("x_stride: expected >= 8, found 7"));
  EXPECT_THAT(std::string(RopeTable({p_.rows, 4, 0.0f, out_, out_}, context).message()),
              HasSubstr("theta"));
}

}  // namespace
}  // namespace reprise::kernels
