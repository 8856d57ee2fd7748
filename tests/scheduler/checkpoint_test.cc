// Checkpoints, and states that arrive while their request waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

using ::testing::HasSubstr;
using Kept = RecordingObserver::KeptCheckpoint;

class CheckpointTest : public SchedulerFixture {};

// Goes on from `kept`, which belongs to a request with `prompt` and `max_tokens`.
Request Resumed(const Request& first, const Kept& kept) {
  Request next = first;
  next.state = kept.state;
  next.prompt.assign(first.prompt.begin() + kept.prompt_tokens, first.prompt.end());
  next.earlier_prompt.assign(first.prompt.begin(), first.prompt.begin() + kept.prompt_tokens);
  next.max_tokens = first.max_tokens - static_cast<int>(kept.tokens_before);
  next.checkpoint_every_tokens = 0;
  return next;
}

TEST_F(CheckpointTest, EveryCheckpointGoesOnToTheSameEnd) {
  for (const bool sampled : {false, true}) {
    Request request = MakeRequest(RandomTokens(100, 1), 40);
    request.checkpoint_every_tokens = 10;
    if (sampled) {
      request.sampling.temperature = 1.0f;
      request.sampling.seed = 5;
      request.sampling.repetition_penalty = 1.5f;
      request.sampling.frequency_penalty = 0.5f;
    }
    const Request copy = request;
    const Submitted beside = Submit(MakeRequest(RandomTokens(90, 2), 3));
    const Submitted whole = Submit(std::move(request));
    RunUntilIdle();
    const std::vector<int32_t> tokens = whole.observer->tokens();
    const std::vector<Kept> kept = whole.observer->checkpoints();
    ASSERT_GE(kept.size(), 8u);
    EXPECT_TRUE(beside.observer->checkpoints().empty());
    EXPECT_EQ(whole.observer->result().timeline.checkpoints, static_cast<int>(kept.size()));
    std::vector<int32_t> all = copy.prompt;
    all.insert(all.end(), tokens.begin(), tokens.end());
    std::vector<int32_t> heard;
    int in_prompt = 0, in_answer = 0;
    for (const Kept& checkpoint : kept) {
      EXPECT_GE(checkpoint.new_tokens.size(), 10u);
      heard.insert(heard.end(), checkpoint.new_tokens.begin(), checkpoint.new_tokens.end());
      ASSERT_EQ(checkpoint.state.token_count(), static_cast<int64_t>(heard.size()));
      EXPECT_EQ(heard, std::vector<int32_t>(all.begin(), all.begin() + heard.size()));
      EXPECT_EQ(checkpoint.state.pending, heard.back());
      EXPECT_EQ(checkpoint.prompt_tokens, std::min<int64_t>(heard.size(), 100));
      EXPECT_EQ(checkpoint.tokens_before, heard.size() - checkpoint.prompt_tokens);
      ++(checkpoint.tokens_before == 0 ? in_prompt : in_answer);
      Request next = Resumed(copy, checkpoint);
      next.earlier_answer.assign(tokens.begin(), tokens.begin() + checkpoint.tokens_before);
      const Submitted rest = Submit(std::move(next));
      RunUntilIdle();
      std::vector<int32_t> joined(tokens.begin(), tokens.begin() + checkpoint.tokens_before);
      for (int32_t token : rest.observer->tokens()) joined.push_back(token);
      EXPECT_EQ(joined, tokens);
    }
    EXPECT_GT(in_prompt, 2);
    EXPECT_GT(in_answer, 2);
  }
}

TEST_F(CheckpointTest, IsHeardInItsStep) {
  Request request = MakeRequest(RandomTokens(50, 1), 20);
  request.checkpoint_every_tokens = 4;
  const Submitted submitted = Submit(std::move(request));
  while (!scheduler_->Idle()) {
    scheduler_->Step();
    ASSERT_EQ(static_cast<int64_t>(submitted.observer->checkpoints().size()),
              scheduler_->stats().checkpoints);
  }
  EXPECT_GT(scheduler_->stats().checkpoints, 5);
}

TEST_F(CheckpointTest, CountsFromTheStateThatItStartsWith) {
  const Submitted first = Submit(MakeRequest(RandomTokens(30, 3), 10));
  RunUntilIdle();
  Request request = MakeRequest(RandomTokens(25, 4), 20);
  request.state = first.observer->result().state;
  request.checkpoint_every_tokens = 7;
  const Submitted second = Submit(std::move(request));
  RunUntilIdle();
  const std::vector<Kept> kept = second.observer->checkpoints();
  ASSERT_FALSE(kept.empty());
  int64_t count = 40;
  for (const Kept& checkpoint : kept) {
    count += static_cast<int64_t>(checkpoint.new_tokens.size());
    EXPECT_EQ(checkpoint.state.token_count(), count);
    EXPECT_EQ(checkpoint.prompt_tokens, std::min<int64_t>(count - 40, 25));
  }
}

TEST_F(CheckpointTest, NoneAfterTheEnd) {
  Request request = MakeRequest(RandomTokens(4, 5), 4);
  request.checkpoint_every_tokens = 4;
  const Submitted submitted = Submit(std::move(request));
  RunUntilIdle();
  // 4 + 1 tokens after the prompt's step; 4 + 4 would be due with the last token.
  ASSERT_EQ(submitted.observer->checkpoints().size(), 1u);
  EXPECT_EQ(submitted.observer->checkpoints()[0].state.token_count(), 5);
}

class StateSourceTest : public SchedulerFixture {
 protected:
  SequenceState StateAfter(const std::vector<int32_t>& prompt) {
    const Submitted fed = Submit(MakeRequest(prompt, 0));
    RunUntilIdle();
    return *fed.observer->result().state;
  }
};

TEST_F(StateSourceTest, WaitsInItsPlaceWithoutBlockingOthers) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 1;
  Start(options);
  const std::vector<int32_t> prompt = RandomTokens(30, 6);
  const SequenceState state = StateAfter(prompt);
  std::vector<int> order;
  const auto submit = [&](int index, Request request) {
    const Submitted submitted = Submit(std::move(request));
    submitted.observer->on_token = [&order, index](const kernels::SampledToken&) {
      order.push_back(index);
      return RequestObserver::Verdict::kContinue;
    };
    return submitted;
  };
  Request loading = MakeRequest({}, 5);
  const auto future = std::make_shared<StateFuture>();
  loading.state_source = future;
  const Submitted first = submit(0, std::move(loading));
  const Submitted second = submit(1, MakeRequest(RandomTokens(5, 7), 5));
  const Submitted third = submit(2, MakeRequest(RandomTokens(5, 8), 5));
  for (int i = 0; i < 3; ++i) scheduler_->Step();
  EXPECT_EQ(order, (std::vector<int>{1, 1, 1}));
  clock_.Advance(absl::Milliseconds(300));
  future->Set(state);
  RunUntilIdle();
  // Its place was before the third's.
  EXPECT_EQ(order, (std::vector<int>{1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2}));
  EXPECT_EQ(first.observer->tokens(), model_.Continue(prompt, 5));
  EXPECT_EQ(first.observer->result().timeline.load, absl::Milliseconds(300));
}

TEST_F(StateSourceTest, AFailedLoadEndsTheRequest) {
  Request loading = MakeRequest({1, 2}, 5);
  loading.state_source = std::make_shared<StateFuture>();
  const std::shared_ptr<StateFuture> future = loading.state_source;
  const Submitted submitted = Submit(std::move(loading));
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_EQ(submitted.observer->finishes(), 0);
  future->Set(absl::DataLossError("chunk 3"));
  future->Set(SequenceState());  // too late: the first counts
  scheduler_->Step();
  ASSERT_EQ(submitted.observer->finishes(), 1);
  EXPECT_EQ(submitted.observer->result().status, absl::DataLossError("chunk 3"));
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(StateSourceTest, ALoadedStateIsValidated) {
  const auto message = [&](Request request, SequenceState state) {
    request.state_source = std::make_shared<StateFuture>();
    request.state_source->Set(std::move(state));
    const Submitted submitted = Submit(std::move(request));
    scheduler_->Step();
    EXPECT_EQ(submitted.observer->finishes(), 1);
    EXPECT_EQ(submitted.observer->result().status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(submitted.observer->result().status.message());
  };
  EXPECT_THAT(message(MakeRequest({1}, 1), SequenceState{{1, 2}, 3, 1}), HasSubstr("state.image"));
  EXPECT_THAT(message(MakeRequest({1}, 1), SequenceState{{}, 0, 99}), HasSubstr("state.pending"));
  EXPECT_THAT(message(MakeRequest({}, 1), SequenceState()), HasSubstr("prompt"));
  Request twice = MakeRequest({1}, 1);
  twice.state = SequenceState();
  twice.state_source = std::make_shared<StateFuture>();
  twice.observer = std::make_shared<RecordingObserver>();
  EXPECT_THAT(std::string(scheduler_->Submit(std::move(twice)).status().message()),
              HasSubstr("state"));
}

TEST_F(StateSourceTest, CancelAndDeadlineEndWhatIsStillLoading) {
  Request cancelled = MakeRequest({1}, 5), expired = MakeRequest({1}, 5);
  const auto future = cancelled.state_source = std::make_shared<StateFuture>();
  expired.state_source = std::make_shared<StateFuture>();
  expired.deadline = clock_.Now() + absl::Seconds(1);
  const Submitted a = Submit(std::move(cancelled)), b = Submit(std::move(expired));
  scheduler_->Step();
  scheduler_->Cancel(a.id);
  clock_.Advance(absl::Seconds(2));
  scheduler_->Step();
  EXPECT_EQ(a.observer->result().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(b.observer->result().status.code(), absl::StatusCode::kDeadlineExceeded);
  future->Set(SequenceState());  // nobody waits any more
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_EQ(a.observer->finishes(), 1);
  scheduler_.reset();
}

TEST_F(StateSourceTest, TheFutureMayOutliveTheScheduler) {
  Request loading = MakeRequest({1}, 5);
  const auto future = loading.state_source = std::make_shared<StateFuture>();
  const Submitted submitted = Submit(std::move(loading));
  scheduler_.reset();
  EXPECT_EQ(submitted.observer->result().status.code(), absl::StatusCode::kCancelled);
  future->Set(SequenceState());
}

}  // namespace
}  // namespace reprise::scheduler
