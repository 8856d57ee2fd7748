// What a request's timeline and the scheduler's metrics say.
#include <gtest/gtest.h>

#include <array>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class RecordingMetrics final : public SchedulerMetrics {
 public:
  void OnStep(const Step& step) override { steps.push_back(step); }
  void OnFirstToken(absl::Duration since_submit) override { first.push_back(since_submit); }
  void OnTokenGap(absl::Duration gap) override { gaps.push_back(gap); }
  void OnFinish(const Finish& finish) override {
    tenants.push_back(*finish.tenant);
    codes.push_back(finish.code);
    generated += finish.generated_tokens;
    timelines.push_back(*finish.timeline);
    reasons.push_back(finish.reason);
    started.push_back(finish.started);
  }
  void OnMove(Move move, int64_t bytes, absl::Duration /*time*/) override {
    moved_bytes[static_cast<size_t>(move)] += bytes;
  }

  std::vector<Step> steps;
  std::vector<absl::Duration> first, gaps;
  std::vector<std::string> tenants;
  std::vector<absl::StatusCode> codes;
  std::vector<Timeline> timelines;
  std::vector<FinishReason> reasons;
  std::vector<bool> started;
  std::array<int64_t, 2> moved_bytes = {};  // by Move
  int64_t generated = 0;
};

// The clock moves by a tenth of a second in each Forward, and by half a second before each step.
class TimelineTest : public SchedulerFixture {
 protected:
  void SetUp() override {
    SchedulerOptions options = SmallOptions();
    options.num_slots = 1;
    options.max_queued = 3;
    options.time_slice = absl::Hours(1);
    options.metrics = &metrics_;
    Start(options);
    model_.on_forward = [this](const models::RaggedBatch&) {
      clock_.Advance(absl::Milliseconds(100));
      return absl::OkStatus();
    };
  }

  void Tick(int steps) {
    for (int i = 0; i < steps; ++i) {
      clock_.Advance(absl::Milliseconds(500));
      scheduler_->Step();
    }
  }

  RecordingMetrics metrics_;
};

TEST_F(TimelineTest, PhasesAddUp) {
  const Submitted first = Submit(MakeRequest(RandomTokens(70, 1), 4));  // 3 steps of prompt
  const Submitted second = Submit(MakeRequest(RandomTokens(5, 2), 1));
  Tick(7);
  const Timeline a = first.observer->result().timeline;
  EXPECT_EQ(a.queue, absl::Milliseconds(500));
  EXPECT_EQ(a.prefill, absl::Milliseconds(1300));
  EXPECT_EQ(a.time_to_first_token, absl::Milliseconds(1800));
  EXPECT_EQ(a.decode, absl::Milliseconds(1800));
  EXPECT_EQ(a.token_gaps, 3);
  EXPECT_EQ(a.token_gap_sum, absl::Milliseconds(1800));
  EXPECT_EQ(a.token_gap_max, absl::Milliseconds(600));
  EXPECT_EQ(a.parks, 0);
  EXPECT_EQ(a.parked, absl::ZeroDuration());
  const Timeline b = second.observer->result().timeline;
  EXPECT_EQ(b.queue, absl::Milliseconds(6 * 600 + 500));
  EXPECT_EQ(b.time_to_first_token, absl::Milliseconds(7 * 600));
  EXPECT_EQ(metrics_.first,
            (std::vector<absl::Duration>{absl::Milliseconds(1800), absl::Milliseconds(4200)}));
  EXPECT_EQ(metrics_.gaps, std::vector<absl::Duration>(3, absl::Milliseconds(600)));
}

TEST_F(TimelineTest, ParkedTimeIsCountedApart) {
  Request low_request = MakeRequest(RandomTokens(5, 1), 4);
  low_request.priority = Priority::kLow;
  const Submitted low = Submit(std::move(low_request));
  Tick(2);
  Submit(MakeRequest(RandomTokens(5, 2), 3));
  Tick(5);
  EXPECT_EQ(low.observer->finishes(), 1);
  const Timeline timeline = low.observer->result().timeline;
  EXPECT_EQ(timeline.parks, 1);
  EXPECT_EQ(timeline.parked, absl::Milliseconds(1800));
  EXPECT_EQ(timeline.token_gap_max, absl::Milliseconds(4 * 600));
  EXPECT_EQ(timeline.token_gap_sum, absl::Milliseconds(6 * 600));
}

TEST_F(TimelineTest, StepsAreReported) {
  const Submitted running = Submit(MakeRequest(RandomTokens(40, 1), 4));
  Request waiting_request = MakeRequest(RandomTokens(5, 2), 1);
  waiting_request.tenant = "other";
  const Submitted waiting = Submit(std::move(waiting_request));
  Submit(MakeRequest(RandomTokens(5, 3), 1));
  Request refused = MakeRequest({1}, 1);
  refused.observer = std::make_shared<RecordingObserver>();
  EXPECT_FALSE(scheduler_->Submit(std::move(refused)).ok());
  Tick(1);
  ASSERT_EQ(metrics_.steps.size(), 1u);
  const SchedulerMetrics::Step& step = metrics_.steps[0];
  EXPECT_EQ(step.prefill_rows, 32);
  EXPECT_EQ(step.decode_rows, 0);
  EXPECT_EQ(step.model, absl::Milliseconds(100));
  EXPECT_EQ(step.total, absl::Milliseconds(100));
  EXPECT_EQ(step.running, 1);
  EXPECT_EQ(step.waiting, 2);
  EXPECT_EQ(step.refused[static_cast<int>(SchedulerError::kQueueFull)], 1);
  Tick(3);
  EXPECT_EQ(metrics_.steps.back().decode_rows, 1);
  EXPECT_EQ(metrics_.steps.back().refused[static_cast<int>(SchedulerError::kQueueFull)], 0);
  scheduler_->Cancel(running.id);
  for (int i = 0; i < 5; ++i) Tick(1);
  EXPECT_TRUE(scheduler_->Idle());
  EXPECT_EQ(metrics_.tenants, (std::vector<std::string>{"t", "other", "t"}));
  EXPECT_EQ(metrics_.codes,
            (std::vector<absl::StatusCode>{absl::StatusCode::kCancelled, absl::StatusCode::kOk,
                                           absl::StatusCode::kOk}));
  EXPECT_EQ(metrics_.generated, 3 + 1 + 1);
}

TEST_F(TimelineTest, ParksRestoresAndCheckpointsAreReported) {
  Request low = MakeRequest(RandomTokens(5, 1), 12);
  low.priority = Priority::kLow;
  low.checkpoint_every_tokens = 5;
  Submit(std::move(low));
  Tick(2);
  Submit(MakeRequest(RandomTokens(5, 2), 3));
  Tick(20);
  int parks = 0, restores = 0, checkpoints = 0;
  int64_t most_parked_bytes = 0;
  for (const SchedulerMetrics::Step& step : metrics_.steps) {
    parks += step.parks;
    restores += step.restores;
    checkpoints += step.checkpoints;
    most_parked_bytes = std::max(most_parked_bytes, step.parked_bytes);
  }
  EXPECT_EQ(parks, 1);
  EXPECT_EQ(restores, 1);
  EXPECT_EQ(checkpoints, 3);
  EXPECT_EQ(most_parked_bytes, static_cast<int64_t>(model_.state_layout().bytes()));
  EXPECT_EQ(scheduler_->stats().checkpoints, 3);
  // Three checkpoints, one park and two ends; back after parking.
  const auto bytes = static_cast<int64_t>(model_.state_layout().bytes());
  EXPECT_EQ(metrics_.moved_bytes[static_cast<size_t>(SchedulerMetrics::Move::kOutOfSlot)],
            6 * bytes);
  EXPECT_EQ(metrics_.moved_bytes[static_cast<size_t>(SchedulerMetrics::Move::kIntoSlot)], bytes);
}

TEST_F(TimelineTest, StatesThatComeAndGoWithRequestsAreReported) {
  const Submitted done = Submit(MakeRequest(RandomTokens(5, 1), 3));
  Tick(4);
  ASSERT_TRUE(done.observer->result().state.has_value());
  const auto bytes = static_cast<int64_t>(model_.state_layout().bytes());
  EXPECT_EQ(metrics_.moved_bytes, (std::array<int64_t, 2>{bytes, 0}));
  Request second = MakeRequest(RandomTokens(2, 2), 1);
  second.state = *done.observer->result().state;
  Submit(std::move(second));
  // One that ends in the queue moves nothing.
  const Submitted cancelled = Submit(MakeRequest(RandomTokens(5, 3), 1));
  scheduler_->Cancel(cancelled.id);
  Tick(3);
  EXPECT_EQ(metrics_.moved_bytes, (std::array<int64_t, 2>{2 * bytes, bytes}));
  EXPECT_EQ(metrics_.started, (std::vector<bool>{true, false, true}));
  EXPECT_EQ(metrics_.reasons[0], FinishReason::kMaxTokens);
}

}  // namespace
}  // namespace reprise::scheduler
