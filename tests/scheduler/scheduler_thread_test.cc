// The scheduler on a thread of its own, used by many others.
#include "scheduler/scheduler_thread.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

class SchedulerThreadTest : public SchedulerFixture {
 protected:
  std::unique_ptr<SchedulerThread> StartThread(const SchedulerOptions& options) {
    absl::StatusOr<std::unique_ptr<Scheduler>> created =
        Scheduler::Create(&model_, OneThread(), &real_clock_, options);
    EXPECT_TRUE(created.ok()) << created.status();
    return std::make_unique<SchedulerThread>(*std::move(created));
  }

  RealClock real_clock_;
};

TEST_F(SchedulerThreadTest, RunsRequestsFromManyThreads) {
  const std::unique_ptr<SchedulerThread> scheduler = StartThread(SmallOptions());
  std::vector<std::thread> clients;
  std::vector<std::shared_ptr<RecordingObserver>> observers(24);
  for (int i = 0; i < 24; ++i) {
    observers[i] = std::make_shared<RecordingObserver>();
    clients.emplace_back([&, i] {
      Request request;
      request.tenant = "t" + std::to_string(i % 3);
      request.prompt = {1, i};
      request.max_tokens = i % 5 == 0 ? 1'000'000 : 20;
      request.observer = observers[i];
      absl::StatusOr<RequestId> id = scheduler->Submit(std::move(request));
      ASSERT_TRUE(id.ok());
      if (i % 5 == 0) {
        absl::SleepFor(absl::Milliseconds(2));
        scheduler->Cancel(*id);
      }
      EXPECT_TRUE(observers[i]->WaitFinished(kPatience));
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(scheduler->WaitIdle(absl::Now() + kPatience));
  for (int i = 0; i < 24; ++i) {
    EXPECT_EQ(observers[i]->finishes(), 1);
    if (i % 5 == 0) continue;
    EXPECT_EQ(observers[i]->tokens(), model_.Continue({1, i}, 20));
  }
  scheduler->Stop();
}

TEST_F(SchedulerThreadTest, AnArrivingStateWakesIt) {
  const std::vector<int32_t> prompt = RandomTokens(30, 9);
  const Submitted fed = Submit(MakeRequest(prompt, 0));
  RunUntilIdle();
  const std::unique_ptr<SchedulerThread> scheduler = StartThread(SmallOptions());
  Request loading = MakeRequest({}, 5);
  const auto future = loading.state_source = std::make_shared<StateFuture>();
  const auto observer = std::make_shared<RecordingObserver>();
  loading.observer = observer;
  ASSERT_TRUE(scheduler->Submit(std::move(loading)).ok());
  std::thread loader([&] { future->Set(*fed.observer->result().state); });
  EXPECT_TRUE(observer->WaitFinished(kPatience));
  loader.join();
  EXPECT_EQ(observer->tokens(), model_.Continue(prompt, 5));
}

// Submits, loads, cancels, slow readers and a drain at the same time: for the thread sanitizer, and
// for what is lost or ends twice.
TEST_F(SchedulerThreadTest, EverythingAtOnce) {
  SchedulerOptions options = SmallOptions();
  options.time_slice = absl::Microseconds(200);
  options.park_paused_after = absl::ZeroDuration();
  options.max_queued = options.max_queued_per_tenant = 20;
  std::unique_ptr<SchedulerThread> scheduler = StartThread(options);
  std::atomic<int> tried = 0, accepted = 0;
  absl::Mutex mutex;
  std::vector<std::shared_ptr<RecordingObserver>> observers;
  std::vector<std::thread> clients;
  for (int client = 0; client < 6; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937 random(client);
      for (int i = 0; i < 60; ++i, ++tried) {
        Request request = MakeRequest({client, i}, 1 + static_cast<int>(random() % 40));
        request.tenant = "t" + std::to_string(random() % 3);
        request.priority = static_cast<Priority>(random() % kNumPriorities);
        request.checkpoint_every_tokens = 10;
        if (random() % 4 == 0) request.deadline = absl::Now() + absl::Milliseconds(5);
        const auto observer = std::make_shared<RecordingObserver>();
        request.observer = observer;
        const auto future = random() % 2 == 0 ? std::make_shared<StateFuture>() : nullptr;
        request.state_source = future;
        const absl::StatusOr<RequestId> id = scheduler->Submit(std::move(request));
        if (!id.ok()) {
          EXPECT_NE(GetSchedulerError(id.status()), SchedulerError::kNone) << id.status();
          continue;
        }
        ++accepted;
        {
          absl::MutexLock lock(&mutex);
          observers.push_back(observer);
        }
        if (future != nullptr) future->Set(SequenceState());
        observer->writable = random() % 2 == 0;
        if (random() % 4 == 0) scheduler->Cancel(*id);
        if (random() % 3 == 0) absl::SleepFor(absl::Microseconds(random() % 500));
        observer->writable = true;
        scheduler->Wake();
      }
    });
  }
  clients.emplace_back([&] {
    while (tried < 250) absl::SleepFor(absl::Microseconds(100));
    scheduler->Drain(absl::Now() + absl::Seconds(1));
  });
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(scheduler->WaitIdle(absl::Now() + kPatience));
  EXPECT_EQ(scheduler->stats().parked_bytes, 0);
  EXPECT_EQ(static_cast<int>(observers.size()), accepted);
  for (const auto& observer : observers) EXPECT_EQ(observer->finishes(), 1);
}

}  // namespace
}  // namespace reprise::scheduler
