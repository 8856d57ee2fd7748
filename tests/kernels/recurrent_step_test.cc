// RecurrentStep against the three operations that it replaces: equal bits.
#include "kernels/recurrent_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device_queue.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

constexpr int kTaps = 4;

struct StepCase {
  std::string name;
  int blocks = 1, inputs = 64;  // of one gate
  int rows = 1;
  bool bias = true;
  Activation activation = Activation::kGeluTanh;
  int width() const { return blocks * inputs; }
};

absl::StatusOr<PackedMatrix> PackGates(const StepCase& c, const Context& context,
                                       bool e4m3 = false) {
  const size_t count = size_t(2) * c.blocks * c.inputs * c.inputs;
  const std::vector<float> weights = PseudoVector(1, count, 0.3f);
  PackedMatrix::Source source;
  source.blocks = 2 * c.blocks;
  source.x_blocks = c.blocks;
  source.n = source.k = c.inputs;
  source.data = weights.data();
  source.e4m3 = e4m3;
  return PackedMatrix::Pack(source, context);
}

// What a step changes, on the host.
struct Outcome {
  std::vector<float> conv_state, lru_state, out;
};

// A table of sequences, one row each, that goes from step to step.
class Steps {
 public:
  Steps(const StepCase& c, DeviceQueue* queue) : case_(c), context_{Device::kCuda, nullptr, queue} {
    const int width = c.width();
    taps_ = PseudoVector(2, size_t(kTaps) * width);
    conv_bias_ = PseudoVector(3, width);
    gate_bias_ = PseudoVector(4, 2 * size_t(width));
    for (int i = 0; i < width; ++i) {
      log_a_scale_.push_back(-std::exp(4.0f * Pseudo(5, i) - 3.0f));
    }
    // Every start that is handled apart, in slots that are not in order; every fifth is padding.
    constexpr int64_t kStarts[] = {0, 1, 2, 3, 62, 63, 64, 65, 66, 1000, 0, 127};
    num_slots_ = c.rows + 3;
    int stride = 7;
    while (std::gcd(stride, num_slots_) > 1) ++stride;
    for (int s = 0; s < c.rows; ++s) {
      offsets_.push_back(s);
      slots_.push_back(s % 5 == 3 ? -1 : (s * stride + 1) % num_slots_);
      positions_.push_back(kStarts[s % std::size(kStarts)]);
    }
    offsets_.push_back(c.rows);
    state_.conv_state.assign(size_t(num_slots_) * conv_stride(), kNaN);
    state_.lru_state.assign(size_t(num_slots_) * lru_stride(), kNaN);
    for (int s = 0; s < c.rows; ++s) {
      if (slots_[s] < 0) continue;
      for (int j = 0; j + 1 < kTaps; ++j) {
        if (positions_[s] + j + 1 < kTaps) continue;
        for (int i = 0; i < width; ++i) {
          state_.conv_state[size_t(slots_[s]) * conv_stride() + size_t(j) * width + i] =
              Pseudo(10 + j, s, i);
        }
      }
      for (int j = 0; j < 3 && positions_[s] > 0; ++j) {
        for (int i = 0; i < width; ++i) {
          state_.lru_state[size_t(slots_[s]) * lru_stride() + size_t(j) * width + i] =
              Pseudo(20 + j, s, i);
        }
      }
    }
    auto packed = PackGates(c, context_);
    status_.Update(packed.status());
    if (packed.ok()) gates_ = *std::move(packed);
  }

  int conv_stride() const { return (kTaps - 1) * case_.width() + 4; }
  int lru_stride() const { return 3 * case_.width() + 8; }
  int out_stride() const { return case_.width() + 4; }

  // The next step from the same states, as three operations or as one. `advance`: keep the states.
  Outcome Run(int step, bool together, bool advance) {
    const int width = case_.width(), rows = case_.rows;
    Outcome outcome = state_;
    outcome.out.assign(size_t(rows) * out_stride(), kNaN);
    // join, then x, as one product gives them.
    const std::vector<float> in = PseudoVector(100 + step, size_t(rows) * 2 * width, 2.0f);
    std::vector<float> u(size_t(rows) * width, kNaN), gates(size_t(rows) * 2 * width, kNaN);
    std::vector<float> rounded = u;
    Mirror mirror(context_);
    RecurrentStepParams p;
    p.conv.rows = p.lru.rows =
        mirror.Rows({rows, rows, offsets_.data(), slots_.data(), positions_.data(), nullptr, 1});
    const float* const device_in = mirror.In(in);
    p.conv.channels = p.lru.width = width;
    p.conv.width = kTaps;
    p.conv.x_stride = p.lru.join_stride = 2 * width;
    p.conv.state_slot_stride = conv_stride();
    p.conv.out_stride = p.lru.u_stride = width;
    p.conv.num_slots = p.lru.num_slots = num_slots_;
    p.conv.x = device_in + width;
    p.conv.weight = mirror.In(taps_);
    p.conv.bias = case_.bias ? mirror.In(conv_bias_) : nullptr;
    p.conv.state = mirror.InOut(outcome.conv_state);
    p.gates.num_rows = rows;
    p.gates.weight = &gates_;
    p.gates.bias = case_.bias ? mirror.In(gate_bias_) : nullptr;
    p.lru.join_activation = case_.activation;
    p.lru.gate_stride = p.gates.out_stride = 2 * width;
    p.lru.state_slot_stride = lru_stride();
    p.lru.out_stride = out_stride();
    p.lru.log_a_scale = mirror.In(log_a_scale_);
    p.lru.join = device_in;
    p.lru.state = mirror.InOut(outcome.lru_state);
    p.lru.out_bf16 = mirror.InOutRounded(outcome.out.data(), outcome.out.size());
    if (together) {
      EXPECT_TRUE(CanRecurrentStep(p, context_));
      status_.Update(mirror.Call([&] { return RecurrentStep(p, context_); }));
    } else {
      p.conv.out = mirror.InOut(u);
      p.conv.out_bf16 = mirror.InOutRounded(rounded.data(), rounded.size());
      p.gates.x_bf16 = p.conv.out_bf16;
      p.gates.x_stride = width;
      p.gates.out = mirror.InOut(gates);
      p.lru.u = p.conv.out;
      p.lru.input_gate = p.gates.out;
      p.lru.recurrent_gate = p.gates.out + width;
      status_.Update(mirror.Call([&] {
        absl::Status status = CausalConv1d(p.conv, context_);
        if (status.ok()) status = MatMul(p.gates, context_);
        if (status.ok()) status = RgLru(p.lru, context_);
        return status;
      }));
    }
    status_.Update(mirror.Finish());
    if (advance) {
      state_ = outcome;
      for (int64_t& position : positions_) ++position;
    }
    return outcome;
  }

  const absl::Status& status() const { return status_; }
  const std::vector<int32_t>& slots() const { return slots_; }

 private:
  StepCase case_;
  Context context_;
  absl::Status status_;
  PackedMatrix gates_;
  std::vector<float> taps_, conv_bias_, gate_bias_, log_a_scale_;
  std::vector<int32_t> offsets_, slots_;
  std::vector<int64_t> positions_;
  int num_slots_ = 0;
  Outcome state_;
};

class RecurrentStepCuda : public ::testing::TestWithParam<StepCase> {
 protected:
  void SetUp() override {
    if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  void ExpectSameBits() {
    const StepCase& c = GetParam();
    Steps steps(c, TestQueue());
    for (int step = 0; step < 5; ++step) {
      const Outcome found = steps.Run(step, /*together=*/true, /*advance=*/false);
      const Outcome expected = steps.Run(step, /*together=*/false, /*advance=*/true);
      ASSERT_TRUE(steps.status().ok()) << steps.status();
      const std::string what = "step " + std::to_string(step);
      testing::AssertBitwiseEqual(found.out, expected.out, what + ", out",
                                  {c.rows, steps.out_stride()});
      testing::AssertBitwiseEqual(found.conv_state, expected.conv_state, what + ", conv state",
                                  {-1, steps.conv_stride()});
      testing::AssertBitwiseEqual(found.lru_state, expected.lru_state, what + ", lru state",
                                  {-1, steps.lru_stride()});
      // Equal because right: no poison gets in, and padding gives zeros.
      for (int row = 0; row < c.rows; ++row) {
        for (int i = 0; i < c.width(); ++i) {
          const float value = found.out[size_t(row) * steps.out_stride() + i];
          ASSERT_FALSE(std::isnan(value)) << what << ", row " << row << ", channel " << i;
          if (steps.slots()[row] < 0) {
            ASSERT_FALSE(value != 0.0f || std::signbit(value)) << what << ", row " << row;
          }
        }
      }
    }
  }
};

TEST_P(RecurrentStepCuda, SameBits) { ExpectSameBits(); }
TEST_P(RecurrentStepCuda, SameBitsThroughGraphs) {
  const ScopedGraphs graphs;
  ExpectSameBits();
}

std::vector<StepCase> Cases() {
  std::vector<StepCase> cases;
  for (const int rows : {1, 5, 31, 32, 33, 70}) {
    for (const auto& [blocks, inputs] :
         {std::pair{1, 64}, {3, 64}, {2, 128}, {1, 192}, {1, 256}, {3, 256}}) {
      StepCase c;
      c.name = std::to_string(rows) + "_rows_" + std::to_string(blocks) + "_blocks_of_" +
               std::to_string(inputs);
      c.blocks = blocks;
      c.inputs = inputs;
      c.rows = rows;
      cases.push_back(c);
    }
  }
  // Tiles of 16 rows and, where there is no room for so many, of 32.
  for (const int rows : {32, 48, 64, 160}) {
    cases.push_back({"wide_" + std::to_string(rows), 10, 256, rows});
  }
  cases.push_back({"largest_block", 2, 512, 40});
  cases.push_back({"no_bias", 2, 128, 40, false});
  cases.push_back({"gelu", 2, 128, 20, true, Activation::kGelu});
  cases.push_back({"silu", 2, 128, 20, true, Activation::kSilu});
  cases.push_back({"relu", 10, 256, 100, true, Activation::kRelu});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, RecurrentStepCuda, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

// Params that are accepted but for the pointers' memory, which is never touched.
class RecurrentStepRefusals : public ::testing::Test {
 protected:
  void SetUp() override {
    p_.conv.rows = p_.lru.rows = {5, 5, ints_, ints_, longs_, ints_, 1};
    p_.conv.channels = p_.lru.width = 128;
    p_.conv.width = kTaps;
    p_.conv.x_stride = p_.lru.join_stride = 256;
    p_.conv.state_slot_stride = p_.lru.state_slot_stride = 3 * 128;
    p_.conv.num_slots = p_.lru.num_slots = 5;
    p_.lru.out_stride = 128;
    p_.lru.join = floats_;
    p_.conv.x = floats_ + 128;
    p_.conv.weight = p_.lru.log_a_scale = floats_;
    p_.conv.state = p_.lru.state = floats_;
    p_.lru.out_bf16 = out_;
    p_.gates.num_rows = 5;
    p_.gates.weight = &gates_;
  }
  absl::Status Refusal(const RecurrentStepParams& p) {
    EXPECT_FALSE(CanRecurrentStep(p, context_));
    return RecurrentStep(p, context_);
  }

  alignas(16) float floats_[5 * 256 + 16] = {};
  alignas(16) BF16 out_[5 * 128 + 16];
  int32_t ints_[6] = {};
  int64_t longs_[5] = {};
  PackedMatrix gates_;
  RecurrentStepParams p_;
  Context context_;
};

TEST_F(RecurrentStepRefusals, Cpu) {
  const auto pool = MakePool(1);
  context_ = {Device::kCpu, pool.get()};
  EXPECT_TRUE(absl::IsUnimplemented(Refusal(p_)));
}

TEST_F(RecurrentStepRefusals, NoQueue) {
  context_ = {Device::kCuda, nullptr};
  const absl::Status status = Refusal(p_);
  // Without a queue, or not in this build.
  EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status;
}

TEST_F(RecurrentStepRefusals, WhatItDoesNotTake) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  context_ = {Device::kCuda, nullptr, TestQueue()};
  auto packed = PackGates({"", 2, 64}, context_);
  ASSERT_TRUE(packed.ok()) << packed.status();
  gates_ = *std::move(packed);
  ASSERT_TRUE(CanRecurrentStep(p_, context_));
  const auto expect_refused = [&](auto change) {
    RecurrentStepParams p = p_;
    change(p);
    const absl::Status status = Refusal(p);
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  };
  expect_refused([](auto& p) { p.conv.rows.max_seq_rows = p.lru.rows.max_seq_rows = 2; });
  expect_refused([](auto& p) { p.conv.rows.num_seqs = p.lru.rows.num_seqs = 4; });
  expect_refused([](auto& p) { p.conv.width = 3; });
  expect_refused([](auto& p) { p.lru.join = nullptr; });
  expect_refused([](auto& p) { p.conv.channels = 64; });
  expect_refused([](auto& p) { p.conv.x = p.conv.x + 1; });
  expect_refused([](auto& p) { p.lru.join_stride = 257; });
  expect_refused([](auto& p) { p.lru.state_slot_stride = 3 * 128 + 2; });
  expect_refused([](auto& p) { p.lru.out_bf16 = p.lru.out_bf16 + 2; });
  for (const StepCase& other : {StepCase{"", 1, 128}, {"", 4, 32}, {"", 1, 640}}) {
    auto gates = PackGates(other, context_);
    ASSERT_TRUE(gates.ok()) << gates.status();
    // Blocks of 128 are taken, the two others are not.
    RecurrentStepParams p = p_;
    p.gates.weight = &*gates;
    if (other.inputs == 640) {
      p.conv.channels = p.lru.width = 640;
      p.conv.x_stride = p.lru.join_stride = p.lru.out_stride = 640;
    }
    EXPECT_EQ(CanRecurrentStep(p, context_), other.inputs == 128);
  }
  auto fp8 = PackGates({"", 2, 64}, context_, /*e4m3=*/true);
  ASSERT_TRUE(fp8.ok()) << fp8.status();
  expect_refused([&](auto& p) { p.gates.weight = &*fp8; });
}

TEST_F(RecurrentStepRefusals, NamesTheTensor) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  context_ = {Device::kCuda, nullptr, TestQueue()};
  auto packed = PackGates({"", 2, 64}, context_);
  ASSERT_TRUE(packed.ok()) << packed.status();
  gates_ = *std::move(packed);
  const auto refusal = [&](auto change) {
    RecurrentStepParams p = p_;
    change(p);
    const absl::Status status = RecurrentStep(p, context_);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](auto& p) { p.lru.state = nullptr; }), HasSubstr("state: expected"));
  EXPECT_THAT(refusal([](auto& p) { p.conv.x_stride = 127; }),
              HasSubstr("conv.x_stride: expected >= 128, found 127"));
  EXPECT_THAT(refusal([](auto& p) { p.gates.weight = nullptr; }), HasSubstr("gates.weight"));
  EXPECT_THAT(refusal([](auto& p) { p.gates.num_rows = 4; }),
              HasSubstr("rows: expected the same of all operations"));
  EXPECT_THAT(refusal([this](auto& p) { p.lru.out_bf16 = reinterpret_cast<BF16*>(floats_); }),
              HasSubstr("out_bf16: expected memory apart from"));
}

}  // namespace
}  // namespace reprise::kernels
