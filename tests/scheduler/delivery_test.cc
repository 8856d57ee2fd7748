// When observers hear of a step: at once, or while the next one runs.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class DeliveryTest : public SchedulerFixture {
 protected:
  void StartWith(Delivery delivery) {
    SchedulerOptions options = SmallOptions();
    options.delivery = delivery;
    Start(options);
  }
  // Beside the next step.
  std::shared_ptr<PrefixCache> StartCached() {
    PrefixCacheOptions cache;
    cache.max_bytes = 1 << 20;
    SchedulerOptions options = SmallOptions();
    options.delivery = Delivery::kBesideNextStep;
    options.prefix_cache = *PrefixCache::Create(&clock_, cache);
    Start(options);
    return options.prefix_cache;
  }
};

// Writes down what it hears, and who had the thread then.
class Diary final : public RequestObserver {
 public:
  bool MayStop() const override { return false; }
  Verdict OnToken(const kernels::SampledToken& token) override {
    absl::StrAppend(&text, "t", token.id, " ");
    return Verdict::kContinue;
  }
  void OnCheckpoint(Checkpoint checkpoint) override {
    absl::StrAppend(&text, "c", checkpoint.state.token_count(), "+", checkpoint.new_tokens.size(),
                    ":", checkpoint.new_tokens.back(), " ");
  }
  void OnFinish(RequestResult result) override {
    absl::StrAppend(&text, "f", static_cast<int>(result.status.code()), "/",
                    result.generated.size(), " ");
  }

  std::string text;
};

TEST_F(DeliveryTest, ATokenIsHeardBesideTheNextStep) {
  StartWith(Delivery::kBesideNextStep);
  const Submitted one = Submit(MakeRequest({1, 2, 3}, 3));
  EXPECT_TRUE(scheduler_->Step());
  EXPECT_EQ(one.observer->tokens().size(), 0u);
  size_t heard_before_rows = 0;
  model_.on_forward = [&](const models::RaggedBatch&) {
    heard_before_rows = one.observer->tokens().size();
    return absl::OkStatus();
  };
  EXPECT_TRUE(scheduler_->Step());
  // The next step had begun, and its rows had not run.
  EXPECT_EQ(heard_before_rows, 1u);
  EXPECT_TRUE(scheduler_->Step());
  EXPECT_EQ(one.observer->tokens().size(), 2u);
  EXPECT_EQ(one.observer->finishes(), 0);
  // Its end is not over before it is heard of, and needs no rows to be.
  EXPECT_FALSE(scheduler_->Idle());
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_EQ(one.observer->tokens().size(), 3u);
  EXPECT_EQ(one.observer->finishes(), 1);
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(DeliveryTest, AtOnceIsTheDefaultOnTheCpu) {
  const Submitted one = Submit(MakeRequest({1, 2, 3}, 1));
  EXPECT_TRUE(scheduler_->Step());
  EXPECT_EQ(one.observer->tokens().size(), 1u);
  EXPECT_EQ(one.observer->finishes(), 1);
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(DeliveryTest, BothGiveTheSameEventsInTheSameOrder) {
  const auto run = [&](Delivery delivery) {
    StartWith(delivery);
    std::vector<std::shared_ptr<Diary>> diaries;
    std::vector<RequestId> ids;
    for (int i = 0; i < 6; ++i) {
      Request request = MakeRequest(RandomTokens(5 + 7 * i, i), 4 + 3 * i);
      request.checkpoint_every_tokens = i % 2 == 0 ? 6 : 0;
      request.observer = diaries.emplace_back(std::make_shared<Diary>());
      const absl::StatusOr<RequestId> id = scheduler_->Submit(std::move(request));
      EXPECT_TRUE(id.ok()) << id.status();
      ids.push_back(*id);
    }
    for (int i = 0; i < 7; ++i) scheduler_->Step();
    scheduler_->Cancel(ids[5]);
    RunUntilIdle();
    std::vector<std::string> texts;
    for (const auto& diary : diaries) texts.push_back(diary->text);
    return texts;
  };
  const std::vector<std::string> at_once = run(Delivery::kAtOnce);
  EXPECT_EQ(run(Delivery::kBesideNextStep), at_once);
  EXPECT_EQ(at_once[5].substr(at_once[5].size() - 5, 2), "f1") << at_once[5];
}

TEST_F(DeliveryTest, WhoMayStopHearsAtOnceAndStopsAtItsToken) {
  StartWith(Delivery::kBesideNextStep);
  Request request = MakeRequest({1, 2, 3}, 20);
  const auto observer = std::make_shared<RecordingObserver>();
  observer->on_token = [&](const kernels::SampledToken&) {
    return observer->tokens().size() == 4 ? RequestObserver::Verdict::kStop
                                          : RequestObserver::Verdict::kContinue;
  };
  request.observer = observer;
  ASSERT_TRUE(scheduler_->Submit(std::move(request)).ok());
  EXPECT_TRUE(scheduler_->Step());
  EXPECT_EQ(observer->tokens().size(), 1u);
  RunUntilIdle();
  EXPECT_EQ(observer->result().reason, FinishReason::kStopString);
  EXPECT_EQ(observer->result().generated, observer->tokens());
}

TEST_F(DeliveryTest, AFailedStepKeepsWhatWasHeardBefore) {
  StartWith(Delivery::kBesideNextStep);
  const Submitted one = Submit(MakeRequest({1, 2, 3}, 5));
  EXPECT_TRUE(scheduler_->Step());
  model_.on_forward = [](const models::RaggedBatch&) { return absl::InternalError("broken"); };
  EXPECT_TRUE(scheduler_->Step());
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_EQ(one.observer->tokens().size(), 1u);
  EXPECT_EQ(one.observer->finishes(), 1);
  EXPECT_TRUE(absl::IsInternal(one.observer->result().status));
}

TEST_F(DeliveryTest, NothingIsLeftUntoldAtTheEnd) {
  StartWith(Delivery::kBesideNextStep);
  const Submitted one = Submit(MakeRequest({1, 2, 3}, 1));
  const Submitted two = Submit(MakeRequest({4, 5, 6}, 9));
  EXPECT_TRUE(scheduler_->Step());
  EXPECT_EQ(one.observer->finishes(), 0);
  scheduler_ = nullptr;
  EXPECT_EQ(one.observer->tokens().size(), 1u);
  EXPECT_TRUE(one.observer->result().status.ok());
  EXPECT_EQ(two.observer->tokens().size(), 1u);
  EXPECT_TRUE(absl::IsCancelled(two.observer->result().status));
}

// Checkpoints leave beside the next step; one whose request is cancelled before that step comes
// before the end all the same.
TEST_F(DeliveryTest, ACheckpointOnItsWayComesBeforeTheEnd) {
  StartWith(Delivery::kBesideNextStep);
  const auto diary = std::make_shared<Diary>();
  Request request = MakeRequest({1, 2, 3}, 30);
  request.checkpoint_every_tokens = 4;
  request.observer = diary;
  const RequestId id = scheduler_->Submit(std::move(request)).value();
  while (scheduler_->stats().checkpoints == 0) scheduler_->Step();
  EXPECT_EQ(diary->text.find('c'), std::string::npos);
  scheduler_->Cancel(id);
  RunUntilIdle();
  const size_t checkpoint = diary->text.find(" c"), finish = diary->text.find(" f");
  ASSERT_NE(checkpoint, std::string::npos) << diary->text;
  ASSERT_NE(finish, std::string::npos) << diary->text;
  EXPECT_LT(checkpoint, finish);
}

TEST_F(DeliveryTest, ACheckpointIsHeardInAStepWithoutRows) {
  StartWith(Delivery::kBesideNextStep);
  Request request = MakeRequest({1, 2, 3}, 30);
  request.checkpoint_every_tokens = 4;
  const Submitted one = Submit(std::move(request));
  while (scheduler_->stats().checkpoints == 0) scheduler_->Step();
  EXPECT_EQ(one.observer->checkpoints().size(), 0u);
  one.observer->writable = false;
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_EQ(one.observer->checkpoints().size(), 1u);
}

TEST_F(DeliveryTest, WhatLeavesForTheCacheArrivesThoughTheSchedulerEnds) {
  const auto cache = StartCached();
  const std::vector<int32_t> prompt = RandomTokens(100, 3);
  Submit(MakeRequest(prompt, 50));
  while (scheduler_->stats().prefill_tokens < 100) scheduler_->Step();
  EXPECT_EQ(cache->TotalStats().entries, 0);
  scheduler_ = nullptr;
  EXPECT_EQ(cache->TotalStats().entries, 1);
}

// What is kept for others is there for the request after next, exact and once.
TEST_F(DeliveryTest, PrefixesLeaveBesideTheSteps) {
  StartCached();
  const std::vector<int32_t> prompt = RandomTokens(100, 1);
  const Submitted first = Submit(MakeRequest(prompt, 3));
  RunUntilIdle();
  std::vector<int32_t> longer = prompt;
  longer.push_back(7);
  const Submitted second = Submit(MakeRequest(longer, 5));
  RunUntilIdle();
  EXPECT_EQ(second.observer->result().reuse.cached_tokens, 100);
  EXPECT_EQ(second.observer->result().generated, model_.Continue(longer, 5));
}

}  // namespace
}  // namespace reprise::scheduler
