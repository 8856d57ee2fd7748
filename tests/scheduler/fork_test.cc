// Forks: one prefill, several answers, each as if it had been asked for alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

using ::testing::HasSubstr;
using Tokens = std::vector<int32_t>;

class ForkTest : public SchedulerFixture {
 protected:
  static kernels::SamplingParams Sampling(uint64_t seed) {
    kernels::SamplingParams sampling;
    sampling.temperature = 1.0f;
    sampling.seed = seed;
    return sampling;
  }

  struct Group {
    RequestId id = 0;
    std::vector<std::shared_ptr<RecordingObserver>> observers;
  };

  // `count` answers with the seeds 0, 1, ...
  Group SubmitGroup(Request request, int count) {
    Group group;
    request.sampling = Sampling(0);
    for (int i = 1; i < count; ++i) {
      group.observers.push_back(std::make_shared<RecordingObserver>());
      request.forks.push_back({Sampling(i), group.observers.back()});
    }
    Submitted first = Submit(std::move(request));
    group.id = first.id;
    group.observers.insert(group.observers.begin(), first.observer);
    return group;
  }

  // What a request of its own gives, of the same scheduler.
  RequestResult Alone(Request request, int seed) {
    request.sampling = Sampling(seed);
    request.use_prefix_cache = false;
    const Submitted submitted = Submit(std::move(request));
    RunUntilIdle();
    return submitted.observer->result();
  }

  void ExpectAsAlone(const Group& group, const Request& request) {
    for (size_t i = 0; i < group.observers.size(); ++i) {
      ASSERT_EQ(group.observers[i]->finishes(), 1) << i;
      const RequestResult result = group.observers[i]->result();
      const RequestResult alone = Alone(request, static_cast<int>(i));
      ASSERT_TRUE(result.status.ok()) << i << ": " << result.status;
      EXPECT_EQ(result.generated, alone.generated) << i;
      EXPECT_EQ(result.state->image, alone.state->image) << i;
      EXPECT_EQ(result.state->position, alone.state->position) << i;
      EXPECT_EQ(result.prompt_logprobs.size(), alone.prompt_logprobs.size()) << i;
    }
  }

  int64_t Computed(const Group& group) {
    int64_t rows = 0;
    for (const auto& observer : group.observers) rows += observer->result().computed_tokens;
    return rows;
  }
};

TEST_F(ForkTest, EachAnswerIsAsIfAskedForAlone) {
  const Request request = MakeRequest(RandomTokens(50, 1), 12);
  const Group group = SubmitGroup(request, 4);
  RunUntilIdle();
  ExpectAsAlone(group, request);
  // One prefill; the last prompt token and the answers each for itself.
  EXPECT_EQ(Computed(group), 49 + 4 * 12);
  EXPECT_EQ(group.observers[3]->result().reuse.shared_tokens, 49);
  EXPECT_EQ(scheduler_->stats().shared_tokens, 3 * 49);
  EXPECT_NE(group.observers[0]->tokens(), group.observers[1]->tokens());
}

TEST_F(ForkTest, MoreForksThanSlots) {
  for (int slots : {1, 2, 3}) {
    SchedulerOptions options = SmallOptions();
    options.num_slots = slots;
    Start(options);
    const Request request = MakeRequest(RandomTokens(50, 2), 12);
    const Group group = SubmitGroup(request, 9);
    RunUntilIdle();
    ExpectAsAlone(group, request);
    EXPECT_EQ(Computed(group), 49 + 9 * 12);
  }
}

TEST_F(ForkTest, OfAPromptOfOneToken) {
  const Request request = MakeRequest({5}, 12);
  const Group group = SubmitGroup(request, 6);
  RunUntilIdle();
  ExpectAsAlone(group, request);
}

TEST_F(ForkTest, OfAStateWithAndWithoutAPrompt) {
  const Submitted before = Submit(MakeRequest(RandomTokens(30, 3), 0));
  RunUntilIdle();
  for (int length : {0, 1, 20}) {
    Request request = MakeRequest(RandomTokens(length, 4), 12);
    request.state = before.observer->result().state;
    const Group group = SubmitGroup(request, 6);
    RunUntilIdle();
    ExpectAsAlone(group, request);
  }
}

TEST_F(ForkTest, OfAStateThatIsStillLoading) {
  const Submitted before = Submit(MakeRequest(RandomTokens(30, 5), 0));
  RunUntilIdle();
  Request request = MakeRequest(RandomTokens(20, 6), 12);
  const auto source = request.state_source = std::make_shared<StateFuture>();
  const Group group = SubmitGroup(request, 3);
  for (int i = 0; i < 3; ++i) scheduler_->Step();
  // The first goes: the second waits in its place.
  scheduler_->Cancel(group.id);
  scheduler_->Step();
  source->Set(*before.observer->result().state);
  RunUntilIdle();
  EXPECT_TRUE(absl::IsCancelled(group.observers[0]->result().status));
  request.state_source = nullptr;
  request.state = before.observer->result().state;
  for (int i : {1, 2}) {
    EXPECT_EQ(group.observers[i]->result().generated, Alone(request, i).generated) << i;
  }
}

TEST_F(ForkTest, AFailedLoadEndsAllWithItsStatus) {
  Request request = MakeRequest({1, 2}, 5);
  const auto source = request.state_source = std::make_shared<StateFuture>();
  const Group group = SubmitGroup(request, 3);
  source->Set(absl::UnavailableError("no store"));
  scheduler_->Step();
  for (const auto& observer : group.observers) {
    ASSERT_EQ(observer->finishes(), 1);
    EXPECT_EQ(observer->result().status, absl::UnavailableError("no store"));
  }
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(ForkTest, WhenTheFirstIsCancelledAnotherGoesOnFromWhereItWas) {
  for (int steps : {0, 1, 2, 4, 8}) {
    const Request request = MakeRequest(RandomTokens(100, 7), 12);
    const Group group = SubmitGroup(request, 4);
    for (int i = 0; i < steps; ++i) scheduler_->Step();
    scheduler_->Cancel(group.id);
    RunUntilIdle();
    int64_t computed = 0;
    for (int i : {1, 2, 3}) {
      ASSERT_EQ(group.observers[i]->finishes(), 1);
      EXPECT_EQ(group.observers[i]->result().generated, Alone(request, i).generated) << i;
      computed += group.observers[i]->result().computed_tokens;
    }
    EXPECT_TRUE(absl::IsCancelled(group.observers[0]->result().status));
    EXPECT_LE(computed + group.observers[0]->result().computed_tokens, 99 + 4 * 12);
  }
}

TEST_F(ForkTest, CancellingAForkIsItsOwnAffair) {
  const Request request = MakeRequest(RandomTokens(100, 8), 12);
  const Group group = SubmitGroup(request, 4);
  scheduler_->Step();
  scheduler_->Cancel(group.id + 2);
  scheduler_->Step();
  EXPECT_TRUE(absl::IsCancelled(group.observers[2]->result().status));
  RunUntilIdle();
  for (int i : {0, 1, 3}) {
    EXPECT_EQ(group.observers[i]->result().generated, Alone(request, i).generated) << i;
  }
}

TEST_F(ForkTest, AFailureOfTheFirstBeforeTheFork) {
  const Group group = SubmitGroup(MakeRequest(RandomTokens(100, 9), 12), 3);
  model_.on_forward = [](const models::RaggedBatch&) { return absl::InternalError("no luck"); };
  scheduler_->Step();
  for (const auto& observer : group.observers) {
    ASSERT_EQ(observer->finishes(), 1);
    EXPECT_THAT(std::string(observer->result().status.message()), HasSubstr("no luck"));
  }
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(ForkTest, PromptScoresAreTheSameForAll) {
  Request request = MakeRequest(RandomTokens(40, 10), 4);
  request.prompt_logprobs = true;
  const Group group = SubmitGroup(request, 3);
  RunUntilIdle();
  ExpectAsAlone(group, request);
  for (int i : {1, 2}) {
    const auto scores = group.observers[i]->result().prompt_logprobs;
    ASSERT_EQ(scores.size(), 39u);
    for (int j = 0; j < 39; ++j) {
      EXPECT_EQ(scores[j].logprob, group.observers[0]->result().prompt_logprobs[j].logprob);
    }
  }
}

TEST_F(ForkTest, ForksBeginAtWhatThePrefixCacheHas) {
  SchedulerOptions options = SmallOptions();
  options.prefix_cache = *PrefixCache::Create(&clock_, {});
  options.keep_policy.min_tokens = 4;
  Start(options);
  const Request request = MakeRequest(RandomTokens(50, 11), 6);
  for (int i = 0; i < 2; ++i) {
    Submit(request);
    RunUntilIdle();
  }
  const Group group = SubmitGroup(request, 4);
  RunUntilIdle();
  ExpectAsAlone(group, request);
  EXPECT_EQ(group.observers[0]->result().reuse.cached_tokens, 49);
  EXPECT_EQ(group.observers[1]->result().reuse.cached_tokens, 0);
  EXPECT_EQ(group.observers[1]->result().reuse.shared_tokens, 49);
  EXPECT_EQ(Computed(group), 4 * 6);
  // One lookup for all of them; those of their own have not asked.
  EXPECT_EQ(options.prefix_cache->TotalStats().lookup_tokens, 3 * 50);
}

class CountingMoves final : public SchedulerMetrics {
 public:
  void OnMove(Move move, int64_t /*bytes*/, absl::Duration /*time*/) override {
    ++(move == Move::kOutOfSlot ? out : in);
  }
  int out = 0, in = 0;
};

TEST_F(ForkTest, CopiesToFreeSlotsAreMoves) {
  CountingMoves moves;
  SchedulerOptions options = SmallOptions();
  options.metrics = &moves;
  Start(options);
  Request request = MakeRequest(RandomTokens(20, 16), 2);
  request.export_state = false;
  SubmitGroup(std::move(request), 4);
  RunUntilIdle();
  EXPECT_EQ(moves.in, 3);
  EXPECT_EQ(moves.out, 0);
  scheduler_.reset();  // before its metrics
}

TEST_F(ForkTest, TheSharedStateLeavesItsSlotOnce) {
  CountingMoves moves;
  SchedulerOptions options = SmallOptions();
  options.num_slots = 1;
  options.time_slice = absl::Hours(1);
  options.metrics = &moves;
  Start(options);
  Request request = MakeRequest(RandomTokens(20, 17), 2);
  request.export_state = false;
  SubmitGroup(std::move(request), 7);
  RunUntilIdle();
  EXPECT_EQ(moves.out, 1);
  scheduler_.reset();  // before its metrics
}

TEST_F(ForkTest, WhoDoesNotWantItsStateGetsNone) {
  Request request = MakeRequest(RandomTokens(20, 18), 3);
  const auto with = std::make_shared<RecordingObserver>();
  const auto without = std::make_shared<RecordingObserver>();
  request.forks.push_back({request.sampling, with, true});
  request.forks.push_back({request.sampling, without, false});
  const Submitted first = Submit(std::move(request));
  RunUntilIdle();
  EXPECT_TRUE(first.observer->result().state.has_value());
  EXPECT_TRUE(with->result().state.has_value());
  EXPECT_FALSE(without->result().state.has_value());
}

TEST_F(ForkTest, ForksDoNotOvertakeThoseThatWait) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 2;
  options.time_slice = absl::Hours(1);
  Start(options);
  SubmitGroup(MakeRequest({5}, 10), 3);  // at its last token from the start
  const Submitted other = Submit(MakeRequest(RandomTokens(3, 19), 10));
  scheduler_->Step();
  EXPECT_EQ(other.observer->tokens().size(), 1u);
  RunUntilIdle();
}

// The prompt is work to be done once, and so it counts where deadlines are judged.
TEST_F(ForkTest, APromptCountsOnceForThoseWhoComeLater) {
  model_.on_forward = [this](const models::RaggedBatch&) {
    clock_.Advance(absl::Seconds(1));
    return absl::OkStatus();
  };
  Submit(MakeRequest(RandomTokens(32 * 10, 20), 1));
  RunUntilIdle();  // 32 rows a second
  SubmitGroup(MakeRequest(RandomTokens(320, 21), 2), 9);
  Request hurried = MakeRequest(RandomTokens(100, 22), 1);
  hurried.deadline = clock_.Now() + absl::Seconds(20);
  hurried.observer = std::make_shared<RecordingObserver>();
  EXPECT_TRUE(scheduler_->Submit(std::move(hurried)).ok());
  RunUntilIdle();
}

TEST_F(ForkTest, DrainAndShutdownEndEachOnce) {
  const Group drained = SubmitGroup(MakeRequest(RandomTokens(100, 12), 1000), 6);
  scheduler_->Step();
  scheduler_->Drain(clock_.Now());
  scheduler_->Step();
  for (const auto& observer : drained.observers) EXPECT_EQ(observer->finishes(), 1);
  Start(SmallOptions());
  const Group group = SubmitGroup(MakeRequest(RandomTokens(100, 13), 1000), 6);
  scheduler_->Step();
  scheduler_.reset();
  for (const auto& observer : group.observers) {
    EXPECT_EQ(observer->finishes(), 1);
    EXPECT_TRUE(absl::IsCancelled(observer->result().status));
  }
}

TEST_F(ForkTest, AllOrNoneAreAccepted) {
  SchedulerOptions options = SmallOptions();
  options.max_queued = options.max_queued_per_tenant = 4;
  Start(options);
  Request request = MakeRequest({1, 2, 3}, 2);
  request.observer = std::make_shared<RecordingObserver>();
  for (int i = 0; i < 4; ++i) {
    request.forks.push_back({Sampling(i), std::make_shared<RecordingObserver>()});
  }
  EXPECT_TRUE(absl::IsResourceExhausted(scheduler_->Submit(std::move(request)).status()));
  EXPECT_EQ(request.forks.size(), 4u);  // NOLINT(bugprone-use-after-move): consumed only if OK
  request.forks.pop_back();
  EXPECT_TRUE(scheduler_->Submit(std::move(request)).ok());
  RunUntilIdle();
}

TEST_F(ForkTest, HostileForksAreRefusedByField) {
  const auto message = [&](auto change) {
    Request request = MakeRequest({1, 2}, 1);
    request.observer = std::make_shared<RecordingObserver>();
    request.forks.push_back({Sampling(1), std::make_shared<RecordingObserver>()});
    change(request);
    const absl::Status status = scheduler_->Submit(std::move(request)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](Request& r) { r.forks[0].observer = nullptr; }),
              HasSubstr("forks[0].observer"));
  EXPECT_THAT(message([](Request& r) { r.forks[0].sampling.top_p = 7; }),
              HasSubstr("forks[0].sampling"));
  EXPECT_THAT(message([](Request& r) { r.max_tokens = 0; }), HasSubstr("forks"));
  EXPECT_THAT(message([](Request& r) { r.forks.resize(200, r.forks[0]); }), HasSubstr("at most"));
}

}  // namespace
}  // namespace reprise::scheduler
