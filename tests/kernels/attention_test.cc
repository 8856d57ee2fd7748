#include "kernels/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

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
  // A slot holds the ring of keys, the ring of values, and a canary.
  int64_t state_floats() const override { return 2 * ring_floats(); }
  int64_t slot_floats() const override { return 2 * ring_floats() + 8; }
  int64_t out_dim() const override { return case_.heads * case_.head_dim; }
  int64_t out_stride() const override { return out_dim() + case_.extra_stride; }

  float Input(int what, int id, int64_t t, int i) const {
    return (what == 0 ? case_.sharpness : 1.0f) * 2.0f * Pseudo(500 + 10 * id + what, t, i);
  }

  absl::Status Run(const RaggedRows& rows, const std::vector<RowId>& ids, float* state,
                   int num_slots, float* out, const Context& context) const override {
    WindowAttentionParams p;
    p.rows = rows;
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
    p.k_slot_stride = p.v_slot_stride = slot_floats();
    p.num_slots = num_slots;
    p.q = inputs[0].data();
    p.k = inputs[1].data();
    p.v = inputs[2].data();
    p.k_ring = state;
    p.v_ring = state + ring_floats();
    p.out = out;
    return WindowAttention(p, context);
  }

  std::vector<double> Reference(int id, int64_t tokens) const override {
    std::vector<double> inputs[3];
    for (int what = 0; what < 3; ++what) {
      const int dim = (what == 0 ? case_.heads : case_.kv_heads) * case_.head_dim;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int i = 0; i < dim; ++i) inputs[what].push_back(Input(what, id, t, i));
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

INSTANTIATE_TEST_SUITE_P(
    All, WindowAttentionTest,
    ::testing::Values(
        Make("base", {}), Make("window_1", {.window = 1}), Make("window_2", {.window = 2}),
        Make("window_63", {.window = 63}), Make("window_64", {.window = 64}),
        Make("window_65", {.window = 65}), Make("window_128", {.window = 128}),
        Make("window_beyond_length", {.window = 1000}), Make("spare_blocks", {.extra_blocks = 2}),
        Make("ten_heads", {.heads = 10}), Make("one_head", {.heads = 1}),
        Make("kv_heads_2", {.heads = 6, .kv_heads = 2}),
        Make("kv_heads_each", {.heads = 3, .kv_heads = 3}), Make("head_dim_1", {.head_dim = 1}),
        Make("head_dim_77", {.head_dim = 77}),
        Make("head_dim_256", {.heads = 5, .head_dim = 256}, 150),
        Make("head_dim_512", {.heads = 2, .head_dim = 512}, 70),
        Make("strided", {.extra_stride = 3}), Make("sharp", {.sharpness = 40.0f}, 300, 3e-5),
        Make("one_token", {}, 1), Make("to_boundary", {}, 64), Make("past_boundary", {}, 65),
        Make("long", {.heads = 2, .head_dim = 8}, 1000)),
    [](const auto& info) { return info.param.name; });

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
