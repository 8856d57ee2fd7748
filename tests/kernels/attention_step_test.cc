// AttentionStep against the two operations that it replaces: equal bits.
#include "kernels/attention_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/device_queue.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

constexpr uint16_t kPoison = 0x7fc0;  // bf16 NaN

struct StepCase {
  std::string name;
  int heads = 4, kv_heads = 1;
  int head_dim = 64, rotary_dims = 64;
  int window = 100;
  int rows = 7;
  int extra_stride = 0, extra_blocks = 0;
  float sharpness = 1.0f;  // factor of queries: how far scores spread
  int first_start = 0;     // of Starts()
  int layers = 1;          // steps in a row, each with its own tensors
};

// Where sequences begin: just before and at the edges of ring blocks, of groups of keys and of the
// window, some of which the following steps cross; and as far out as a model lets a sequence go.
std::vector<int64_t> Starts(int64_t window) {
  return {4095,
          0,
          window - 1,
          window,
          window + 63,
          1,
          255,
          256,
          257,
          300,
          62,
          63,
          64,
          window + 64,
          65,
          5000,
          4096,
          window + 62,
          window + 1,
          254,
          (int64_t{1} << 40) - 2,
          (int64_t{3} << 23) + 200};
}

// What a step changes, on the host.
struct Outcome {
  std::vector<uint16_t> rings;  // [layers, slots, slot_elements]
  std::vector<float> out;       // [layers, rows, out_stride]
};

// A table of sequences, one row each, that goes from step to step.
class Steps {
 public:
  Steps(const StepCase& c, DeviceQueue* queue) : case_(c), context_{Device::kCuda, nullptr, queue} {
    // Slots are not in order and some stay empty; every fifth row is padding.
    num_slots_ = c.rows + 3;
    int stride = 7;
    while (std::gcd(stride, num_slots_) > 1) ++stride;
    const std::vector<int64_t> starts = Starts(c.window);
    for (int s = 0; s < c.rows; ++s) {
      offsets_.push_back(s);
      slots_.push_back(s % 5 == 3 ? -1 : (s * stride + 1) % num_slots_);
      positions_.push_back(starts[(s + c.first_start) % starts.size()]);
    }
    offsets_.push_back(c.rows);
    // What no row may read is poison, the place of the step's own key included.
    state_.rings.assign(size_t(c.layers) * num_slots_ * slot_elements(), kPoison);
    for (int s = 0; s < c.rows; ++s) {
      const int64_t end = positions_[s];
      for (int64_t t = std::max<int64_t>(end - c.window, 0); t < end; ++t)
        SetRing(s, t, /*poison=*/false);
    }
  }

  int dims() const { return (case_.heads + 2 * case_.kv_heads) * case_.head_dim; }
  int x_stride() const { return dims() + 2 * case_.extra_stride; }
  int out_dims() const { return case_.heads * case_.head_dim; }
  int out_stride() const { return out_dims() + case_.extra_stride; }
  int ring_blocks() const { return WindowBlocks(case_.window) + case_.extra_blocks; }
  int64_t ring_elements() const {
    return int64_t{ring_blocks()} * case_.kv_heads * case_.head_dim * kGridTokens;
  }
  // A slot holds the ring of keys, the ring of values, and a canary.
  int64_t slot_elements() const { return 2 * ring_elements() + 8; }

  // The next step from the same rings, as two operations or as one. `advance`: keep the rings.
  Outcome Run(int step, bool together, bool advance) {
    const StepCase& c = case_;
    const size_t all_rows = size_t(c.layers) * c.rows;
    Outcome outcome = state_;
    outcome.out.assign(all_rows * out_stride(), kNaN);
    const std::vector<float> x = Inputs(step);
    std::vector<float> cos, sin, rotated(all_rows * x_stride(), kNaN);
    for (int i = 0; i < c.rows * c.rotary_dims / 2; ++i) {
      const float angle = 4.0f * Pseudo(200 + step, i);
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    Mirror mirror(context_);
    AttentionStepParams p;
    p.rope.num_rows = c.rows;
    p.rope.heads = c.heads + c.kv_heads;
    p.rope.plain_heads = c.kv_heads;
    p.rope.head_dim = p.attention.head_dim = c.head_dim;
    p.rope.rotary_dims = c.rotary_dims;
    p.rope.x_stride = x_stride();
    p.rope.cos = mirror.In(cos);
    p.rope.sin = mirror.In(sin);
    p.rope.x = mirror.In(x);
    p.attention.rows =
        mirror.Rows({c.rows, c.rows, offsets_.data(), slots_.data(), positions_.data()});
    p.attention.heads = c.heads;
    p.attention.kv_heads = c.kv_heads;
    p.attention.window = c.window;
    p.attention.ring_blocks = ring_blocks();
    p.attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    p.attention.out_stride = out_stride();
    p.attention.k_slot_stride = p.attention.v_slot_stride = slot_elements();
    p.attention.num_slots = num_slots_;
    p.attention.k_ring_bf16 = static_cast<BF16*>(
        mirror.InOutBytes(outcome.rings.data(), outcome.rings.size() * sizeof(uint16_t)));
    p.attention.v_ring_bf16 = p.attention.k_ring_bf16 + ring_elements();
    p.attention.out_bf16 = mirror.InOutRounded(outcome.out.data(), outcome.out.size());
    if (!together) p.rope.out_bf16 = mirror.InOutRounded(rotated.data(), rotated.size());
    p.rope.out_stride = x_stride();
    EXPECT_TRUE(!together || CanAttentionStep(p, context_));
    status_.Update(mirror.Call([&] {
      absl::Status status;
      for (int layer = 0; layer < c.layers && status.ok(); ++layer) {
        const AttentionStepParams of_layer = Layer(p, layer);
        status = together ? AttentionStep(of_layer, context_) : Separately(of_layer);
      }
      return status;
    }));
    status_.Update(mirror.Finish());
    if (advance) {
      state_.rings = outcome.rings;
      for (int s = 0; s < c.rows; ++s) {
        const int64_t left = ++positions_[s] - c.window - 1;  // the window
        if (left >= 0) SetRing(s, left, /*poison=*/true);
      }
    }
    return outcome;
  }

  const absl::Status& status() const { return status_; }
  const std::vector<int32_t>& slots() const { return slots_; }
  int num_slots() const { return num_slots_; }

 private:
  // Queries, keys and values as one product gives them. Those of padding are poison.
  std::vector<float> Inputs(int step) const {
    std::vector<float> x(size_t(case_.layers) * case_.rows * x_stride(), kNaN);
    for (int row = 0; row < case_.layers * case_.rows; ++row) {
      if (slots_[row % case_.rows] < 0) continue;
      for (int i = 0; i < dims(); ++i) {
        const float factor = i < out_dims() ? case_.sharpness : 1.0f;
        x[size_t(row) * x_stride() + i] = factor * 2.0f * Pseudo(100 + step, row, i);
      }
    }
    return x;
  }

  // The key and the value of row s at `position` in all layers: some numbers, or poison.
  void SetRing(int s, int64_t position, bool poison) {
    if (slots_[s] < 0) return;
    const int64_t block = position / kGridTokens % ring_blocks();
    for (int i = 0; i < case_.layers * case_.kv_heads * case_.head_dim; ++i) {
      const int column = i % case_.head_dim, head = i / case_.head_dim % case_.kv_heads;
      const int64_t layer = i / case_.head_dim / case_.kv_heads;
      const int64_t slot = layer * num_slots_ + slots_[s];
      const int64_t key = (block * case_.kv_heads + head) * kGridTokens + position % kGridTokens;
      uint16_t* const to = &state_.rings[slot * slot_elements() + key * case_.head_dim + column];
      for (int what = 0; what < 2; ++what) {
        const float value = 2.0f * Pseudo(1000 + 2 * s + what, position, i);
        to[what * ring_elements()] = poison ? kPoison : RoundToBf16(value).bits;
      }
    }
  }

  // The params of one layer, from those of the first.
  AttentionStepParams Layer(AttentionStepParams p, int layer) const {
    const int64_t row = int64_t{layer} * case_.rows;
    const int64_t ring = int64_t{layer} * num_slots_ * slot_elements();
    p.rope.x += row * x_stride();
    if (p.rope.out_bf16 != nullptr) p.rope.out_bf16 += row * x_stride();
    p.attention.k_ring_bf16 += ring;
    p.attention.v_ring_bf16 += ring;
    p.attention.out_bf16 += row * out_stride();
    return p;
  }

  absl::Status Separately(const AttentionStepParams& p) const {
    WindowAttentionParams attention = p.attention;
    attention.q_stride = attention.k_stride = attention.v_stride = p.rope.out_stride;
    attention.q_bf16 = p.rope.out_bf16;
    attention.k_bf16 = attention.q_bf16 + case_.heads * case_.head_dim;
    attention.v_bf16 = attention.k_bf16 + case_.kv_heads * case_.head_dim;
    const absl::Status status = Rope(p.rope, context_);
    return status.ok() ? WindowAttention(attention, context_) : status;
  }

  StepCase case_;
  Context context_;
  absl::Status status_;
  std::vector<int32_t> offsets_, slots_;
  std::vector<int64_t> positions_;
  int num_slots_ = 0;
  Outcome state_;
};

class AttentionStepCuda : public ::testing::TestWithParam<StepCase> {
 protected:
  void SetUp() override {
    if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  void ExpectSameBits() {
    const StepCase& c = GetParam();
    Steps steps(c, TestQueue());
    for (int step = 0; step < 4; ++step) {
      const Outcome found = steps.Run(step, /*together=*/true, /*advance=*/false);
      const Outcome expected = steps.Run(step, /*together=*/false, /*advance=*/true);
      ASSERT_TRUE(steps.status().ok()) << steps.status();
      const std::string what = "step " + std::to_string(step);
      ASSERT_TRUE(testing::BitwiseEqual(found.out, expected.out, {-1, c.rows, steps.out_stride()}))
          << what << ", out";
      ASSERT_TRUE(testing::BitwiseEqual(found.rings, expected.rings,
                                        {-1, steps.num_slots(), steps.slot_elements()}))
          << what << ", rings";
      // Equal because right: no poison gets in, and padding gives zeros.
      for (int row = 0; row < c.layers * c.rows; ++row) {
        const bool padding = steps.slots()[row % c.rows] < 0;
        for (int i = 0; i < steps.out_stride(); ++i) {
          const float value = found.out[size_t(row) * steps.out_stride() + i];
          ASSERT_EQ(std::isnan(value), i >= steps.out_dims())
              << what << ", row " << row << ", column " << i;
          const bool zero = value == 0.0f && !std::signbit(value);
          ASSERT_TRUE(zero || !padding || i >= steps.out_dims()) << what << ", row " << row;
        }
      }
    }
  }
};

TEST_P(AttentionStepCuda, SameBits) { ExpectSameBits(); }
TEST_P(AttentionStepCuda, SameBitsThroughGraphs) {
  const ScopedGraphs graphs;
  ExpectSameBits();
}

std::vector<StepCase> Cases() {
  std::vector<StepCase> cases;
  const auto add = [&](StepCase c, std::vector<int> counts) {
    const std::string name = c.name;
    for (const int rows : counts) {
      c.name = name + "_" + std::to_string(rows) + (rows == 1 ? "_row" : "_rows");
      c.rows = rows;
      cases.push_back(c);
    }
  };
  add({"large", 10, 1, 256, 128, 2048}, {1, 3, 16, 17, 40});
  add({.name = "small"}, {1, 7, 33});
  // A lone row from every start, in a window of several groups.
  for (int i = 0; i < static_cast<int>(Starts(1).size()); ++i) {
    const std::string name = "lone_from_start_" + std::to_string(i);
    cases.push_back({.name = name, .window = 600, .rows = 1, .first_start = i});
  }
  add({"dim_48", 4, 1, 48, 24, 300}, {9});
  add({"dim_128", 8, 2, 128, 64, 700}, {21});
  add({"dim_80", 16, 1, 80, 80}, {1, 12});
  add({"dim_144", 5, 1, 144, 72, 513}, {11});
  add({"least", 1, 1, 16, 0, 1}, {1, 20});
  add({"three_kv_heads", 6, 3}, {8});
  add({"each_kv_head", 3, 3, 32, 32, 256}, {22});
  add({.name = "two_more_blocks", .window = 255, .extra_blocks = 2}, {22});
  add({.name = "many_more_blocks", .heads = 6, .kv_heads = 3, .extra_blocks = 9}, {22});
  add({.name = "strided", .extra_stride = 8}, {12});
  add({"strided_large", 10, 1, 256, 128, 2048, 0, 40}, {12});
  add({"strided_dim_48", 4, 2, 48, 24, 300, 0, 24}, {12});
  add({.name = "not_rotated", .rotary_dims = 0}, {12});
  add({.name = "sharp", .window = 1000, .sharpness = 40.0f}, {22});
  for (const int window : {63, 64, 65, 512}) {
    add({.name = "window_" + std::to_string(window), .window = window}, {22});
  }
  // One step may begin while the one before is still at its sums.
  add({.name = "layers", .window = 600, .layers = 4}, {1, 12});
  add({"layers_large", 10, 1, 256, 128, 2048, 0, 0, 0, 1.0f, 0, 3}, {1, 12});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, AttentionStepCuda, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

// Params that are accepted but for the pointers' memory, which is never touched.
class AttentionStepRefusals : public ::testing::Test {
 protected:
  static constexpr int kRows = 5, kMostHeads = 17;

  AttentionStepParams Params(int heads, int head_dim, int window, int rotary_dims = 8) {
    AttentionStepParams p;
    p.rope.num_rows = kRows;
    p.rope.heads = heads + 1;
    p.rope.plain_heads = 1;
    p.rope.head_dim = p.attention.head_dim = head_dim;
    p.rope.rotary_dims = rotary_dims;
    p.rope.x_stride = (heads + 2) * head_dim;
    p.rope.x = floats_;
    p.rope.cos = p.rope.sin = table_;
    p.attention.rows = {kRows, kRows, ints_, ints_, longs_, ints_, 1};
    p.attention.heads = heads;
    p.attention.kv_heads = 1;
    p.attention.window = window;
    p.attention.ring_blocks = WindowBlocks(window);
    p.attention.scale = 0.5f;
    p.attention.out_stride = heads * head_dim;
    p.attention.k_slot_stride = p.attention.v_slot_stride =
        int64_t{p.attention.ring_blocks} * head_dim * kGridTokens;
    p.attention.num_slots = kRows;
    p.attention.k_ring_bf16 = p.attention.v_ring_bf16 = ring_;
    p.attention.out_bf16 = out_;
    return p;
  }
  absl::Status Refusal(const AttentionStepParams& p) {
    EXPECT_FALSE(CanAttentionStep(p, context_));
    return AttentionStep(p, context_);
  }

  alignas(16) float floats_[kRows * (kMostHeads + 2) * 64] = {};
  alignas(16) float table_[16] = {};
  alignas(16) BF16 out_[kRows * kMostHeads * 64 + 16];
  alignas(16) BF16 ring_[16];
  int32_t ints_[kRows + 1] = {};
  int64_t longs_[kRows] = {};
  Context context_;
};

TEST_F(AttentionStepRefusals, Cpu) {
  const auto pool = MakePool(1);
  context_ = {Device::kCpu, pool.get()};
  EXPECT_TRUE(absl::IsUnimplemented(Refusal(Params(4, 64, 100))));
}

TEST_F(AttentionStepRefusals, NoQueue) {
  context_ = {Device::kCuda, nullptr};
  const absl::Status status = Refusal(Params(4, 64, 100));
  // Without a queue, or not in this build.
  EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status;
}

TEST_F(AttentionStepRefusals, WhatItDoesNotTake) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  context_ = {Device::kCuda, nullptr, TestQueue()};
  for (const AttentionStepParams& taken :
       {Params(4, 64, 100), Params(16, 64, 100), Params(4, 256, 100), Params(4, 16, 100),
        Params(4, 64, 8 * kSplitBlocks * kGridTokens), Params(4, 64, 100, 0)}) {
    EXPECT_TRUE(CanAttentionStep(taken, context_));
  }
  const auto expect_refused = [this](const AttentionStepParams& p) {
    const absl::Status status = Refusal(p);
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  };
  const auto expect_change_refused = [&](auto change) {
    AttentionStepParams p = Params(4, 64, 100);
    change(p.rope, p.attention);
    expect_refused(p);
  };
  expect_refused(Params(kMostHeads, 64, 100));
  expect_refused(Params(4, 24, 100));
  expect_refused(Params(4, 40, 100));
  expect_refused(Params(4, 64, 4096));
  expect_refused(Params(4, 64, 100, 4));
  expect_change_refused([](auto&, auto& a) { a.rows.max_seq_rows = 2; });
  expect_change_refused([](auto&, auto& a) { a.rows.num_seqs = 4; });
  expect_change_refused([](auto& rope, auto&) { ++rope.x; });
  expect_change_refused([](auto& rope, auto&) { rope.x_stride += 2; });
  expect_change_refused([](auto& rope, auto&) { ++rope.cos; });
  expect_change_refused([](auto&, auto& a) { a.out_bf16 += 2; });
  expect_change_refused([](auto&, auto& a) { a.out_stride += 2; });
  expect_change_refused([](auto&, auto& a) { a.k_ring_bf16 += 4; });
  expect_change_refused([](auto&, auto& a) { a.v_ring_bf16 += 4; });
  expect_change_refused([](auto&, auto& a) { a.k_slot_stride += 4; });
  expect_change_refused([](auto&, auto& a) { a.v_slot_stride += 4; });
  expect_change_refused([](auto&, auto& a) {
    a.k_slot_stride = a.v_slot_stride *= 1 << 14;
    a.ring_blocks = (1 << 14) + 1;
  });
}

TEST_F(AttentionStepRefusals, NamesTheTensor) {
  if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  context_ = {Device::kCuda, nullptr, TestQueue()};
  const auto refusal = [&](auto change) {
    AttentionStepParams p = Params(4, 64, 100);
    change(p.rope, p.attention);
    const absl::Status status = AttentionStep(p, context_);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](auto&, auto& a) { a.k_ring_bf16 = nullptr; }),
              HasSubstr("k_ring_bf16: expected a tensor"));
  EXPECT_THAT(refusal([](auto& rope, auto&) { rope.x_stride = 383; }),
              HasSubstr("x_stride: expected >= 384, found 383"));
  for (int RopeParams::*const field : {&RopeParams::num_rows, &RopeParams::heads,
                                       &RopeParams::plain_heads, &RopeParams::head_dim}) {
    EXPECT_THAT(refusal([field](auto& rope, auto&) { --(rope.*field); }),
                HasSubstr("rope: expected the attention's rows and heads"));
  }
  EXPECT_THAT(refusal([this](auto&, auto& a) { a.out_bf16 = reinterpret_cast<BF16*>(floats_); }),
              HasSubstr("out_bf16: expected memory apart from x"));
}

}  // namespace
}  // namespace reprise::kernels
