#include "tests/kernels/sequence_suite.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

constexpr int kSlots = 20;
constexpr int kPaddingRows = 3;

struct Step {
  std::vector<int32_t> offsets = {0};
  std::vector<int32_t> slots;
  std::vector<int64_t> positions;
  std::vector<RowId> ids;

  void Add(int id, int slot, int64_t position, int64_t count) {
    for (int64_t t = 0; t < count; ++t) ids.push_back({id, position + t});
    offsets.push_back(static_cast<int32_t>(ids.size()));
    slots.push_back(slot);
    positions.push_back(position);
  }
  RaggedRows rows() const {
    return {static_cast<int32_t>(ids.size()), static_cast<int32_t>(slots.size()), offsets.data(),
            slots.data(), positions.data()};
  }
};

void RunStep(const SequenceOp& op, const Step& step, std::vector<float>* state, int num_slots,
             const Context& context, RunResult* result) {
  const int64_t stride = op.out_stride();
  std::vector<float> out(step.ids.size() * stride, kNaN);
  const absl::Status status =
      op.Run(step.rows(), step.ids, state->data(), num_slots, out.data(), context);
  ASSERT_TRUE(status.ok()) << status;
  for (size_t r = 0; r < step.ids.size(); ++r) {
    const float* row = out.data() + r * stride;
    if (step.ids[r].id < 0) {
      EXPECT_EQ(std::vector<float>(row, row + op.out_dim()), std::vector<float>(op.out_dim()));
    } else {
      std::vector<float>& output = result->outputs[step.ids[r].id];
      output.insert(output.end(), row, row + op.out_dim());
    }
    for (int64_t i = op.out_dim(); i < stride; ++i) {
      ASSERT_TRUE(std::isnan(row[i])) << "row " << r << " was written beyond its end";
    }
  }
}

std::vector<float> Alone(const SequenceCase& test, const SequenceOp& op, int slot,
                         const std::vector<int64_t>& chunks, const Context& context,
                         std::vector<float>* state) {
  RunResult result = RunFeeds(op, {{0, slot, test.tokens, chunks}}, kSlots, context);
  *state = result.states[0];
  return result.outputs[0];
}

}  // namespace

RunResult RunFeeds(const SequenceOp& op, const std::vector<Feed>& feeds, int num_slots,
                   const Context& context, bool padding) {
  RunResult result;
  std::vector<float> state(num_slots * op.slot_floats(), kNaN);
  std::vector<int64_t> fed(feeds.size(), 0);
  std::vector<size_t> next(feeds.size(), 0);
  bool busy = true;
  for (int number = 0; busy; ++number) {
    Step step;
    busy = false;
    for (size_t f = 0; f < feeds.size(); ++f) {
      if (padding && f == feeds.size() / 2) step.Add(-1, -1, 5, kPaddingRows);
      const Feed& feed = feeds[f];
      if (fed[f] == feed.tokens) continue;
      busy = true;
      if (number < feed.delay) continue;
      const int64_t chunk = feed.chunks[next[f]++ % feed.chunks.size()];
      const int64_t count = std::min(chunk, feed.tokens - fed[f]);
      step.Add(feed.id, feed.slot, fed[f], count);
      fed[f] += count;
    }
    if (busy) RunStep(op, step, &state, num_slots, context, &result);
    if (::testing::Test::HasFatalFailure()) return result;
  }
  std::set<int> used;
  for (const Feed& feed : feeds) {
    const float* slot = state.data() + feed.slot * op.slot_floats();
    result.states[feed.id].assign(slot, slot + op.state_floats());
    used.insert(feed.slot);
  }
  for (int s = 0; s < num_slots; ++s) {
    const int64_t from = used.count(s) != 0 ? op.state_floats() : 0;
    for (int64_t i = from; i < op.slot_floats(); ++i) {
      if (std::isnan(state[s * op.slot_floats() + i])) continue;
      ADD_FAILURE() << "float " << i << " of slot " << s << " was written";
      break;
    }
  }
  return result;
}

void ExpectMatchesReference(const SequenceCase& test) {
  const std::unique_ptr<SequenceOp> op = test.make();
  const auto pool = MakePool(2);
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    std::vector<float> state;
    const std::vector<float> output =
        Alone(test, *op, 3, {test.tokens}, {Device::kCpu, pool.get()}, &state);
    EXPECT_TRUE(Near(output, op->Reference(0, test.tokens), test.tolerance));
  }
}

void ExpectSameBitsHoweverChunked(const SequenceCase& test) {
  const std::unique_ptr<SequenceOp> op = test.make();
  const auto pool = MakePool(2);
  const Context context{Device::kCpu, pool.get()};
  std::vector<float> whole_state;
  const std::vector<float> whole = Alone(test, *op, 0, {test.tokens}, context, &whole_state);
  const std::vector<std::vector<int64_t>> plans = {
      {1}, {7}, {63}, {64}, {65}, {3, 61, 1, 1, 62, 5, 128, 2}, {100, 1, 27}, {1, 130, 1, 64}};
  for (const std::vector<int64_t>& plan : plans) {
    SCOPED_TRACE(::testing::PrintToString(plan));
    std::vector<float> state;
    const std::vector<float> output = Alone(test, *op, 0, plan, context, &state);
    EXPECT_TRUE(testing::BitwiseEqual(output, whole, {test.tokens, op->out_dim()}));
    EXPECT_TRUE(testing::BitwiseEqual(state, whole_state));
  }
}

void ExpectSameBitsInBatch(const SequenceCase& test) {
  const std::unique_ptr<SequenceOp> op = test.make();
  const auto pool = MakePool(2);
  const Context context{Device::kCpu, pool.get()};
  // 17 sequences at odd positions: some decode, some prefill, some come late.
  std::vector<Feed> feeds;
  for (int id = 0; id < 17; ++id) {
    const int64_t tokens = id == 0 ? test.tokens : 1 + (test.tokens * (id * 7 % 17)) / 17;
    feeds.push_back(
        {id, (id * 3 + 1) % kSlots, tokens, {1 + id * 5 % 9, 1, 1 + id * 13 % 70}, id % 4});
  }
  std::rotate(feeds.begin(), feeds.begin() + 6, feeds.end());
  RunResult batch = RunFeeds(*op, feeds, kSlots, context, /*padding=*/true);
  for (const Feed& feed : feeds) {
    SCOPED_TRACE(feed.id);
    Feed lone = feed;
    lone.delay = 0;
    lone.chunks = {feed.tokens};
    RunResult alone = RunFeeds(*op, {lone}, kSlots, context);
    EXPECT_TRUE(testing::BitwiseEqual(batch.outputs[feed.id], alone.outputs[feed.id],
                                      {feed.tokens, op->out_dim()}));
    EXPECT_TRUE(testing::BitwiseEqual(batch.states[feed.id], alone.states[feed.id]));
  }
}

void ExpectSameBitsForThreadsSlotsAndTargets(const SequenceCase& test) {
  const std::unique_ptr<SequenceOp> op = test.make();
  const std::vector<int64_t> chunks = {5, 1, 70, 1, 40};
  const auto one = MakePool(1);
  std::vector<float> expected_state;
  const std::vector<float> expected =
      Alone(test, *op, 0, chunks, {Device::kCpu, one.get()}, &expected_state);
  const auto check = [&](int threads, int slot) {
    const auto pool = MakePool(threads);
    std::vector<float> state;
    const std::vector<float> output =
        Alone(test, *op, slot, chunks, {Device::kCpu, pool.get()}, &state);
    EXPECT_TRUE(testing::BitwiseEqual(output, expected, {test.tokens, op->out_dim()}))
        << threads << " threads, slot " << slot;
    EXPECT_TRUE(testing::BitwiseEqual(state, expected_state));
  };
  check(2, 0);
  check(3, 0);
  check(1, 5);
  check(3, 19);
  for (const int64_t target : FusedTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    check(2, 5);
  }
}

}  // namespace reprise::kernels
