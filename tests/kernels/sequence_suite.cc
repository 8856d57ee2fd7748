#include "tests/kernels/sequence_suite.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/kernels/mirror.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {
namespace {

constexpr int kSlots = 20;
constexpr int kPaddingRows = 3;
constexpr uint8_t kUnwritten = 0xff;  // bytes of a NaN, in float32 and in bf16

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

// A context and what it borrows.
struct Runner {
  Runner(Device device, int threads) : pool(MakePool(threads)) {
    context.device = device;
    context.pool = pool.get();
    if (device == Device::kCuda) context.queue = TestQueue();
  }
  std::unique_ptr<ThreadPool> pool;
  Context context;
};

#define SKIP_WITHOUT_DEVICE(test)                                 \
  if ((test).device == Device::kCuda && TestQueue() == nullptr) { \
    GTEST_SKIP() << "no CUDA device";                             \
  }

void ExpectCountersZero(DeviceQueue& queue) {
  std::vector<uint32_t> counters(DeviceQueue::kCounters, 1);
  ASSERT_TRUE(queue.Download(counters.data(), queue.counters(), counters.size() * 4).ok());
  ASSERT_TRUE(queue.Synchronize().ok());
  EXPECT_EQ(std::count(counters.begin(), counters.end(), 0u), DeviceQueue::kCounters);
}

void RunStep(const SequenceOp& op, const Step& step, std::vector<uint8_t>* state, int num_slots,
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
                         std::vector<uint8_t>* state) {
  RunResult result = RunFeeds(op, {{0, slot, test.tokens, chunks}}, kSlots, context);
  *state = result.states[0];
  return result.outputs[0];
}

}  // namespace

RunResult RunFeeds(const SequenceOp& op, const std::vector<Feed>& feeds, int num_slots,
                   const Context& context, bool padding) {
  RunResult result;
  const int64_t slot_bytes = op.slot_bytes(context.device);
  const int64_t state_bytes = op.state_bytes(context.device);
  std::vector<uint8_t> state(num_slots * slot_bytes, kUnwritten);
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
    const uint8_t* slot = state.data() + feed.slot * slot_bytes;
    result.states[feed.id].assign(slot, slot + state_bytes);
    used.insert(feed.slot);
  }
  for (int s = 0; s < num_slots; ++s) {
    const int64_t from = used.count(s) != 0 ? state_bytes : 0;
    for (int64_t i = from; i < slot_bytes; ++i) {
      if (state[s * slot_bytes + i] == kUnwritten) continue;
      ADD_FAILURE() << "byte " << i << " of slot " << s << " was written";
      break;
    }
  }
  if (context.device == Device::kCuda) ExpectCountersZero(*context.queue);
  return result;
}

void ExpectMatchesReference(const SequenceCase& test) {
  SKIP_WITHOUT_DEVICE(test);
  const std::unique_ptr<SequenceOp> op = test.make();
  const Runner runner(test.device, 2);
  const auto targets = test.device == Device::kCpu ? AllTargets() : std::vector<int64_t>{0};
  for (const int64_t target : targets) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    std::vector<uint8_t> state;
    const std::vector<float> output = Alone(test, *op, 3, {test.tokens}, runner.context, &state);
    EXPECT_TRUE(Near(output, op->Reference(0, test.tokens, test.device), test.tolerance));
  }
}

void ExpectSameBitsHoweverChunked(const SequenceCase& test) {
  SKIP_WITHOUT_DEVICE(test);
  const std::unique_ptr<SequenceOp> op = test.make();
  const Runner runner(test.device, 2);
  std::vector<uint8_t> whole_state;
  const std::vector<float> whole = Alone(test, *op, 0, {test.tokens}, runner.context, &whole_state);
  std::vector<std::vector<int64_t>> plans = {
      {1}, {7}, {63}, {64}, {65}, {3, 61, 1, 1, 62, 5, 128, 2}, {100, 1, 27}, {1, 130, 1, 64}};
  if (!test.plans.empty()) plans = test.plans;
  for (const std::vector<int64_t>& plan : plans) {
    SCOPED_TRACE(::testing::PrintToString(plan));
    std::vector<uint8_t> state;
    const std::vector<float> output = Alone(test, *op, 0, plan, runner.context, &state);
    EXPECT_TRUE(testing::BitwiseEqual(output, whole, {test.tokens, op->out_dim()}));
    EXPECT_TRUE(testing::BitwiseEqual(state, whole_state));
  }
}

void ExpectSameBitsInBatch(const SequenceCase& test) {
  SKIP_WITHOUT_DEVICE(test);
  const std::unique_ptr<SequenceOp> op = test.make();
  const Runner runner(test.device, 2);
  // 17 sequences at odd positions: some decode, some prefill, some come late.
  std::vector<Feed> feeds;
  for (int id = 0; id < 17; ++id) {
    const int64_t tokens = id == 0 ? test.tokens : 1 + (test.tokens * (id * 7 % 17)) / 17;
    feeds.push_back(
        {id, (id * 3 + 1) % kSlots, tokens, {1 + id * 5 % 9, 1, 1 + id * 13 % 70}, id % 4});
  }
  std::rotate(feeds.begin(), feeds.begin() + 6, feeds.end());
  RunResult batch = RunFeeds(*op, feeds, kSlots, runner.context, /*padding=*/true);
  for (const Feed& feed : feeds) {
    SCOPED_TRACE(feed.id);
    Feed lone = feed;
    lone.delay = 0;
    lone.chunks = {feed.tokens};
    RunResult alone = RunFeeds(*op, {lone}, kSlots, runner.context);
    EXPECT_TRUE(testing::BitwiseEqual(batch.outputs[feed.id], alone.outputs[feed.id],
                                      {feed.tokens, op->out_dim()}));
    EXPECT_TRUE(testing::BitwiseEqual(batch.states[feed.id], alone.states[feed.id]));
  }
}

void ExpectSameBitsForThreadsSlotsAndTargets(const SequenceCase& test) {
  SKIP_WITHOUT_DEVICE(test);
  const std::unique_ptr<SequenceOp> op = test.make();
  const std::vector<int64_t> chunks = {5, 1, 70, 1, 40};
  const Runner one(test.device, 1);
  std::vector<uint8_t> expected_state;
  const std::vector<float> expected = Alone(test, *op, 0, chunks, one.context, &expected_state);
  const auto check = [&](int threads, int slot) {
    const Runner runner(test.device, threads);
    std::vector<uint8_t> state;
    const std::vector<float> output = Alone(test, *op, slot, chunks, runner.context, &state);
    EXPECT_TRUE(testing::BitwiseEqual(output, expected, {test.tokens, op->out_dim()}))
        << threads << " threads, slot " << slot;
    EXPECT_TRUE(testing::BitwiseEqual(state, expected_state));
  };
  check(1, 5);
  check(3, 19);
  if (test.device != Device::kCpu) return;
  check(2, 0);
  check(3, 0);
  for (const int64_t target : FusedTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    check(2, 5);
  }
}

void ExpectSameBitsThroughGraphs(const SequenceCase& test) {
  SKIP_WITHOUT_DEVICE(test);
  const std::unique_ptr<SequenceOp> op = test.make();
  const std::vector<int64_t> chunks = {5, 1, 70, 1, 40};
  const Runner runner(test.device, 1);
  std::vector<uint8_t> expected_state, state;
  const std::vector<float> expected = Alone(test, *op, 0, chunks, runner.context, &expected_state);
  const ScopedGraphs graphs;
  const std::vector<float> output = Alone(test, *op, 0, chunks, runner.context, &state);
  EXPECT_TRUE(testing::BitwiseEqual(output, expected, {test.tokens, op->out_dim()}));
  EXPECT_TRUE(testing::BitwiseEqual(state, expected_state));
}

}  // namespace reprise::kernels
