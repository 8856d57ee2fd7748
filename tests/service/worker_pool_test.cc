#include "service/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "service/busy_sessions.h"
#include "service/call_gate.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

TEST(WorkerPoolTest, EverythingQueuedIsRunBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    WorkerPool pool(3, 1000);
    for (int i = 0; i < 500; ++i) {
      if (i % 2 == 0) {
        ASSERT_TRUE(pool.TryRun([&] { ++ran; }));
      } else {
        pool.Run([&] { ++ran; });
      }
    }
  }
  EXPECT_EQ(ran, 500);
}

TEST(WorkerPoolTest, NewWorkIsRefusedWhenTooMuchWaitsAndAdmittedWorkIsNot) {
  absl::Notification started, go;
  std::string order;
  {
    WorkerPool pool(1, 2);
    ASSERT_TRUE(pool.TryRun([&] {
      started.Notify();
      go.WaitForNotification();
    }));
    started.WaitForNotification();
    EXPECT_TRUE(pool.TryRun([&] { order += "n"; }));
    EXPECT_TRUE(pool.TryRun([&] { order += "n"; }));
    EXPECT_FALSE(pool.TryRun([&] { order += "x"; }));
    pool.Run([&] { order += "A"; });
    go.Notify();
  }
  EXPECT_EQ(order, "Ann");
}

TEST(CallGateTest, AClosedGateLetsNobodyInAndKnowsWhenAllAreOut) {
  CallGate gate;
  auto pass = gate.Enter();
  ASSERT_TRUE(pass.ok());
  EXPECT_EQ(gate.calls(), 1);
  gate.Close();
  EXPECT_EQ(ReasonOf(gate.Enter().status()), v1::ERROR_REASON_DRAINING);
  EXPECT_FALSE(gate.WaitEmpty(absl::Now()));
  {
    const CallGate::Pass moved = *std::move(pass);
    EXPECT_EQ(gate.calls(), 1);
  }
  EXPECT_TRUE(gate.WaitEmpty(absl::Now()));
}

TEST(BusySessionsTest, ASessionIsBusyUntilItsGuardGoes) {
  BusySessions busy;
  auto guard = busy.Mark("t", "a");
  ASSERT_TRUE(guard.ok());
  EXPECT_EQ(ReasonOf(busy.Mark("t", "a").status()), v1::ERROR_REASON_SESSION_BUSY);
  EXPECT_TRUE(busy.Mark("t", "b").ok());
  EXPECT_TRUE(busy.Mark("other", "a").ok());
  {
    BusySessions::Guard moved = *std::move(guard);
    EXPECT_FALSE(busy.Mark("t", "a").ok());
  }
  EXPECT_TRUE(busy.Mark("t", "a").ok());
}

}  // namespace
}  // namespace reprise::service
