#include "scheduler/internal/slot_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace reprise::scheduler {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

class SlotPolicyTest : public ::testing::Test {
 protected:
  SlotPolicyTest() {
    options_.time_slice = absl::Seconds(2);
    options_.park_paused_after = absl::Milliseconds(100);
  }

  static SlotHolder Holder(absl::Duration held, Priority priority = Priority::kNormal) {
    SlotHolder holder;
    holder.priority = priority;
    holder.same_tenant = true;
    holder.slot_since = kNow - held;
    return holder;
  }
  static SlotContender Contender(Priority priority = Priority::kNormal, bool overdue = false) {
    return {priority, 1.0, overdue, /*started=*/true};
  }
  int Choose(const std::vector<SlotHolder>& holders, const SlotContender& contender) {
    return ChooseVictim(holders, contender, kNow, options_);
  }

  SchedulerOptions options_;
};

TEST_F(SlotPolicyTest, AFreshHolderStaysAndAnOldOneGoes) {
  EXPECT_EQ(Choose({Holder(absl::Seconds(1))}, Contender()), -1);
  EXPECT_EQ(Choose({Holder(absl::Seconds(2)), Holder(absl::Seconds(3))}, Contender()), 1);
}

TEST_F(SlotPolicyTest, ATenantsNewRequestsWaitForItsRunningOnes) {
  SlotContender fresh = Contender();
  fresh.started = false;
  std::vector<SlotHolder> holders = {Holder(absl::Seconds(9))};
  EXPECT_EQ(Choose(holders, fresh), -1);
  fresh.overdue = true;
  EXPECT_EQ(Choose(holders, fresh), 0);
  fresh.overdue = false;
  holders[0].same_tenant = false;
  holders[0].tenant_share = 1.0;
  EXPECT_EQ(Choose(holders, fresh), 0);
}

TEST_F(SlotPolicyTest, ALowerPriorityGoesAtOnceAHigherOneOnlyToTheOverdue) {
  const std::vector<SlotHolder> holders = {Holder(absl::Seconds(9), Priority::kHigh),
                                           Holder(absl::Seconds(0), Priority::kNormal),
                                           Holder(absl::Seconds(0), Priority::kLow)};
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh)), 2);
  EXPECT_EQ(Choose(holders, Contender(Priority::kNormal)), 2);
  EXPECT_EQ(Choose(holders, Contender(Priority::kLow)), -1);
  EXPECT_EQ(Choose(holders, Contender(Priority::kLow, /*overdue=*/true)), 0);
}

TEST_F(SlotPolicyTest, AClientThatDoesNotReadGoesFirst) {
  std::vector<SlotHolder> holders = {Holder(absl::Seconds(0), Priority::kLow),
                                     Holder(absl::Seconds(0), Priority::kHigh)};
  holders[1].paused_since = kNow - absl::Milliseconds(50);
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh)), 0);
  holders[1].paused_since = kNow - absl::Milliseconds(100);
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh)), 1);
  EXPECT_EQ(Choose(holders, Contender(Priority::kLow)), 1);
}

TEST_F(SlotPolicyTest, ProtectionHoldsUnlessTheClientDoesNotRead) {
  std::vector<SlotHolder> holders = {Holder(absl::Seconds(1), Priority::kLow)};
  holders[0].protected_until = kNow + absl::Seconds(1);
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh)), -1);
  holders[0].paused_since = kNow - absl::Seconds(1);
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh)), 0);
  holders[0].movable = false;
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh)), -1);
}

TEST_F(SlotPolicyTest, WhoHasHadNoRowStaysUnlessItsClientDoesNotRead) {
  std::vector<SlotHolder> holders = {Holder(absl::Seconds(9), Priority::kLow)};
  holders[0].served = false;
  EXPECT_EQ(Choose(holders, Contender(Priority::kHigh, /*overdue=*/true)), -1);
  holders[0].paused_since = kNow - absl::Seconds(1);
  EXPECT_EQ(Choose(holders, Contender()), 0);
}

TEST_F(SlotPolicyTest, ATenantDoesNotTakeFromOneWithLess) {
  std::vector<SlotHolder> holders = {Holder(absl::Seconds(9)), Holder(absl::Seconds(3))};
  holders[0].same_tenant = false;
  holders[0].tenant_share = 1.0;
  holders[1].tenant_share = 3.0;
  EXPECT_EQ(Choose(holders, {Priority::kNormal, 4.0, false, true}), 1);
  holders[1].slot_since = kNow;
  EXPECT_EQ(Choose(holders, {Priority::kNormal, 4.0, false, true}), -1);
  EXPECT_EQ(Choose(holders, {Priority::kNormal, 1.0, false, true}), 0);
  EXPECT_EQ(Choose(holders, {Priority::kNormal, 4.0, true, true}), 0);
  holders[0].slot_since = kNow;  // none has used up its slice: the larger share goes
  EXPECT_EQ(Choose(holders, {Priority::kNormal, 4.0, true, true}), 1);
}

}  // namespace
}  // namespace reprise::scheduler
