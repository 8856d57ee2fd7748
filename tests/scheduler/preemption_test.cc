// More sequences than slots: who runs, who is parked, and that it shows in no output.
#include <gtest/gtest.h>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class PreemptionTest : public SchedulerFixture {
 protected:
  static SchedulerOptions Slots(int slots, absl::Duration time_slice) {
    SchedulerOptions options = SmallOptions();
    options.num_slots = slots;
    options.time_slice = time_slice;
    options.max_wait = absl::Seconds(10);
    options.park_paused_after = absl::ZeroDuration();
    return options;
  }

  Submitted Ask(int seed, int max_tokens, Priority priority = Priority::kNormal,
                const std::string& tenant = "t", int prompt_tokens = 5) {
    prompts_.push_back(RandomTokens(prompt_tokens, seed));
    Request request = MakeRequest(prompts_.back(), max_tokens);
    request.priority = priority;
    request.tenant = tenant;
    lengths_.push_back(max_tokens);
    asked_.push_back(Submit(std::move(request)));
    return asked_.back();
  }

  void Tick(int steps = 1, absl::Duration each = absl::Milliseconds(100)) {
    for (int i = 0; i < steps; ++i) {
      scheduler_->Step();
      ASSERT_TRUE(scheduler_->CheckIntegrity().ok()) << scheduler_->CheckIntegrity();
      clock_.Advance(each);
    }
  }

  // Everything that was asked ends as if it had been alone.
  void Finish() {
    for (int i = 0; i < 10000 && !scheduler_->Idle() && !HasFailure(); ++i) Tick();
    ASSERT_TRUE(scheduler_->Idle());
    for (size_t i = 0; i < asked_.size(); ++i) {
      EXPECT_EQ(asked_[i].observer->finishes(), 1);
      EXPECT_EQ(asked_[i].observer->tokens(), model_.Continue(prompts_[i], lengths_[i])) << i;
    }
    EXPECT_EQ(scheduler_->stats().parked_bytes, 0);
  }

  std::vector<std::vector<int32_t>> prompts_;
  std::vector<int> lengths_;
  std::vector<Submitted> asked_;
};

TEST_F(PreemptionTest, MoreSequencesThanSlotsTakeTurns) {
  Start(Slots(2, absl::Milliseconds(300)));
  for (int i = 0; i < 10; ++i) Ask(i, 30, Priority::kNormal, "t" + std::to_string(i));
  Tick(20);
  // Twenty steps of a tenth of a second, three of them a slice: all have begun.
  for (const Submitted& asked : asked_) EXPECT_GE(asked.observer->tokens().size(), 3u);
  EXPECT_EQ(scheduler_->stats().running, 2);
  EXPECT_EQ(scheduler_->stats().parked, 8);
  EXPECT_EQ(scheduler_->stats().parked_bytes,
            8 * static_cast<int64_t>(model_.state_layout().bytes()));
  Finish();
  const Timeline timeline = asked_[0].observer->result().timeline;
  EXPECT_GT(timeline.parks, 3);
  EXPECT_GT(timeline.parked, absl::Seconds(3));
  EXPECT_EQ(timeline.token_gaps, 29);
  EXPECT_GE(timeline.token_gap_max, absl::Seconds(1));
  EXPECT_EQ(timeline.token_gap_sum + absl::Milliseconds(0), timeline.decode);
}

TEST_F(PreemptionTest, ATenantsNewRequestsWaitForItsRunningOnesUntilTheyAreOverdue) {
  SchedulerOptions options = Slots(2, absl::Milliseconds(300));
  options.max_wait = absl::Seconds(3);
  Start(options);
  for (int i = 0; i < 6; ++i) Ask(i, 80);
  Tick(25);
  EXPECT_EQ(scheduler_->stats().parks, 0);
  EXPECT_EQ(scheduler_->stats().waiting, 4);
  Tick(45);
  // Seven seconds: all are overdue by now, and have had a turn each 0.6 s. Those that started
  // share.
  EXPECT_EQ(scheduler_->stats().waiting, 0);
  EXPECT_EQ(scheduler_->stats().parked, 4);
  Finish();
}

TEST_F(PreemptionTest, EveryStepMayChangeEverySlot) {
  Start(Slots(3, absl::ZeroDuration()));
  for (int i = 0; i < 8; ++i) Ask(i, 20, Priority::kNormal, "t" + std::to_string(i));
  Finish();
  EXPECT_GT(scheduler_->stats().parks, 8 * 20 / 2);
}

TEST_F(PreemptionTest, PromptsAreParkedAnywhereInTheMiddle) {
  Start(Slots(1, absl::ZeroDuration()));
  for (int i = 0; i < 3; ++i) {
    Ask(i, 20, Priority::kNormal, "t" + std::to_string(i), 100 + 7 * i);
  }
  Tick(6);
  EXPECT_GE(scheduler_->stats().parks, 3);
  for (const Submitted& asked : asked_) EXPECT_TRUE(asked.observer->tokens().empty());
  Finish();
}

TEST_F(PreemptionTest, AHigherPriorityTakesTheSlotAtOnce) {
  Start(Slots(1, absl::Seconds(1)));
  const Submitted low = Ask(1, 20, Priority::kLow);
  Tick(5);
  const Submitted high = Ask(2, 5, Priority::kHigh);
  Tick(5);
  EXPECT_EQ(high.observer->finishes(), 1);
  EXPECT_EQ(low.observer->tokens().size(), 5u);
  Finish();
  EXPECT_EQ(low.observer->result().timeline.parks, 1);
}

TEST_F(PreemptionTest, WithoutRoomForParkedStatesNobodyIsParked) {
  SchedulerOptions options = Slots(1, absl::ZeroDuration());
  options.max_parked_bytes = 0;
  Start(options);
  const Submitted low = Ask(1, 10, Priority::kLow);
  Tick(2);
  const Submitted high = Ask(2, 5, Priority::kHigh);
  Tick(8);
  EXPECT_EQ(low.observer->finishes(), 1);
  EXPECT_EQ(high.observer->tokens().size(), 0u);
  Finish();
  EXPECT_EQ(scheduler_->stats().parks, 0);
}

TEST_F(PreemptionTest, ParkedStatesStayUnderTheirCap) {
  SchedulerOptions options = Slots(2, absl::ZeroDuration());
  options.max_parked_bytes = 3 * static_cast<int64_t>(model_.state_layout().bytes());
  Start(options);
  for (int i = 0; i < 12; ++i) Ask(i, 15, Priority::kNormal, "t" + std::to_string(i));
  int most_begun = 0;
  for (int i = 0; i < 10; ++i) {
    Tick();
    EXPECT_LE(scheduler_->stats().parked_bytes, options.max_parked_bytes);
    most_begun = std::max(most_begun, scheduler_->stats().running + scheduler_->stats().parked);
  }
  EXPECT_EQ(most_begun, 5);
  Finish();
}

TEST_F(PreemptionTest, LowPriorityRunsWithinTheBoundUnderConstantHighLoad) {
  const SchedulerOptions options = Slots(2, absl::Seconds(1));
  Start(options);
  const Submitted low = Ask(1, 30, Priority::kLow);
  int next = 100;
  const absl::Time begin = clock_.Now();
  absl::Time last_progress = begin;
  size_t tokens = 0;
  absl::Duration longest;
  while (low.observer->finishes() == 0 && clock_.Now() - begin < absl::Minutes(5)) {
    while (scheduler_->stats().running + scheduler_->stats().waiting + scheduler_->stats().parked <
           6) {
      Ask(next++, 25, Priority::kHigh);
      scheduler_->Step();
    }
    Tick();
    if (low.observer->tokens().size() > tokens) {
      tokens = low.observer->tokens().size();
      last_progress = clock_.Now();
    }
    longest = std::max(longest, clock_.Now() - last_progress);
  }
  EXPECT_EQ(low.observer->finishes(), 1);
  EXPECT_GT(low.observer->result().timeline.parks, 1);
  // At most five others are overdue before it.
  EXPECT_LE(longest, options.max_wait + 6 * (4 * options.time_slice / 2 + absl::Milliseconds(100)) +
                         absl::Milliseconds(100));
  Finish();
}

// Times are those of the steps: the first is at 0 s, each takes a tenth.
TEST_F(PreemptionTest, AParkedSequenceIsOverdueAfterItsWaitForATimeSlice) {
  Start(Slots(1, absl::Seconds(1)));
  const Submitted low = Ask(1, 300, Priority::kLow);
  Tick(80);
  const Submitted high = Ask(2, 200, Priority::kHigh);
  Tick(100);  // parked at 8 s; its submission is 17.9 s ago, its parking 9.9 s
  EXPECT_EQ(scheduler_->stats().parks, 1);
  EXPECT_EQ(high.observer->tokens().size(), 100u);
  Tick(10);  // from 18 s on it is overdue, and no priority takes its second from it
  EXPECT_EQ(scheduler_->stats().parks, 2);
  EXPECT_EQ(low.observer->tokens().size(), 80u + 10u);
  Tick(1);
  EXPECT_EQ(scheduler_->stats().parks, 3);
  EXPECT_EQ(high.observer->tokens().size(), 101u);
  Finish();
}

TEST_F(PreemptionTest, AQuarterOfTheSlotsTimeIsForTheOverdue) {
  SchedulerOptions options = Slots(4, absl::Milliseconds(200));
  options.max_wait = absl::Milliseconds(400);
  Start(options);
  std::vector<Submitted> low;
  for (int i = 0; i < 8; ++i) low.push_back(Ask(i, 200, Priority::kLow));
  for (int i = 0; i < 4; ++i) Ask(100 + i, 400, Priority::kHigh);
  const auto tokens = [&] {
    size_t sum = 0;
    for (const Submitted& each : low) sum += each.observer->tokens().size();
    return static_cast<int>(sum);
  };
  Tick(20);
  const int before = tokens();
  Tick(200);
  EXPECT_NEAR(tokens() - before, 200, 20);  // of 800
  Finish();
}

TEST_F(PreemptionTest, AFreeSlotIsForTheTenantWithFewerWhateverItHasUsed) {
  Start(Slots(2, absl::Hours(1)));
  Ask(1, 60, Priority::kNormal, "holds");
  Request large = MakeRequest(RandomTokens(400, 2), 1);
  large.tenant = "used";
  const Submitted used = Submit(std::move(large));
  Tick(2);
  const Submitted more = Ask(3, 5, Priority::kNormal, "holds");
  const Submitted next = Ask(4, 5, Priority::kNormal, "used");
  while (used.observer->finishes() == 0) Tick();
  Tick(1);
  EXPECT_EQ(next.observer->tokens().size(), 1u);
  EXPECT_EQ(more.observer->tokens().size(), 0u);
  Finish();
}

TEST_F(PreemptionTest, AnOverdueCrowdDoesNotShutOutAHigherPriority) {
  SchedulerOptions options = Slots(4, absl::Milliseconds(200));
  options.max_wait = absl::Milliseconds(400);
  Start(options);
  for (int i = 0; i < 30; ++i) Ask(i, 60, Priority::kLow);
  Tick(30);  // a round takes 1.5 s: most of those that wait are overdue at any time
  EXPECT_GT(scheduler_->stats().parked + scheduler_->stats().waiting, 20);
  for (int i = 0; i < 3; ++i) {
    const Submitted high = Ask(100 + i, 20, Priority::kHigh);
    Tick(45);
    EXPECT_EQ(high.observer->finishes(), 1) << i;
    EXPECT_EQ(high.observer->result().timeline.queue, absl::ZeroDuration());
    EXPECT_LE(high.observer->result().timeline.parked, absl::Milliseconds(1500));
  }
  Finish();
}

TEST_F(PreemptionTest, AClientThatDoesNotReadGivesItsSlotUp) {
  Start(Slots(1, absl::Hours(1)));
  const Submitted slow = Ask(1, 20);
  Tick(4);
  slow.observer->writable = false;
  Tick(2);
  EXPECT_EQ(scheduler_->stats().parks, 0);  // nobody waits
  const Submitted other = Ask(2, 10, Priority::kLow);
  Tick(5);
  EXPECT_EQ(scheduler_->stats().parks, 1);
  EXPECT_EQ(scheduler_->stats().paused, 1);
  EXPECT_EQ(scheduler_->stats().parked, 1);
  EXPECT_GE(other.observer->tokens().size(), 4u);
  Tick(20);
  EXPECT_EQ(other.observer->finishes(), 1);
  EXPECT_FALSE(scheduler_->Step());
  slow.observer->writable = true;
  Finish();
}

TEST_F(PreemptionTest, AClientMayRestAWhileBeforeItsSlotIsTaken) {
  SchedulerOptions options = Slots(1, absl::Hours(1));
  options.max_wait = absl::Hours(1);
  options.park_paused_after = absl::Seconds(1);
  Start(options);
  const Submitted slow = Ask(1, 20);
  Tick(4);
  Ask(2, 10);
  slow.observer->writable = false;
  Tick(10);  // 0.9 s after the step that saw it first
  EXPECT_EQ(scheduler_->stats().parks, 0);
  slow.observer->writable = true;
  Tick(1);  // that ended it
  slow.observer->writable = false;
  Tick(10);
  EXPECT_EQ(scheduler_->stats().parks, 0);
  Tick(1);
  EXPECT_EQ(scheduler_->stats().parks, 1);
  slow.observer->writable = true;
  Finish();
}

TEST_F(PreemptionTest, AClientThatReadsAgainIsBehindThoseThatWaitedMeanwhile) {
  Start(Slots(1, absl::Hours(1)));
  const Submitted slow = Ask(1, 20);
  Tick(4);
  const Submitted other = Ask(2, 20);
  slow.observer->writable = false;
  Tick(4);
  ASSERT_EQ(scheduler_->stats().paused, 1);
  const Submitted high = Ask(3, 10, Priority::kHigh);
  Tick(4);
  slow.observer->writable = true;
  while (high.observer->finishes() == 0) Tick();
  const size_t before = other.observer->tokens().size();
  Tick(3);
  EXPECT_GT(other.observer->tokens().size(), before);
  EXPECT_EQ(slow.observer->tokens().size(), 4u);
  Finish();
}

TEST_F(PreemptionTest, APromptIsComputedWhetherItsClientReadsOrNot) {
  Start(Slots(1, absl::Hours(1)));
  Request request = MakeRequest(RandomTokens(100, 1), 5);
  const Submitted slow = Submit(std::move(request));
  slow.observer->writable = false;
  Ask(2, 10);
  while (slow.observer->tokens().empty()) {
    Tick();
    ASSERT_EQ(scheduler_->stats().parks, 0);
  }
  Tick(3);
  EXPECT_EQ(scheduler_->stats().parks, 1);
  slow.observer->writable = true;
  Finish();
}

TEST_F(PreemptionTest, EachClientThatReadsAgainGoesOnAtOnce) {
  SchedulerOptions options = Slots(1, absl::Hours(1));
  Start(options);
  const Submitted one = Ask(1, 20), two = Ask(2, 20);
  Tick(3);
  one.observer->writable = false;
  Tick(3);
  two.observer->writable = false;
  Ask(3, 2);
  Tick(5);  // the third has ended, the others wait for their clients
  ASSERT_EQ(scheduler_->stats().paused, 2);
  const size_t before = two.observer->tokens().size();
  two.observer->writable = true;
  Tick(2);  // one is asked in each step, and `one` may be the first
  EXPECT_GE(two.observer->tokens().size(), before + 2);
  EXPECT_EQ(scheduler_->stats().paused, 1);
  one.observer->writable = true;
  Finish();
}

TEST_F(PreemptionTest, AClientThatReadsAgainWaitsFromThenOn) {
  Start(Slots(1, absl::Hours(1)));
  const Submitted slow = Ask(1, 200);
  Tick(4);
  slow.observer->writable = false;
  const Submitted high = Ask(2, 400, Priority::kHigh);
  Tick(90);
  ASSERT_EQ(scheduler_->stats().paused, 1);
  slow.observer->writable = true;
  Tick(95);  // parked 18 s ago, waiting for 9.5
  EXPECT_EQ(slow.observer->tokens().size(), 4u);
  Tick(10);
  EXPECT_GT(slow.observer->tokens().size(), 4u);
  Finish();
}

TEST_F(PreemptionTest, ATenantWithOneSequenceKeepsItsSlotAmongManyOfAnother) {
  Start(Slots(2, absl::Milliseconds(200)));
  const Submitted single = Ask(1, 40, Priority::kNormal, "single");
  for (int i = 0; i < 6; ++i) Ask(10 + i, 40, Priority::kNormal, "many");
  Tick(45);
  EXPECT_EQ(single.observer->finishes(), 1);
  EXPECT_EQ(single.observer->result().timeline.parks, 0);
  Finish();
}

TEST_F(PreemptionTest, AParkedSequenceCanEndInEveryWay) {
  Start(Slots(1, absl::Hours(1)));
  const std::vector<int32_t> prompt = RandomTokens(5, 1);
  const auto park = [&](absl::Duration patience) {
    Request request = MakeRequest(prompt, 1000);
    request.priority = Priority::kLow;
    request.deadline = clock_.Now() + patience;
    const Submitted low = Submit(std::move(request));
    Tick(4);
    Submit([&] {
      Request high = MakeRequest(RandomTokens(5, 2), 20);
      high.priority = Priority::kHigh;
      return high;
    }());
    Tick(2);
    EXPECT_EQ(scheduler_->stats().parked, 1);
    return low;
  };
  const auto check = [&](const Submitted& low, absl::StatusCode code) {
    EXPECT_EQ(low.observer->finishes(), 1);
    const RequestResult result = low.observer->result();
    EXPECT_EQ(result.status.code(), code);
    ASSERT_TRUE(result.state.has_value());
    EXPECT_EQ(result.state->token_count(), 5 + 4);
    EXPECT_EQ(scheduler_->stats().parked_bytes, 0);
    EXPECT_TRUE(scheduler_->CheckIntegrity().ok());
    Start(Slots(1, absl::Hours(1)));
    Request next = MakeRequest({}, 5);
    next.state = result.state;
    const Submitted rest = Submit(std::move(next));
    RunUntilIdle();
    std::vector<int32_t> all = model_.Continue(prompt, 4);
    for (int32_t token : rest.observer->tokens()) all.push_back(token);
    EXPECT_EQ(all, model_.Continue(prompt, 9));
  };
  Submitted low = park(absl::Hours(1));
  scheduler_->Cancel(low.id);
  Tick();
  check(low, absl::StatusCode::kCancelled);

  low = park(absl::Seconds(1));
  Tick(8);
  check(low, absl::StatusCode::kDeadlineExceeded);

  low = park(absl::Hours(1));
  scheduler_->Drain(clock_.Now());
  Tick();
  check(low, absl::StatusCode::kOk);
}

}  // namespace
}  // namespace reprise::scheduler
