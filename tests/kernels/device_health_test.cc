#include "kernels/device_health.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"

namespace reprise::kernels {
namespace {

TEST(DeviceHealth, TheFirstFailureCounts) {
  DeviceHealth health;
  EXPECT_FALSE(health.failed());
  EXPECT_TRUE(health.failure().ok());
  EXPECT_TRUE(health.Check("device.step.begin").ok());
  health.Fail(absl::InternalError("first"));
  health.Fail(absl::InternalError("second"));
  EXPECT_TRUE(health.failed());
  EXPECT_EQ(health.failure(), absl::InternalError("first"));
  EXPECT_EQ(health.Check("device.step.begin"), absl::InternalError("first"));
}

TEST(DeviceHealth, AListenerHearsOnceWheneverItComes) {
  DeviceHealth health;
  std::vector<std::string> heard;
  const auto note = [&](const absl::Status& why) { heard.emplace_back(why.message()); };
  health.SetListener(note);
  health.SetListener(note);
  EXPECT_TRUE(heard.empty());
  health.Fail(absl::InternalError("first"));
  health.Fail(absl::InternalError("second"));
  EXPECT_EQ(heard, std::vector<std::string>{"first"});
  health.SetListener(note);  // late
  EXPECT_EQ(heard, (std::vector<std::string>{"first", "first"}));

  DeviceHealth other;
  other.SetListener(note);
  other.SetListener(nullptr);
  other.Fail(absl::InternalError("unheard"));
  EXPECT_EQ(heard.size(), 2u);
}

TEST(DeviceHealth, ManyThreadsFindTheSameFailure) {
  for (int round = 0; round < 200; ++round) {
    DeviceHealth health;
    std::atomic<int> heard = 0;
    std::string why;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] { health.Fail(absl::InternalError(absl::StrCat(i))); });
    }
    health.SetListener([&](const absl::Status& status) {
      ++heard;
      why = std::string(status.message());
    });
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(heard, 1);
    EXPECT_EQ(why, health.failure().message());
  }
}

#ifdef REPRISE_FAULT_POINTS
TEST(DeviceHealth, FailsAtTheStepThatATestChose) {
  DeviceHealth health;
  ChooseFaultPoint("device.import:2");
  EXPECT_TRUE(health.Check("device.import").ok());
  EXPECT_TRUE(health.Check("device.copy").ok());
  EXPECT_FALSE(health.Check("device.import").ok());
  EXPECT_FALSE(health.Check("device.copy").ok()) << "for good";
  ChooseFaultPoint("");
}
#endif

}  // namespace
}  // namespace reprise::kernels
