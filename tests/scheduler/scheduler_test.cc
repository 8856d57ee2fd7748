#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

using ::testing::HasSubstr;
using Verdict = RequestObserver::Verdict;

class SchedulerTest : public SchedulerFixture {};

TEST_F(SchedulerTest, GeneratesWhatTheModelContinues) {
  const std::vector<int32_t> prompt = RandomTokens(50, 1);
  const Submitted request = Submit(MakeRequest(prompt, 20));
  RunUntilIdle();
  EXPECT_EQ(request.observer->finishes(), 1);
  EXPECT_EQ(request.observer->tokens(), model_.Continue(prompt, 20));
  const RequestResult result = request.observer->result();
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.reason, FinishReason::kMaxTokens);
  EXPECT_EQ(result.generated, request.observer->tokens());
  EXPECT_EQ(result.computed_tokens, 50 + 19);  // the last token is pending
  ASSERT_TRUE(result.state.has_value());
  EXPECT_EQ(result.state->position, 69);
  EXPECT_EQ(result.state->pending, result.generated.back());
}

TEST_F(SchedulerTest, ManyRequestsOfAllSizesEachGetWhatTheyWouldGetAlone) {
  std::mt19937 random(5);
  std::vector<Submitted> requests;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<int> lengths;
  for (int i = 0; i < 40; ++i) {
    prompts.push_back(RandomTokens(1 + random() % 90, 100 + i));
    lengths.push_back(1 + random() % 30);
    Request request = MakeRequest(prompts.back(), lengths.back());
    request.tenant = "tenant" + std::to_string(i % 3);
    requests.push_back(Submit(std::move(request)));
    for (unsigned steps = random() % 4; steps > 0; --steps) {
      scheduler_->Step();
      ASSERT_TRUE(scheduler_->CheckIntegrity().ok());
    }
  }
  RunUntilIdle();
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(requests[i].observer->finishes(), 1);
    EXPECT_EQ(requests[i].observer->tokens(), model_.Continue(prompts[i], lengths[i])) << i;
  }
  EXPECT_LE(model_.max_rows_seen, 32);
  EXPECT_EQ(scheduler_->stats().finished, 40);
  EXPECT_EQ(scheduler_->stats().free_slots, 4);
}

TEST_F(SchedulerTest, AStateGoesOnWhereItStopped) {
  const std::vector<int32_t> prompt = RandomTokens(30, 2);
  const std::vector<int32_t> whole = model_.Continue(prompt, 40);
  const Submitted first = Submit(MakeRequest(prompt, 15));
  RunUntilIdle();
  Request next = MakeRequest({}, 25);
  next.state = first.observer->result().state;
  const Submitted second = Submit(std::move(next));
  RunUntilIdle();
  std::vector<int32_t> joined = first.observer->tokens();
  for (int32_t token : second.observer->tokens()) joined.push_back(token);
  EXPECT_EQ(joined, whole);
}

TEST_F(SchedulerTest, ATurnAppendsItsPromptToTheState) {
  const std::vector<int32_t> a = RandomTokens(9, 3), b = RandomTokens(21, 4);
  const Submitted first = Submit(MakeRequest(a, 6));
  RunUntilIdle();
  Request next = MakeRequest(b, 10);
  next.state = first.observer->result().state;
  const Submitted second = Submit(std::move(next));
  RunUntilIdle();
  std::vector<int32_t> all = a;
  for (int32_t token : first.observer->tokens()) all.push_back(token);
  all.insert(all.end(), b.begin(), b.end());
  EXPECT_EQ(second.observer->tokens(), model_.Continue(all, 10));
  EXPECT_EQ(second.observer->result().state->token_count(), static_cast<int64_t>(all.size()) + 10);
}

TEST_F(SchedulerTest, FeedOnlyLeavesTheLastTokenPending) {
  const std::vector<int32_t> prompt = RandomTokens(17, 6);
  const Submitted fed = Submit(MakeRequest(prompt, 0));
  RunUntilIdle();
  const RequestResult result = fed.observer->result();
  ASSERT_TRUE(result.state.has_value());
  EXPECT_EQ(result.state->position, 16);
  EXPECT_EQ(result.state->pending, prompt.back());
  EXPECT_TRUE(fed.observer->tokens().empty());
  Request next = MakeRequest({}, 5);
  next.state = result.state;
  const Submitted second = Submit(std::move(next));
  RunUntilIdle();
  EXPECT_EQ(second.observer->tokens(), model_.Continue(prompt, 5));
}

TEST_F(SchedulerTest, FeedOnlyOfOneTokenNeedsNoForward) {
  const Submitted fed = Submit(MakeRequest({7}, 0));
  RunUntilIdle();
  const RequestResult result = fed.observer->result();
  ASSERT_TRUE(result.state.has_value());
  EXPECT_EQ(result.state->position, 0);
  EXPECT_TRUE(result.state->image.empty());
  EXPECT_EQ(result.state->pending, 7);
  EXPECT_EQ(model_.forwards, 0);
  Request next = MakeRequest({}, 5);
  next.state = result.state;
  const Submitted second = Submit(std::move(next));
  RunUntilIdle();
  EXPECT_EQ(second.observer->tokens(), model_.Continue({7}, 5));
}

TEST_F(SchedulerTest, StopTokenEndsAndStaysPending) {
  const std::vector<int32_t> prompt = RandomTokens(5, 8);
  const std::vector<int32_t> whole = model_.Continue(prompt, 30);
  Request request = MakeRequest(prompt, 30);
  request.stop_tokens = {whole[9]};
  const Submitted submitted = Submit(std::move(request));
  RunUntilIdle();
  const RequestResult result = submitted.observer->result();
  const auto first_at = std::find(whole.begin(), whole.end(), whole[9]) - whole.begin();
  EXPECT_EQ(result.reason, FinishReason::kStopToken);
  EXPECT_EQ(result.stop_token, whole[9]);
  EXPECT_EQ(static_cast<int64_t>(result.generated.size()), first_at + 1);
  EXPECT_EQ(result.state->pending, whole[9]);
}

TEST_F(SchedulerTest, TheObserverCanStop) {
  const Submitted submitted = Submit(MakeRequest(RandomTokens(5, 8), 30));
  int heard = 0;
  submitted.observer->on_token = [&](const kernels::SampledToken&) {
    return ++heard == 4 ? Verdict::kStop : Verdict::kContinue;
  };
  RunUntilIdle();
  EXPECT_EQ(submitted.observer->result().reason, FinishReason::kStopString);
  EXPECT_EQ(submitted.observer->tokens().size(), 4u);
}

TEST_F(SchedulerTest, CancelEndsWithinOneStepAndKeepsWhatWasGenerated) {
  const std::vector<int32_t> prompt = RandomTokens(5, 9);
  const Submitted submitted = Submit(MakeRequest(prompt, 1000));
  for (int i = 0; i < 6; ++i) scheduler_->Step();
  const size_t generated = submitted.observer->tokens().size();
  EXPECT_GT(generated, 2u);
  scheduler_->Cancel(submitted.id);
  scheduler_->Step();
  EXPECT_EQ(submitted.observer->finishes(), 1);
  const RequestResult result = submitted.observer->result();
  EXPECT_EQ(result.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(result.generated.size(), generated);
  ASSERT_TRUE(result.state.has_value());
  EXPECT_EQ(result.state->token_count(), static_cast<int64_t>(prompt.size() + generated));
  EXPECT_EQ(scheduler_->stats().free_slots, 4);
  Request next = MakeRequest({}, 5);
  next.state = result.state;
  const Submitted second = Submit(std::move(next));
  RunUntilIdle();
  std::vector<int32_t> all = prompt;
  all.insert(all.end(), result.generated.begin(), result.generated.end());
  EXPECT_EQ(second.observer->tokens(), model_.Continue(all, 5));
}

TEST_F(SchedulerTest, CancelDuringPrefillOrInTheQueueKeepsNothing) {
  const Submitted prefilling = Submit(MakeRequest(RandomTokens(200, 10), 5));
  std::vector<Submitted> others;
  for (int i = 0; i < 5; ++i) others.push_back(Submit(MakeRequest(RandomTokens(200, 11 + i), 5)));
  scheduler_->Step();
  scheduler_->Cancel(prefilling.id);
  scheduler_->Cancel(others.back().id);  // still waits: there are 4 slots
  scheduler_->Cancel(123456);
  scheduler_->Step();
  for (const Submitted* cancelled : std::vector<const Submitted*>{&prefilling, &others.back()}) {
    EXPECT_EQ(cancelled->observer->finishes(), 1);
    EXPECT_EQ(cancelled->observer->result().status.code(), absl::StatusCode::kCancelled);
    EXPECT_FALSE(cancelled->observer->result().state.has_value());
  }
  RunUntilIdle();
  EXPECT_EQ(scheduler_->stats().cancelled, 2);
  EXPECT_EQ(scheduler_->stats().finished, 4);
}

TEST_F(SchedulerTest, DeadlinesEndRunningAndWaitingRequests) {
  std::vector<Submitted> requests;
  for (int i = 0; i < 6; ++i) {
    Request request = MakeRequest(RandomTokens(3, 20 + i), 1000);
    request.deadline = clock_.Now() + absl::Seconds(1);
    requests.push_back(Submit(std::move(request)));
  }
  for (int i = 0; i < 5; ++i) scheduler_->Step();
  clock_.Advance(absl::Seconds(2));
  scheduler_->Step();
  EXPECT_TRUE(scheduler_->Idle());
  int with_state = 0;
  for (const Submitted& request : requests) {
    EXPECT_EQ(request.observer->finishes(), 1);
    EXPECT_EQ(request.observer->result().status.code(), absl::StatusCode::kDeadlineExceeded);
    with_state += request.observer->result().state.has_value();
  }
  EXPECT_EQ(with_state, 4);
}

TEST_F(SchedulerTest, AFullQueueRefusesAndConsumesNothing) {
  SchedulerOptions options = SmallOptions();
  options.max_queued = 3;
  options.max_queued_per_tenant = 2;
  Start(options);
  Submit(MakeRequest({1}, 1));
  Submit(MakeRequest({1}, 1));
  Request request = MakeRequest({1, 2}, 1);
  auto observer = std::make_shared<RecordingObserver>();
  request.observer = observer;
  absl::StatusOr<RequestId> refused = scheduler_->Submit(std::move(request));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(request.prompt.size(), 2u);  // NOLINT(bugprone-use-after-move): consumed only if OK
  EXPECT_EQ(observer->finishes(), 0);
  request.tenant = "other";
  EXPECT_TRUE(scheduler_->Submit(std::move(request)).ok());
  Request more = MakeRequest({1}, 1);
  more.tenant = "third";
  more.observer = observer;
  EXPECT_EQ(scheduler_->Submit(std::move(more)).status().code(),
            absl::StatusCode::kResourceExhausted);
  RunUntilIdle();
  EXPECT_EQ(observer->finishes(), 1);
  EXPECT_EQ(scheduler_->stats().rejected, 2);
}

TEST_F(SchedulerTest, TenantsTakeTurnsForSlots) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 1;
  Start(options);
  std::vector<std::string> order;
  std::vector<Submitted> requests;
  for (const char* tenant : {"a", "a", "a", "b"}) {
    Request request = MakeRequest({1, 2, 3}, 2);
    request.tenant = tenant;
    requests.push_back(Submit(std::move(request)));
    requests.back().observer->on_token = [&order, tenant](const kernels::SampledToken&) {
      order.push_back(tenant);
      return Verdict::kContinue;
    };
  }
  RunUntilIdle();
  EXPECT_EQ(order, (std::vector<std::string>{"a", "a", "b", "b", "a", "a", "a", "a"}));
}

TEST_F(SchedulerTest, AnUnwritableObserverPausesItsSequenceOnly) {
  const std::vector<int32_t> prompt = RandomTokens(5, 30);
  const Submitted slow = Submit(MakeRequest(prompt, 10));
  const Submitted quick = Submit(MakeRequest(RandomTokens(5, 31), 10));
  scheduler_->Step();
  slow.observer->writable = false;
  for (int i = 0; i < 20; ++i) scheduler_->Step();
  EXPECT_EQ(quick.observer->finishes(), 1);
  EXPECT_EQ(slow.observer->tokens().size(), 1u);
  EXPECT_EQ(scheduler_->stats().paused, 1);
  EXPECT_FALSE(scheduler_->Step());
  slow.observer->writable = true;
  RunUntilIdle();
  EXPECT_EQ(slow.observer->tokens(), model_.Continue(prompt, 10));
}

TEST_F(SchedulerTest, PromptLogprobsScoreEveryTokenButTheFirst) {
  const std::vector<int32_t> prompt = RandomTokens(40, 40);
  Request request = MakeRequest(prompt, 0);
  request.prompt_logprobs = true;
  request.top_logprobs = 2;
  const Submitted scored = Submit(std::move(request));
  const Submitted beside = Submit(MakeRequest(RandomTokens(30, 41), 8));
  RunUntilIdle();
  const RequestResult result = scored.observer->result();
  ASSERT_EQ(result.prompt_logprobs.size(), prompt.size() - 1);
  for (size_t i = 0; i + 1 < prompt.size(); ++i) {
    const kernels::SampledToken& token = result.prompt_logprobs[i];
    EXPECT_EQ(token.id, prompt[i + 1]);
    ASSERT_EQ(token.top.size(), 2u);
    const std::vector<int32_t> prefix(prompt.begin(), prompt.begin() + i + 1);
    EXPECT_EQ(token.top[0].id, model_.Continue(prefix, 1)[0]);
  }
  EXPECT_EQ(beside.observer->result().generated.size(), 8u);
}

TEST_F(SchedulerTest, PromptLogprobsAfterAStateScoreTheWholePrompt) {
  const Submitted first = Submit(MakeRequest(RandomTokens(5, 42), 3));
  RunUntilIdle();
  Request request = MakeRequest(RandomTokens(7, 43), 2);
  request.state = first.observer->result().state;
  request.prompt_logprobs = true;
  const Submitted second = Submit(std::move(request));
  RunUntilIdle();
  EXPECT_EQ(second.observer->result().prompt_logprobs.size(), 7u);
  EXPECT_EQ(second.observer->tokens().size(), 2u);
}

TEST_F(SchedulerTest, NonFiniteLogitsFailTheRequestAndStoreNothing) {
  model_.nan_token = 63;
  Request request = MakeRequest({1, 2, 63}, 5);
  const Submitted poisoned = Submit(std::move(request));
  const Submitted sound = Submit(MakeRequest({1, 2, 3}, 1));
  RunUntilIdle();
  EXPECT_EQ(poisoned.observer->result().status.code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(poisoned.observer->result().state.has_value());
  EXPECT_TRUE(sound.observer->result().status.ok());
}

TEST_F(SchedulerTest, AFailedForwardFailsItsBatchAndNothingElse) {
  const Submitted request = Submit(MakeRequest({1, 2}, 5));
  model_.on_forward = [](const models::RaggedBatch&) { return absl::InternalError("no luck"); };
  scheduler_->Step();
  EXPECT_EQ(request.observer->finishes(), 1);
  EXPECT_THAT(request.observer->result().status.message(), HasSubstr("no luck"));
  EXPECT_FALSE(request.observer->result().state.has_value());
  model_.on_forward = nullptr;
  const Submitted after = Submit(MakeRequest({1, 2}, 5));
  RunUntilIdle();
  EXPECT_EQ(after.observer->tokens(), model_.Continue({1, 2}, 5));
}

TEST_F(SchedulerTest, SlotsAreZeroedBetweenRequests) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 1;
  Start(options);
  for (int i = 0; i < 5; ++i) {
    const std::vector<int32_t> prompt = RandomTokens(4 + i, 50 + i);
    const Submitted request = Submit(MakeRequest(prompt, 5));
    RunUntilIdle();
    EXPECT_EQ(request.observer->tokens(), model_.Continue(prompt, 5));
  }
}

TEST_F(SchedulerTest, DrainRefusesNewRequestsAndKeepsStatesAtItsDeadline) {
  const Submitted running = Submit(MakeRequest({1, 2, 3}, 1000));
  scheduler_->Step();
  scheduler_->Step();
  scheduler_->Drain(clock_.Now() + absl::Seconds(5));
  Request late = MakeRequest({1}, 1);
  late.observer = std::make_shared<RecordingObserver>();
  EXPECT_EQ(scheduler_->Submit(std::move(late)).status().code(), absl::StatusCode::kUnavailable);
  scheduler_->Step();
  EXPECT_EQ(running.observer->finishes(), 0);
  clock_.Advance(absl::Seconds(6));
  scheduler_->Step();
  const RequestResult result = running.observer->result();
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.reason, FinishReason::kDrained);
  EXPECT_TRUE(result.state.has_value());
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(SchedulerTest, DestructionEndsEveryRequestOnce) {
  std::vector<Submitted> requests;
  for (int i = 0; i < 8; ++i) requests.push_back(Submit(MakeRequest({1, 2, 3}, 1000)));
  scheduler_->Step();
  requests.push_back(Submit(MakeRequest({1, 2, 3}, 1000)));
  scheduler_.reset();
  for (const Submitted& request : requests) {
    EXPECT_EQ(request.observer->finishes(), 1);
    EXPECT_EQ(request.observer->result().status.code(), absl::StatusCode::kCancelled);
  }
}

TEST_F(SchedulerTest, HostileRequestsAreRefusedByField) {
  const auto message = [&](auto change) {
    Request request = MakeRequest({1, 2}, 1);
    request.observer = std::make_shared<RecordingObserver>();
    change(request);
    const absl::Status status = scheduler_->Submit(std::move(request)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](Request& r) { r.observer = nullptr; }), HasSubstr("observer"));
  EXPECT_THAT(message([](Request& r) { r.prompt = {}; }), HasSubstr("prompt"));
  EXPECT_THAT(message([](Request& r) { r.prompt = {1, 64}; }), HasSubstr("prompt[1]"));
  EXPECT_THAT(message([](Request& r) { r.prompt = {-1}; }), HasSubstr("prompt[0]"));
  EXPECT_THAT(message([](Request& r) { r.max_tokens = -1; }), HasSubstr("max_tokens"));
  EXPECT_THAT(message([](Request& r) { r.sampling.top_p = 2; }), HasSubstr("top_p"));
  EXPECT_THAT(message([](Request& r) {
                r.state = SequenceState{{1, 2}, 3, 1};
              }),
              HasSubstr("state.image"));
  EXPECT_THAT(message([](Request& r) {
                r.state = SequenceState{{}, -1, 1};
              }),
              HasSubstr("state.position"));
  EXPECT_THAT(message([](Request& r) {
                r.state = SequenceState{{}, 0, 99};
              }),
              HasSubstr("state.pending"));
  EXPECT_THAT(message([&](Request& r) {
                r.state = SequenceState{Bytes(model_.state_layout().bytes(), 0), 3, std::nullopt};
              }),
              HasSubstr("state.pending"));
}

TEST_F(SchedulerTest, OptionsAreValidated) {
  const auto create = [&](auto change) {
    SchedulerOptions options = SmallOptions();
    change(options);
    return Scheduler::Create(&model_, OneThread(), &clock_, options).status();
  };
  EXPECT_THAT(create([](auto& o) { o.num_slots = 0; }).message(), HasSubstr("num_slots"));
  EXPECT_THAT(create([](auto& o) { o.step_tokens = 257; }).message(), HasSubstr("step_tokens"));
  EXPECT_THAT(create([](auto& o) { o.prefill_chunk_tokens = 33; }).message(),
              HasSubstr("prefill_chunk_tokens"));
  EXPECT_THAT(create([](auto& o) { o.step_logit_rows = 0; }).message(),
              HasSubstr("step_logit_rows"));
}

TEST_F(SchedulerTest, SeededSamplingDoesNotDependOnBatchOrInterruption) {
  Request request = MakeRequest(RandomTokens(12, 60), 30);
  request.sampling.temperature = 1.0f;
  request.sampling.top_p = 0.9f;
  request.sampling.seed = 77;
  Request copy = request;
  const Submitted alone = Submit(std::move(request));
  RunUntilIdle();
  std::vector<Submitted> strangers;
  for (int i = 0; i < 3; ++i) strangers.push_back(Submit(MakeRequest(RandomTokens(40, 61 + i), 9)));
  Request first_part = copy;
  first_part.max_tokens = 11;
  const Submitted first = Submit(std::move(first_part));
  RunUntilIdle();
  Request rest = copy;
  rest.prompt = {};
  rest.state = first.observer->result().state;
  rest.max_tokens = 19;
  const Submitted second = Submit(std::move(rest));
  RunUntilIdle();
  std::vector<int32_t> joined = first.observer->tokens();
  for (int32_t token : second.observer->tokens()) joined.push_back(token);
  EXPECT_EQ(joined, alone.observer->tokens());
}

}  // namespace
}  // namespace reprise::scheduler
