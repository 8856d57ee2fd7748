// Shares of tenants, from Submit to the rows that they got.
#include <gtest/gtest.h>

#include <map>

#include "scheduler/internal/tenants.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class FairShareTest : public SchedulerFixture {
 protected:
  static SchedulerOptions Weighted() {
    SchedulerOptions options = SmallOptions();
    options.num_slots = 8;
    options.max_queued = options.max_queued_per_tenant = 200;
    options.tenant_weight = [](const std::string& tenant) { return tenant == "big" ? 3.0 : 1.0; };
    return options;
  }

  Submitted Ask(const std::string& tenant, int prompt_tokens, int max_tokens, int seed) {
    Request request = MakeRequest(RandomTokens(prompt_tokens, seed), max_tokens);
    request.tenant = tenant;
    const Submitted submitted = Submit(std::move(request));
    asked_[tenant].push_back(submitted);
    return submitted;
  }

  // What each tenant has had computed, known once its requests were cancelled.
  std::map<std::string, double> ComputedTokens() {
    for (const auto& [tenant, requests] : asked_) {
      for (const Submitted& request : requests) scheduler_->Cancel(request.id);
    }
    RunUntilIdle();
    std::map<std::string, double> computed;
    for (const auto& [tenant, requests] : asked_) {
      for (const Submitted& request : requests) {
        computed[tenant] += static_cast<double>(request.observer->result().computed_tokens);
      }
    }
    return computed;
  }

  std::map<std::string, std::vector<Submitted>> asked_;
};

TEST_F(FairShareTest, PromptRowsFollowTheWeights) {
  Start(Weighted());
  for (int i = 0; i < 6; ++i) Ask("small", 20000, 1, i);
  for (int i = 0; i < 2; ++i) Ask("big", 20000, 1, 10 + i);
  for (int i = 0; i < 500; ++i) scheduler_->Step();
  std::map<std::string, double> computed = ComputedTokens();
  EXPECT_EQ(computed["small"] + computed["big"], 500 * 32);
  EXPECT_NEAR(computed["big"] / computed["small"], 3.0, 0.05);
}

TEST_F(FairShareTest, SlotsFollowTheWeights) {
  SchedulerOptions options = Weighted();
  options.time_slice = absl::Milliseconds(100);
  options.max_wait = absl::Hours(1);
  Start(options);
  for (int i = 0; i < 20; ++i) {
    Ask("small", 3, 100000, i);
    Ask("big", 3, 100000, 100 + i);
  }
  for (int i = 0; i < 600; ++i) {
    scheduler_->Step();
    clock_.Advance(absl::Milliseconds(50));
  }
  ASSERT_TRUE(scheduler_->CheckIntegrity().ok());
  std::map<std::string, double> computed = ComputedTokens();
  EXPECT_NEAR(computed["big"] / computed["small"], 3.0, 0.2);
}

TEST_F(FairShareTest, AShortPromptIsNotHeldUpByLongOnes) {
  Start(Weighted());
  for (int i = 0; i < 5; ++i) Ask("small", 20000, 1, i);
  for (int i = 0; i < 10; ++i) scheduler_->Step();
  const Submitted same = Ask("small", 20, 1, 50), other = Ask("third", 20, 1, 51);
  for (int i = 0; i < 3; ++i) scheduler_->Step();
  EXPECT_EQ(other.observer->finishes(), 1);
  for (int i = 0; i < 12; ++i) scheduler_->Step();
  EXPECT_EQ(same.observer->finishes(), 1);
}

TEST(TenantTableTest, ComingBackGainsNothing) {
  TenantTable table;
  Tenant* steady = table.Enter("steady", 1.0);
  Tenant* visitor = table.Enter("visitor", 1.0);
  steady->service = 100;
  visitor->service = 150;
  table.Leave(visitor);
  visitor = table.Enter("visitor", 1.0);
  EXPECT_EQ(visitor->service, 150);  // what it had beyond the others is remembered
  table.Leave(visitor);
  steady->service = 1000;
  visitor = table.Enter("visitor", 1.0);
  EXPECT_EQ(visitor->service, 1000);  // and idle time saves nothing up
}

TEST(TenantTableTest, TenantsThatAreGoneAreForgotten) {
  TenantTable table;
  Tenant* steady = table.Enter("steady", 1.0);
  for (int i = 0; i < 100000; ++i) {
    table.Leave(table.Enter("tenant" + std::to_string(i), 1.0));
    ++steady->service;
    ASSERT_LE(table.size(), 200);
  }
  table.Leave(steady);
  for (int i = 0; i < 1000; ++i) table.Leave(table.Enter("other" + std::to_string(i), 1.0));
  EXPECT_LE(table.size(), 200);
}

}  // namespace
}  // namespace reprise::scheduler
