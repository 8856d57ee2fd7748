// Cancel, deadline and drain: what ends, when, and with which state.
#include <gtest/gtest.h>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class EndingTest : public SchedulerFixture {
 protected:
  static SchedulerOptions OneSlot() {
    SchedulerOptions options = SmallOptions();
    options.num_slots = 1;
    return options;
  }

  static Request Partial(std::vector<int32_t> prompt) {
    Request request = MakeRequest(std::move(prompt), 6);
    request.keep_partial = true;
    return request;
  }

  // The rest of `prompt` after the state in `result` leads where the whole prompt leads.
  void CheckGoesOn(const RequestResult& result, const std::vector<int32_t>& prompt) {
    ASSERT_TRUE(result.state.has_value());
    EXPECT_EQ(result.state->token_count(), result.prompt_tokens_in_state);
    EXPECT_GT(result.prompt_tokens_in_state, 0);
    EXPECT_LT(result.prompt_tokens_in_state, static_cast<int64_t>(prompt.size()));
    EXPECT_EQ(result.state->pending, prompt[result.prompt_tokens_in_state - 1]);
    Start(SmallOptions());
    Request next = MakeRequest({prompt.begin() + result.prompt_tokens_in_state, prompt.end()}, 6);
    next.state = result.state;
    const Submitted rest = Submit(std::move(next));
    RunUntilIdle();
    EXPECT_EQ(rest.observer->tokens(), model_.Continue(prompt, 6));
  }
};

TEST_F(EndingTest, ACancelledPromptKeepsWhatWasComputedWhenAsked) {
  const std::vector<int32_t> prompt = RandomTokens(200, 1);
  const Submitted submitted = Submit(Partial(prompt));
  for (int i = 0; i < 3; ++i) scheduler_->Step();
  scheduler_->Cancel(submitted.id);
  scheduler_->Step();
  const RequestResult result = submitted.observer->result();
  EXPECT_EQ(result.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(result.computed_tokens, 3 * 32);
  EXPECT_EQ(result.prompt_tokens_in_state, 3 * 32 + 1);
  CheckGoesOn(result, prompt);
}

TEST_F(EndingTest, SoDoesOneWhoseDeadlinePasses) {
  const std::vector<int32_t> prompt = RandomTokens(200, 2);
  Request request = Partial(prompt);
  request.deadline = clock_.Now() + absl::Seconds(1);
  const Submitted submitted = Submit(std::move(request));
  scheduler_->Step();
  clock_.Advance(absl::Seconds(2));
  scheduler_->Step();
  EXPECT_EQ(submitted.observer->result().status.code(), absl::StatusCode::kDeadlineExceeded);
  CheckGoesOn(submitted.observer->result(), prompt);
}

TEST_F(EndingTest, ADeadlineEndsAtItsInstant) {
  Request request = MakeRequest(RandomTokens(5, 2), 1000);
  request.deadline = clock_.Now() + absl::Seconds(1);
  const Submitted submitted = Submit(std::move(request));
  clock_.Advance(absl::Seconds(1) - absl::Nanoseconds(1));
  scheduler_->Step();
  EXPECT_EQ(submitted.observer->finishes(), 0);
  clock_.Advance(absl::Nanoseconds(1));
  scheduler_->Step();
  EXPECT_EQ(submitted.observer->finishes(), 1);
}

// 32 rows a second, as measured: who cannot make it is refused; what is in a state already, because
// it was computed or found, is ahead of nobody.
TEST_F(EndingTest, ADeadlineIsJudgedByWhatIsLeftToCompute) {
  SchedulerOptions options = SmallOptions();
  options.prefix_cache = *PrefixCache::Create(&clock_, {});
  Start(options);
  model_.on_forward = [this](const models::RaggedBatch&) {
    clock_.Advance(absl::Seconds(1));
    return absl::OkStatus();
  };
  const auto hurried = [&](int prompt_tokens, absl::Duration patience, uint32_t seed) {
    Request request = MakeRequest(RandomTokens(prompt_tokens, seed), 1);
    request.deadline = clock_.Now() + patience;
    request.observer = std::make_shared<RecordingObserver>();
    const absl::StatusOr<RequestId> id = scheduler_->Submit(std::move(request));
    if (id.ok()) scheduler_->Cancel(*id);
    return id.status();
  };
  const std::vector<int32_t> prompt = RandomTokens(320, 30);
  const Submitted computed = Submit(MakeRequest(prompt, 1000));
  while (computed.observer->tokens().empty()) scheduler_->Step();
  EXPECT_EQ(GetSchedulerError(hurried(3200, absl::Seconds(20), 31)),
            SchedulerError::kDeadlineUnreachable);
  EXPECT_TRUE(hurried(32, absl::Milliseconds(1200), 32).ok());
  std::vector<int32_t> longer = prompt;
  longer.push_back(1);
  const Submitted found = Submit(MakeRequest(longer, 1000));
  while (found.observer->tokens().empty()) scheduler_->Step();
  EXPECT_TRUE(hurried(32, absl::Milliseconds(1200), 33).ok());
  scheduler_->Cancel(found.id);
  scheduler_->Cancel(computed.id);
  RunUntilIdle();
  EXPECT_EQ(found.observer->result().reuse.cached_tokens, 320);
}

TEST_F(EndingTest, WithoutAProgressThereIsNothingToKeep) {
  Start(OneSlot());
  const Submitted running = Submit(Partial(RandomTokens(200, 3)));
  const Submitted waiting = Submit(Partial(RandomTokens(200, 4)));
  scheduler_->Step();
  scheduler_->Cancel(waiting.id);
  scheduler_->Step();
  EXPECT_EQ(waiting.observer->finishes(), 1);
  EXPECT_FALSE(waiting.observer->result().state.has_value());
  RunUntilIdle();
}

TEST_F(EndingTest, ACancelFromWithinAnEventEndsBeforeTheNextToken) {
  const Submitted submitted = Submit(MakeRequest(RandomTokens(5, 5), 100));
  submitted.observer->on_token = [&](const kernels::SampledToken&) {
    scheduler_->Cancel(submitted.id);
    return RequestObserver::Verdict::kContinue;
  };
  RunUntilIdle();
  EXPECT_EQ(submitted.observer->result().generated.size(), 1u);
  EXPECT_EQ(submitted.observer->result().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(EndingTest, ADrainSendsWaitingOnesAwayAtOnceAndLetsTheOthersFinish) {
  Start(OneSlot());
  const std::vector<int32_t> prompt = RandomTokens(5, 6);
  const Submitted running = Submit(MakeRequest(prompt, 10));
  scheduler_->Step();
  const Submitted waiting = Submit(MakeRequest({1, 2}, 10));
  Request loading = MakeRequest({1, 2}, 10);
  loading.state_source = std::make_shared<StateFuture>();
  const Submitted not_loaded = Submit(std::move(loading));
  scheduler_->Drain(clock_.Now() + absl::Seconds(10));
  scheduler_->Step();
  for (const Submitted* away : {&waiting, &not_loaded}) {
    EXPECT_EQ(away->observer->finishes(), 1);
    const absl::Status status = away->observer->result().status;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(GetSchedulerError(status), SchedulerError::kDraining);
  }
  RunUntilIdle();
  EXPECT_EQ(running.observer->tokens(), model_.Continue(prompt, 10));
  EXPECT_EQ(running.observer->result().reason, FinishReason::kMaxTokens);
}

TEST_F(EndingTest, AtItsEndADrainHandsBackEveryStateThatWasAskedFor) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 2;
  options.time_slice = absl::ZeroDuration();
  Start(options);
  // One that decodes, three in their prompts; two of the four are parked.
  const std::vector<int32_t> a = RandomTokens(5, 7), b = RandomTokens(300, 8),
                             c = RandomTokens(300, 9);
  const auto submit_as = [&](const char* tenant, Request request) {
    request.tenant = tenant;  // tenants take turns
    return Submit(std::move(request));
  };
  const Submitted decoding = submit_as("a", MakeRequest(a, 100));
  const Submitted first = submit_as("b", Partial(b)), second = submit_as("c", Partial(c));
  const Submitted plain = submit_as("d", MakeRequest(RandomTokens(300, 10), 5));
  for (int i = 0; i < 8; ++i) scheduler_->Step();
  EXPECT_EQ(scheduler_->stats().parked, 2);
  scheduler_->Drain(clock_.Now());
  scheduler_->Step();
  EXPECT_TRUE(scheduler_->Idle());
  EXPECT_TRUE(scheduler_->CheckIntegrity().ok());
  const RequestResult drained = decoding.observer->result();
  EXPECT_TRUE(drained.status.ok());
  EXPECT_EQ(drained.reason, FinishReason::kDrained);
  ASSERT_TRUE(drained.state.has_value());
  EXPECT_EQ(drained.state->token_count(), 5 + static_cast<int64_t>(drained.generated.size()));
  EXPECT_EQ(plain.observer->result().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(plain.observer->result().state.has_value());
  for (const auto& [submitted, prompt] : {std::pair(first, b), std::pair(second, c)}) {
    const RequestResult result = submitted.observer->result();
    EXPECT_EQ(GetSchedulerError(result.status), SchedulerError::kDraining);
    CheckGoesOn(result, prompt);
  }
}

TEST_F(EndingTest, EventsOfOneRequestAreCountedOnceInTheStats) {
  Start(OneSlot());
  const Submitted done = Submit(MakeRequest({1, 2}, 2));
  const Submitted cancelled = Submit(MakeRequest({1, 2}, 2));
  scheduler_->Cancel(cancelled.id);
  scheduler_->Cancel(cancelled.id);
  RunUntilIdle();
  scheduler_->Step();
  const SchedulerStats stats = scheduler_->stats();
  EXPECT_EQ(stats.finished, 1);
  EXPECT_EQ(stats.cancelled, 1);
  EXPECT_EQ(stats.waiting + stats.running + stats.parked, 0);
}

}  // namespace
}  // namespace reprise::scheduler
