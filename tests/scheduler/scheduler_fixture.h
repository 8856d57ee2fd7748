// A scheduler over a PuppetModel, stepped by hand.
#ifndef REPRISE_TESTS_SCHEDULER_SCHEDULER_FIXTURE_H_
#define REPRISE_TESTS_SCHEDULER_SCHEDULER_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/testing/puppet_model.h"
#include "scheduler/testing/recording_observer.h"

namespace reprise::scheduler {

// The caller's thread alone.
inline kernels::Context OneThread() {
  static kernels::ThreadPool* const pool = kernels::ThreadPool::Create(1)->release();
  kernels::Context context;
  context.pool = pool;
  return context;
}

class SchedulerFixture : public ::testing::Test {
 protected:
  void Start(const SchedulerOptions& options) {
    absl::StatusOr<std::unique_ptr<Scheduler>> scheduler =
        Scheduler::Create(&model_, OneThread(), &clock_, options);
    ASSERT_TRUE(scheduler.ok()) << scheduler.status();
    scheduler_ = *std::move(scheduler);
  }

  void SetUp() override { Start(SmallOptions()); }

  void TearDown() override {
    if (scheduler_ == nullptr) return;
    EXPECT_TRUE(scheduler_->CheckIntegrity().ok());
  }

  static SchedulerOptions SmallOptions() {
    SchedulerOptions options;
    options.num_slots = 4;
    options.step_tokens = 32;
    options.prefill_chunk_tokens = 8;
    options.step_logit_rows = 16;
    options.max_queued = 50;
    options.max_queued_per_tenant = 40;
    return options;
  }

  struct Submitted {
    RequestId id = 0;
    std::shared_ptr<RecordingObserver> observer = std::make_shared<RecordingObserver>();
  };

  static Request MakeRequest(std::vector<int32_t> prompt, int max_tokens) {
    Request request;
    request.tenant = "t";
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.export_state = true;
    return request;
  }

  Submitted Submit(Request request) {
    Submitted submitted;
    request.observer = submitted.observer;
    absl::StatusOr<RequestId> id = scheduler_->Submit(std::move(request));
    EXPECT_TRUE(id.ok()) << id.status();
    submitted.id = id.value_or(0);
    return submitted;
  }

  void RunUntilIdle() {
    for (int i = 0; i < 100000 && !scheduler_->Idle(); ++i) scheduler_->Step();
    EXPECT_TRUE(scheduler_->Idle());
  }

  static std::vector<int32_t> RandomTokens(int count, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 64);
    return tokens;
  }

  PuppetModel model_{PuppetModel::Options()};
  FakeClock clock_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_TESTS_SCHEDULER_SCHEDULER_FIXTURE_H_
