#include "kernels/recurrence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/kernels/mirror.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/sequence_suite.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

struct ConvCase {
  int channels = 96;
  int width = 4;
  bool bias = true;
  int extra_stride = 0;
};

class ConvOp : public SequenceOp {
 public:
  explicit ConvOp(const ConvCase& c)
      : case_(c),
        weight_(PseudoVector(1, size_t(c.width) * c.channels)),
        bias_(c.bias ? PseudoVector(2, c.channels) : std::vector<float>()) {}

  int64_t slot_floats() const { return state_floats() + 8; }
  int64_t state_floats() const { return (case_.width - 1) * case_.channels; }
  int64_t slot_bytes(Device) const override { return slot_floats() * 4; }
  int64_t state_bytes(Device) const override { return state_floats() * 4; }
  int64_t out_dim() const override { return case_.channels; }
  int64_t out_stride() const override { return case_.channels + case_.extra_stride; }

  float X(int id, int64_t t, int c) const { return 2.0f * Pseudo(100 + id, t, c); }

  absl::Status Run(const RaggedRows& rows, const std::vector<RowId>& ids, void* state,
                   int num_slots, float* out, const Context& context) const override {
    const int64_t stride = case_.channels + 2 * case_.extra_stride;
    std::vector<float> x(ids.size() * stride, kNaN);
    for (size_t r = 0; r < ids.size(); ++r) {
      for (int c = 0; c < case_.channels; ++c) x[r * stride + c] = X(ids[r].id, ids[r].t, c);
    }
    Mirror mirror(context);
    CausalConv1dParams p;
    p.rows = mirror.Rows(rows);
    p.channels = case_.channels;
    p.width = case_.width;
    p.x_stride = stride;
    p.out_stride = out_stride();
    p.state_slot_stride = slot_floats();
    p.num_slots = num_slots;
    p.x = mirror.In(x);
    p.weight = mirror.In(weight_);
    p.bias = bias_.empty() ? nullptr : mirror.In(bias_);
    p.state = static_cast<float*>(mirror.InOutBytes(state, num_slots * slot_floats() * 4));
    const size_t out_count = ids.size() * out_stride();
    p.out = mirror.InOut(out, out_count);
    std::vector<float> rounded(out_count, kNaN);
    if (context.device == Device::kCuda) {
      p.out_bf16 = mirror.InOutRounded(rounded.data(), out_count);
    }
    absl::Status status = mirror.Call([&] { return CausalConv1d(p, context); });
    status.Update(mirror.Finish());
    if (p.out_bf16 == nullptr) return status;
    for (size_t i = 0; i < out_count; ++i) {
      const bool same =
          std::isnan(out[i]) ? std::isnan(rounded[i]) : rounded[i] == Widen(RoundToBf16(out[i]));
      if (!same) return absl::InternalError("out_bf16 is not out, rounded");
    }
    return status;
  }

  std::vector<double> Reference(int id, int64_t tokens, Device) const override {
    std::vector<double> x;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int c = 0; c < case_.channels; ++c) x.push_back(X(id, t, c));
    }
    return reference::CausalConv1d(tokens, case_.channels, case_.width, x, Doubles(weight_),
                                   Doubles(bias_));
  }

 private:
  ConvCase case_;
  std::vector<float> weight_, bias_;
};

struct RgLruCase {
  int width = 96;
  float decay = 1.0f;  // factor of log_a_scale
  int extra_stride = 0;
  bool join = false;
  Activation activation = Activation::kGeluTanh;
};

class RgLruOp : public SequenceOp {
 public:
  explicit RgLruOp(const RgLruCase& c) : case_(c) {
    // -8 softplus(Lambda): from a state that lasts thousands of tokens to one that lasts a few.
    for (int i = 0; i < c.width; ++i) {
      log_a_scale_.push_back(-c.decay * std::exp(4.0f * Pseudo(3, i) - 3.0f));
    }
  }

  int64_t slot_floats() const { return state_floats() + 16; }
  int64_t state_floats() const { return 3 * case_.width; }
  int64_t slot_bytes(Device) const override { return slot_floats() * 4; }
  int64_t state_bytes(Device) const override { return state_floats() * 4; }
  int64_t out_dim() const override { return case_.width; }
  int64_t out_stride() const override { return case_.width + case_.extra_stride; }

  float Input(int what, int id, int64_t t, int c) const {
    return (what == 0 ? 1.0f : 6.0f) * Pseudo(200 + 10 * id + what, t, c);
  }

  absl::Status Run(const RaggedRows& rows, const std::vector<RowId>& ids, void* state,
                   int num_slots, float* out, const Context& context) const override {
    const int64_t stride = case_.width + 3 * case_.extra_stride;
    std::vector<float> inputs[4];
    for (int what = 0; what < 4; ++what) {
      inputs[what].assign(ids.size() * stride, kNaN);
      for (size_t r = 0; r < ids.size(); ++r) {
        for (int c = 0; c < case_.width; ++c) {
          inputs[what][r * stride + c] = Input(what, ids[r].id, ids[r].t, c);
        }
      }
    }
    Mirror mirror(context);
    RgLruParams p;
    p.rows = mirror.Rows(rows);
    p.width = case_.width;
    p.u_stride = p.gate_stride = p.join_stride = stride;
    p.out_stride = out_stride();
    p.state_slot_stride = slot_floats();
    p.num_slots = num_slots;
    p.u = mirror.In(inputs[0]);
    p.input_gate = mirror.In(inputs[1]);
    p.recurrent_gate = mirror.In(inputs[2]);
    p.log_a_scale = mirror.In(log_a_scale_);
    if (case_.join) p.join = mirror.In(inputs[3]);
    p.join_activation = case_.activation;
    p.state = static_cast<float*>(mirror.InOutBytes(state, num_slots * slot_floats() * 4));
    const size_t out_count = ids.size() * out_stride();
    if (context.device == Device::kCuda) {
      p.out_bf16 = mirror.InOutRounded(out, out_count);
    } else {
      p.out = mirror.InOut(out, out_count);
    }
    absl::Status status = mirror.Call([&] { return RgLru(p, context); });
    status.Update(mirror.Finish());
    return status;
  }

  std::vector<double> Reference(int id, int64_t tokens, Device) const override {
    std::vector<double> inputs[3];
    for (int what = 0; what < 3; ++what) {
      for (int64_t t = 0; t < tokens; ++t) {
        for (int c = 0; c < case_.width; ++c) inputs[what].push_back(Input(what, id, t, c));
      }
    }
    std::vector<double> out = reference::RgLru(tokens, case_.width, inputs[0], inputs[1], inputs[2],
                                               Doubles(log_a_scale_));
    if (!case_.join) return out;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int c = 0; c < case_.width; ++c) {
        out[t * case_.width + c] *= reference::Activate(case_.activation, Input(3, id, t, c));
      }
    }
    return out;
  }

 private:
  RgLruCase case_;
  std::vector<float> log_a_scale_;
};

SequenceCase Conv(std::string name, ConvCase c, int64_t tokens = 200) {
  return {"conv_" + name, [c] { return std::make_unique<ConvOp>(c); }, 1e-6, tokens};
}

SequenceCase Lru(std::string name, RgLruCase c, int64_t tokens = 200, double tolerance = 3e-6) {
  return {"rg_lru_" + name, [c] { return std::make_unique<RgLruOp>(c); }, tolerance, tokens};
}

class RecurrenceTest : public ::testing::TestWithParam<SequenceCase> {};

TEST_P(RecurrenceTest, MatchesReference) { ExpectMatchesReference(GetParam()); }
TEST_P(RecurrenceTest, SameBitsHoweverChunked) { ExpectSameBitsHoweverChunked(GetParam()); }
TEST_P(RecurrenceTest, SameBitsInBatch) { ExpectSameBitsInBatch(GetParam()); }
TEST_P(RecurrenceTest, SameBitsForThreadsSlotsAndTargets) {
  ExpectSameBitsForThreadsSlotsAndTargets(GetParam());
}

class RecurrenceGraphTest : public ::testing::TestWithParam<SequenceCase> {};
TEST_P(RecurrenceGraphTest, SameBits) { ExpectSameBitsThroughGraphs(GetParam()); }

std::vector<SequenceCase> Cases() {
  return {Conv("base", {}),
          Conv("width1", {.width = 1}),
          Conv("width2", {.width = 2}),
          Conv("width3", {.width = 3}),
          Conv("width5", {.width = 5}),
          Conv("width6", {.width = 6}),
          Conv("width7", {.width = 7}),
          Conv("width8", {.width = 8}),
          Conv("no_bias", {.bias = false}),
          Conv("odd_channels", {.channels = 77}),
          Conv("one_channel", {.channels = 1}),
          Conv("many_channels", {.channels = 1000}, 70),
          Conv("strided", {.extra_stride = 5}),
          Conv("strided_by_16_bytes", {.extra_stride = 4}),
          Conv("short", {}, 2),
          Lru("base", {}),
          Lru("odd_width", {.width = 77}),
          Lru("one_channel", {.width = 1}),
          Lru("wide", {.width = 1000}, 70),
          Lru("strided", {.extra_stride = 7}),
          Lru("one_token", {}, 1),
          Lru("to_boundary", {}, 64),
          Lru("past_boundary", {}, 65),
          Lru("long", {.width = 33}, 1500),
          Lru("slow_decay", {.decay = 1e-4f}, 300, 1e-5),
          Lru("no_decay", {.decay = 0.0f}),
          Lru("fast_decay", {.decay = 100.0f}),
          Lru("join", {.join = true}),
          Lru("join_silu", {.width = 40, .join = true, .activation = Activation::kSilu}),
          Lru("join_gelu", {.width = 40, .join = true, .activation = Activation::kGelu}),
          Lru("join_relu", {.width = 40, .join = true, .activation = Activation::kRelu})};
}

std::vector<SequenceCase> CudaCases() {
  std::vector<SequenceCase> cases = Cases();
  for (SequenceCase& test : cases) {
    test.device = Device::kCuda;
    // RgLru's output is rounded to 8 bits, by up to half of a unit of 1/128.
    if (test.name.rfind("rg_lru", 0) == 0) test.tolerance += 1.0 / 256;
  }
  return cases;
}

std::string Name(const ::testing::TestParamInfo<SequenceCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(All, RecurrenceTest, ::testing::ValuesIn(Cases()), Name);
INSTANTIATE_TEST_SUITE_P(Cuda, RecurrenceTest, ::testing::ValuesIn(CudaCases()), Name);
INSTANTIATE_TEST_SUITE_P(Cuda, RecurrenceGraphTest, ::testing::ValuesIn(CudaCases()), Name);

// Many grid blocks at once, several long sequences beside short ones: what one block of threads
// hands to the next must arrive.
TEST(RgLruCudaTest, LongSequencesInABatch) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  const auto pool = MakePool(1);
  const Context context{Device::kCuda, pool.get(), TestQueue()};
  const RgLruOp op({.width = 300});
  const std::vector<int64_t> lengths = {5000, 17, 1, 2777, 16, 256, 4097, 64};
  std::vector<Feed> feeds;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const auto id = static_cast<int>(i);
    feeds.push_back({id, id, lengths[i], {lengths[i]}});
  }
  RunResult batch = RunFeeds(op, feeds, 9, context, /*padding=*/true);
  for (Feed feed : feeds) {
    feed.chunks = {700, 1, 63, 300};
    RunResult alone = RunFeeds(op, {feed}, 9, context);
    EXPECT_TRUE(testing::BitwiseEqual(batch.outputs[feed.id], alone.outputs[feed.id],
                                      {feed.tokens, op.out_dim()}))
        << feed.id;
    EXPECT_TRUE(testing::BitwiseEqual(batch.states[feed.id], alone.states[feed.id])) << feed.id;
  }
}

// Near a = 1 the input's factor sqrt(1 - a^2) must keep its digits: the state must not drift.
class RgLruTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    context_.device = GetParam();
    if (GetParam() == Device::kCpu) return;
    context_.queue = TestQueue();
    if (context_.queue == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  void SetOut(RgLruParams& p, Mirror& mirror, std::vector<float>& out) {
    if (GetParam() == Device::kCpu) {
      p.out = out.data();
    } else {
      p.out_bf16 = mirror.InOutRounded(out.data(), out.size());
    }
  }
  std::unique_ptr<ThreadPool> pool_ = MakePool(1);
  Context context_{Device::kCpu, pool_.get()};
};

INSTANTIATE_TEST_SUITE_P(Cpu, RgLruTest, ::testing::Values(Device::kCpu));
INSTANTIATE_TEST_SUITE_P(Cuda, RgLruTest, ::testing::Values(Device::kCuda));

TEST_P(RgLruTest, KeepsDigitsNearOne) {
  const int32_t offsets[] = {0, 2}, slots[] = {0};
  const int64_t positions[] = {0};
  for (const float scale : {-1e-2f, -1e-4f, -1e-6f, -1e-8f, -1e-12f, -1e-30f}) {
    std::vector<float> state(3), out(2);
    const std::vector<float> u = {0.0f, 1.0f}, gate = {100.0f, 100.0f}, scales = {scale};
    Mirror mirror(context_);
    RgLruParams p;
    p.rows = mirror.Rows({2, 1, offsets, slots, positions});
    p.width = p.u_stride = p.gate_stride = p.out_stride = 1;
    p.state_slot_stride = 3;
    p.num_slots = 1;
    p.u = mirror.In(u);
    p.input_gate = p.recurrent_gate = mirror.In(gate);
    p.log_a_scale = mirror.In(scales);
    p.state = mirror.InOut(state);
    SetOut(p, mirror, out);
    ASSERT_TRUE(RgLru(p, context_).ok());
    ASSERT_TRUE(mirror.Finish().ok());
    const double expected = std::sqrt(-std::expm1(2.0 * scale));
    EXPECT_NEAR(state[1] / expected, 1.0, 4e-7) << scale;  // h_local
    EXPECT_NEAR(out[1] / expected, 1.0, GetParam() == Device::kCpu ? 4e-7 : 1.0 / 256) << scale;
  }
}

TEST_P(RgLruTest, StateIsGridPlusTail) {
  const RgLruOp op({.width = 5});
  RunResult result = RunFeeds(op, {{0, 0, 64, {64}}}, 1, context_);
  std::vector<float> state(3 * 5);
  std::memcpy(state.data(), result.states[0].data(), state.size() * sizeof(float));
  const std::vector<float>& outputs = result.outputs[0];
  for (int c = 0; c < 5; ++c) {
    const float h_grid = GetParam() == Device::kCpu ? state[c] : Widen(RoundToBf16(state[c]));
    EXPECT_EQ(h_grid, outputs[63 * 5 + c]);  // the output at the boundary
    EXPECT_EQ(state[5 + c], 0.0f);           // h_local
    EXPECT_EQ(state[10 + c], 1.0f);          // a_prod
  }
}

TEST(RgLruCpuTest, OutMayBeAnInput) {
  const auto pool = MakePool(1);
  const Context context{Device::kCpu, pool.get()};
  const RgLruOp op({.width = 40});
  const int32_t offsets[] = {0, 70}, slots[] = {0};
  const int64_t positions[] = {0};
  const auto u = PseudoVector(1, 70 * 40), gate = PseudoVector(2, 70 * 40);
  const auto scale = std::vector<float>(40, -0.5f);
  std::vector<float> expected;
  for (int alias = 0; alias < 4; ++alias) {
    std::vector<float> a = u, b = gate, c = gate, out(70 * 40), state(120);
    RgLruParams p;
    p.rows = {70, 1, offsets, slots, positions};
    p.width = p.u_stride = p.gate_stride = p.out_stride = 40;
    p.state_slot_stride = 120;
    p.num_slots = 1;
    float* const tensors[] = {out.data(), a.data(), b.data(), c.data()};
    p.u = tensors[1];
    p.input_gate = tensors[2];
    p.recurrent_gate = tensors[3];
    p.log_a_scale = scale.data();
    p.state = state.data();
    p.out = tensors[alias];
    ASSERT_TRUE(RgLru(p, context).ok());
    const std::vector<float>& result = alias == 0 ? out : alias == 1 ? a : alias == 2 ? b : c;
    if (alias == 0) expected = result;
    EXPECT_TRUE(testing::BitwiseEqual(result, expected)) << alias;
  }
}

class RecurrenceErrors : public ::testing::Test {
 protected:
  RecurrenceErrors() {
    lru_.rows = conv_.rows = {4, 2, offsets_, slots_, positions_};
    lru_.width = conv_.channels = 8;
    conv_.width = 4;
    lru_.u_stride = lru_.gate_stride = lru_.out_stride = conv_.x_stride = conv_.out_stride = 8;
    lru_.state_slot_stride = conv_.state_slot_stride = 24;
    lru_.num_slots = conv_.num_slots = 2;
    lru_.u = conv_.x = in_;
    lru_.input_gate = lru_.recurrent_gate = lru_.log_a_scale = conv_.weight = in_;
    lru_.state = conv_.state = state_;
    lru_.out = conv_.out = out_;
  }
  // The message of a call that must be refused.
  template <typename P>
  std::string Refusal(const P& params, absl::Status (*op)(const P&, const Context&)) {
    const absl::Status status = op(params, {Device::kCpu, pool_.get()});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  int32_t offsets_[3] = {0, 1, 4}, slots_[2] = {1, 0};
  int64_t positions_[2] = {5, 0};
  float in_[64] = {}, out_[64] = {}, state_[64] = {};
  RgLruParams lru_;
  CausalConv1dParams conv_;
  std::unique_ptr<ThreadPool> pool_ = MakePool(1);
};

TEST_F(RecurrenceErrors, BaseIsAccepted) {
  EXPECT_TRUE(RgLru(lru_, {Device::kCpu, pool_.get()}).ok());
  EXPECT_TRUE(CausalConv1d(conv_, {Device::kCpu, pool_.get()}).ok());
}

TEST_F(RecurrenceErrors, RgLruNamesTheTensor) {
  auto p = lru_;
  p.width = 0;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("RgLru: width: expected >= 1, found 0"));
  p = lru_;
  p.u_stride = 7;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("u_stride: expected >= 8, found 7"));
  p = lru_;
  p.gate_stride = -8;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("gate_stride"));
  p = lru_;
  p.state_slot_stride = 23;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("state_slot_stride: expected >= 24, found 23"));
  p = lru_;
  p.recurrent_gate = nullptr;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("recurrent_gate: expected a tensor, found null"));
  p = lru_;
  p.state = nullptr;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("state"));
}

TEST_F(RecurrenceErrors, ConvNamesTheTensor) {
  auto p = conv_;
  p.width = 9;
  EXPECT_THAT(Refusal(p, CausalConv1d), HasSubstr("width: expected 1..8, found 9"));
  p = conv_;
  p.out = in_ + 4;
  EXPECT_THAT(Refusal(p, CausalConv1d), HasSubstr("out: expected memory apart from x"));
  p = conv_;
  p.weight = nullptr;
  EXPECT_THAT(Refusal(p, CausalConv1d), HasSubstr("weight"));
}

TEST_F(RecurrenceErrors, HostileRows) {
  auto p = lru_;
  slots_[0] = 2;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("slots[0]: expected < 2, found 2"));
  slots_[0] = 0;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("slot 0 twice"));
  slots_[0] = 1;
  offsets_[1] = 5;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("seq_offsets[1]: expected 0..4, found 5"));
  offsets_[1] = -1;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("seq_offsets[1]"));
  offsets_[1] = 1;
  offsets_[2] = 3;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("seq_offsets[2]: expected 4 (num_rows), found 3"));
  offsets_[2] = 4;
  offsets_[0] = 1;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("seq_offsets[0]"));
  offsets_[0] = 0;
  positions_[1] = -1;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("start_positions[1]"));
  positions_[1] = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("start_positions[1]"));
  positions_[1] = 0;
  p.rows.seq_offsets = nullptr;
  EXPECT_THAT(Refusal(p, RgLru), HasSubstr("seq_offsets"));
}

TEST_F(RecurrenceErrors, Device) {
  EXPECT_THAT(std::string(RgLru(lru_, {Device::kCpu, nullptr}).message()), HasSubstr("pool"));
  const absl::Status cuda = RgLru(lru_, {Device::kCuda, nullptr});
  // Without a queue, or not in this build.
  EXPECT_TRUE(absl::IsInvalidArgument(cuda) || absl::IsUnimplemented(cuda)) << cuda;
}

}  // namespace
}  // namespace reprise::kernels
