// A device that fails for good, and one whose transfer of a state fails once. trace_test.cc lets
// the first happen anywhere.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/fault_point.h"
#include "kernels/device_health.h"
#include "scheduler/scheduler_error.h"
#include "scheduler/state_future.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class DeviceFailureTest : public SchedulerFixture {
 protected:
  void SetUp() override { StartWatched(SmallOptions()); }
  void TearDown() override {
    SchedulerFixture::TearDown();
    scheduler_.reset();
  }
  void StartWatched(const SchedulerOptions& options) {
    kernels::Context context = OneThread();
    context.health = &health_;
    scheduler_ = Scheduler::Create(&model_, context, &clock_, options).value();
  }
  void ExpectFailedWithDevice(const Submitted& submitted) {
    EXPECT_EQ(submitted.observer->finishes(), 1);
    const RequestResult result = submitted.observer->result();
    EXPECT_EQ(GetSchedulerError(result.status), SchedulerError::kDeviceFailed) << result.status;
    EXPECT_TRUE(absl::IsUnavailable(result.status));
    EXPECT_FALSE(result.state.has_value());
  }

  kernels::DeviceHealth health_;
};

TEST_F(DeviceFailureTest, AllRequestsEndInTheNextStepWhateverTheyDo) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 2;
  options.time_slice = absl::ZeroDuration();
  StartWatched(options);
  Request request = MakeRequest(RandomTokens(5, 1), 100);
  request.keep_partial = true;
  const Submitted decoding = Submit(request);
  scheduler_->Step();
  EXPECT_EQ(decoding.observer->tokens().size(), 1u);
  request.prompt = RandomTokens(200, 2);
  const Submitted in_prompt = Submit(request);
  for (int i = 0; i < 3; ++i) scheduler_->Step();
  request.priority = Priority::kHigh;
  const Submitted high = Submit(request);
  scheduler_->Step();
  ASSERT_EQ(scheduler_->stats().parked, 1);
  request.priority = Priority::kLow;
  request.keep_partial = false;
  const Submitted waiting = Submit(request);
  request.prompt.clear();
  request.state_source = std::make_shared<StateFuture>();
  const std::shared_ptr<StateFuture> source = request.state_source;
  const Submitted loading = Submit(request);
  const size_t tokens = decoding.observer->tokens().size();
  const int64_t forwards = model_.forwards;
  const Submitted arriving = Submit(MakeRequest(RandomTokens(5, 1), 3));

  health_.Fail(absl::InternalError("a kernel has failed"));
  EXPECT_FALSE(scheduler_->Step());
  EXPECT_TRUE(scheduler_->Idle());
  for (const Submitted& each : {decoding, in_prompt, high, waiting, loading, arriving}) {
    ExpectFailedWithDevice(each);
  }
  EXPECT_EQ(decoding.observer->tokens().size(), tokens);
  EXPECT_EQ(model_.forwards, forwards);
  const SchedulerStats stats = scheduler_->stats();
  EXPECT_EQ(stats.running + stats.waiting + stats.parked, 0);
  EXPECT_EQ(stats.free_slots, 2);
  EXPECT_EQ(stats.parked_bytes, 0);

  // What comes late finds nobody, and a drain nothing to wait for.
  source->Set(absl::NotFoundError("gone"));
  scheduler_->Cancel(decoding.id);
  scheduler_->Drain(clock_.Now() + absl::Hours(1));
  EXPECT_FALSE(scheduler_->Step());
  ExpectFailedWithDevice(decoding);
  ExpectFailedWithDevice(loading);
}

TEST_F(DeviceFailureTest, NewRequestsAreRefused) {
  health_.Fail(absl::InternalError("a kernel has failed"));
  Request request = MakeRequest(RandomTokens(5, 1), 3);
  const auto observer = std::make_shared<RecordingObserver>();
  request.observer = observer;
  const absl::Status refused = scheduler_->Submit(std::move(request)).status();
  EXPECT_EQ(GetSchedulerError(refused), SchedulerError::kDeviceFailed);
  EXPECT_TRUE(absl::IsUnavailable(refused));
  EXPECT_EQ(request.prompt.size(), 5u);  // not consumed
  EXPECT_TRUE(scheduler_->Idle());
  EXPECT_EQ(observer->finishes(), 0);
  EXPECT_EQ(scheduler_->stats().rejected, 1);
}

TEST_F(DeviceFailureTest, AStepThatFailsWithTheDeviceGivesNoToken) {
  const Submitted one = Submit(MakeRequest(RandomTokens(5, 1), 100));
  const Submitted two = Submit(MakeRequest(RandomTokens(50, 2), 100));
  for (int i = 0; i < 4; ++i) scheduler_->Step();
  const size_t tokens = one.observer->tokens().size();
  EXPECT_GT(tokens, 0u);
  model_.on_forward = [&](const models::RaggedBatch&) {
    health_.Fail(absl::InternalError("an illegal address"));
    return absl::InternalError("MatMul[rows 1]: an illegal address");
  };
  scheduler_->Step();
  scheduler_->Step();
  ExpectFailedWithDevice(one);
  ExpectFailedWithDevice(two);
  EXPECT_EQ(one.observer->tokens().size(), tokens);
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(DeviceFailureTest, AStepThatFailsAloneLeavesTheDeviceInService) {
  const Submitted one = Submit(MakeRequest(RandomTokens(5, 1), 100));
  model_.on_forward = [](const models::RaggedBatch&) { return absl::InternalError("too wide"); };
  scheduler_->Step();
  EXPECT_TRUE(absl::IsInternal(one.observer->result().status));
  model_.on_forward = nullptr;
  const Submitted two = Submit(MakeRequest(RandomTokens(5, 1), 10));
  RunUntilIdle();
  EXPECT_EQ(two.observer->tokens(), model_.Continue(RandomTokens(5, 1), 10));
}

#ifdef REPRISE_FAULT_POINTS
TEST_F(DeviceFailureTest, ACheckpointThatCannotBeReadEndsItsRequestAlone) {
  for (const Delivery delivery : {Delivery::kAtOnce, Delivery::kBesideNextStep}) {
    SchedulerOptions options = SmallOptions();
    options.delivery = delivery;
    StartWatched(options);
    Request request = MakeRequest(RandomTokens(5, 1), 50);
    request.checkpoint_every_tokens = 10;
    const Submitted one = Submit(request);
    const Submitted other = Submit(MakeRequest(RandomTokens(5, 2), 50));
    ChooseFaultPoint(std::string(models::StateSlots::kExportFaultPoint) + ":2");
    RunUntilIdle();
    ChooseFaultPoint("");
    const RequestResult result = one.observer->result();
    EXPECT_EQ(one.observer->finishes(), 1);
    EXPECT_TRUE(absl::IsInternal(result.status)) << result.status;
    EXPECT_FALSE(result.state.has_value());
    EXPECT_EQ(one.observer->checkpoints().size(), 1u);
    EXPECT_LT(one.observer->tokens().size(), 50u);
    EXPECT_EQ(other.observer->tokens(), model_.Continue(RandomTokens(5, 2), 50));
    EXPECT_EQ(scheduler_->stats().free_slots, options.num_slots);
    EXPECT_TRUE(scheduler_->CheckIntegrity().ok());
  }
}

TEST_F(DeviceFailureTest, AParkedStateThatIsLostEndsItsRequestAlone) {
  SchedulerOptions options = SmallOptions();
  options.num_slots = 1;
  options.time_slice = absl::ZeroDuration();
  StartWatched(options);
  Request request = MakeRequest(RandomTokens(5, 1), 50);
  const Submitted low = Submit(request);
  for (int i = 0; i < 5; ++i) scheduler_->Step();
  request.priority = Priority::kHigh;
  request.prompt = RandomTokens(5, 2);
  ChooseFaultPoint(models::StateSlots::kExportFaultPoint);
  const Submitted high = Submit(request);
  RunUntilIdle();
  ChooseFaultPoint("");
  EXPECT_EQ(low.observer->finishes(), 1);
  EXPECT_TRUE(absl::IsInternal(low.observer->result().status)) << low.observer->result().status;
  EXPECT_FALSE(low.observer->result().state.has_value());
  EXPECT_EQ(high.observer->tokens(), model_.Continue(RandomTokens(5, 2), 50));
  EXPECT_EQ(scheduler_->stats().free_slots, 1);
  EXPECT_EQ(scheduler_->stats().parked_bytes, 0);
}

TEST_F(DeviceFailureTest, APrefixThatCannotBeReadIsNotKeptAndHurtsNobody) {
  for (const bool fails : {false, true}) {
    SchedulerOptions options = SmallOptions();
    PrefixCacheOptions cache;
    cache.max_bytes = 1 << 20;
    options.prefix_cache = PrefixCache::Create(&clock_, cache).value();
    options.keep_policy.min_tokens = 1;
    StartWatched(options);
    Request request = MakeRequest(RandomTokens(40, 1), 5);
    request.cache_marks = {20};
    if (fails) ChooseFaultPoint(models::StateSlots::kExportFaultPoint);
    const Submitted first = Submit(request);
    RunUntilIdle();
    ChooseFaultPoint("");
    EXPECT_EQ(first.observer->tokens(), model_.Continue(RandomTokens(40, 1), 5));
    EXPECT_GT(scheduler_->stats().kept_prefixes, 0) << "those after it";
    // Goes another way after the mark.
    request.prompt.resize(25);
    request.prompt.push_back(1);
    request.cache_marks.clear();
    const Submitted second = Submit(request);
    RunUntilIdle();
    EXPECT_EQ(second.observer->tokens(), model_.Continue(request.prompt, 5));
    EXPECT_EQ(second.observer->result().reuse.cached_tokens, fails ? 0 : 20);
    EXPECT_TRUE(options.prefix_cache->CheckIntegrity().ok());
  }
}
#endif

}  // namespace
}  // namespace reprise::scheduler
