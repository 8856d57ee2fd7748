// Many replicas: where sessions go, what a move costs, and what a sample says of all.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tools/simulate/generators.h"
#include "tools/simulate/simulation.h"

namespace reprise::simulate {
namespace {

SimulationOptions Options(int replicas) {
  SimulationOptions options;
  options.device = *DevicePreset("h100-2b");
  options.device.host_tier_bytes = 1e12;
  options.replicas = replicas;
  return options;
}

Report RunFleet(const GeneratorOptions& traffic, const SimulationOptions& options) {
  auto source = NewGenerator(traffic);
  EXPECT_TRUE(source.ok());
  auto report = Simulate(**source, options);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *report : Report();
}

TEST(Fleet, SessionsStayWhereTheyAre) {
  const GeneratorOptions chat{.kind = "chat", .scripts = 400, .rate = 20};
  const Report report = RunFleet(chat, Options(8));
  EXPECT_EQ(report.completed, report.turns);
  EXPECT_EQ(report.sessions_moved, 0);
  EXPECT_EQ(report.states_from_store, 0);
  EXPECT_EQ(report.states_local, report.turns - 400);
  EXPECT_GT(report.load_variation, 0);
}

TEST(Fleet, ForksFollowTheirRootUnlessToldOtherwise) {
  const GeneratorOptions trees{.kind = "agent-tree", .scripts = 100};
  SimulationOptions options = Options(8);
  options.virtual_nodes = 512;
  const Report together = RunFleet(trees, options);
  EXPECT_EQ(together.sessions_moved, 0);
  options.route_by_root = false;
  const Report apart = RunFleet(trees, options);
  const double forks = static_cast<double>(apart.turns - 100);
  EXPECT_NEAR(static_cast<double>(apart.sessions_moved) / forks, 7 / 8.0, 0.05);
  EXPECT_EQ(apart.states_from_store, apart.sessions_moved);
  EXPECT_GT(apart.all.ttft.mean(), together.all.ttft.mean());
}

TEST(Fleet, BoundedLoadsEvenTheLoadAndCostMoves) {
  const GeneratorOptions chat{.kind = "chat", .scripts = 1500, .rate = 60};
  SimulationOptions options = Options(8);
  options.virtual_nodes = 8;
  const Report free = RunFleet(chat, options);
  options.load_bound = 1.1;
  const Report bounded = RunFleet(chat, options);
  EXPECT_LT(bounded.load_variation, free.load_variation / 2);
  EXPECT_EQ(free.sessions_moved, 0);
  EXPECT_GT(bounded.sessions_moved, 100);
  EXPECT_GE(bounded.states_from_store, bounded.sessions_moved);
}

TEST(Fleet, AFailedReplicasTurnsGoOnElsewhere) {
  const GeneratorOptions chat{.kind = "chat", .scripts = 1000, .rate = 80};
  SimulationOptions options = Options(4);
  const Report calm = RunFleet(chat, options);
  options.events = {*ParseMembershipEvent("10:fail:2"), *ParseMembershipEvent("20:join:2")};
  const Report report = RunFleet(chat, options);
  EXPECT_EQ(report.completed, report.turns);
  EXPECT_GT(report.resubmitted, 0);
  EXPECT_GT(report.sessions_moved, 0);
  EXPECT_GE(report.states_from_store, report.sessions_moved);
  // Every token is delivered once, whatever was computed twice.
  EXPECT_EQ(report.all.itl.count(), calm.all.itl.count());
  EXPECT_EQ(report.all.ttft.count(), calm.all.ttft.count());
  EXPECT_GT(report.rows, calm.rows);
  // Clients of a failed replica come back after a second.
  EXPECT_GT(report.all.itl.max(), 1);
  EXPECT_LT(calm.all.itl.max(), 0.5);
}

TEST(Fleet, ADrainHandsOverAndComputesNothingTwice) {
  const GeneratorOptions chat{.kind = "chat", .scripts = 1000, .rate = 80};
  SimulationOptions options = Options(4);
  const Report calm = RunFleet(chat, options);
  options.events = {*ParseMembershipEvent("10:drain:2:0.1")};
  const Report report = RunFleet(chat, options);
  EXPECT_EQ(report.completed, report.turns);
  EXPECT_GT(report.resubmitted, 0);
  EXPECT_EQ(report.all.itl.count(), calm.all.itl.count());
  // What was decoded is not decoded again; only a prompt that was under way may be.
  EXPECT_NEAR(static_cast<double>(report.rows) / static_cast<double>(calm.rows), 1, 0.002);
  EXPECT_LT(report.all.itl.max(), 0.5);
}

TEST(Fleet, WithoutReplicasTurnsAreRefused) {
  SimulationOptions options = Options(2);
  options.events = {*ParseMembershipEvent("0:fail:0"), *ParseMembershipEvent("0:fail:1")};
  options.max_attempts = 3;
  const Report report = RunFleet({.kind = "chat", .scripts = 20, .rate = 5}, options);
  EXPECT_EQ(report.completed, 0);
  EXPECT_EQ(report.dropped, 20);
  EXPECT_EQ(report.abandoned, report.turns - 20);
  EXPECT_EQ(report.rejections, 60);
}

// What the sampled replicas say, against all of them with the scheduler.
class SampledAgainstFull : public testing::TestWithParam<const char*> {};

TEST_P(SampledAgainstFull, Agree) {
  GeneratorOptions traffic{.kind = GetParam(), .scripts = 4000, .rate = 100, .tenants = 4};
  if (traffic.kind == "agent-tree") {
    traffic.rate = 20;
    traffic.scripts = 1000;
  }
  SimulationOptions options = Options(32);
  options.virtual_nodes = 256;
  options.load_bound = 1.25;
  options.warmup = 10;
  const Report full = RunFleet(traffic, options);
  options.sampled = 8;
  const Report sampled = RunFleet(traffic, options);
  EXPECT_EQ(sampled.turns, full.turns);
  EXPECT_EQ(sampled.completed, full.completed);
  EXPECT_EQ(sampled.with_scheduler, 8);
  EXPECT_NEAR(
      static_cast<double>(sampled.all.ttft.count()) / static_cast<double>(full.all.ttft.count()),
      0.25, 0.03);
  const auto ratio = [](double a, double b) { return a / b; };
  EXPECT_NEAR(ratio(sampled.all.itl.mean(), full.all.itl.mean()), 1, 0.02);
  EXPECT_NEAR(ratio(sampled.all.ttft.mean(), full.all.ttft.mean()), 1, 0.10);
  EXPECT_NEAR(ratio(sampled.all.ttft.Percentile(95), full.all.ttft.Percentile(95)), 1, 0.15);
  EXPECT_NEAR(ratio(sampled.all.latency.mean(), full.all.latency.mean()), 1, 0.05);
  EXPECT_NEAR(ratio(sampled.duration, full.duration), 1, 0.02);
  EXPECT_NEAR(ratio(sampled.load_mean, full.load_mean), 1, 1e-9);
  EXPECT_NEAR(static_cast<double>(sampled.sessions_moved) / static_cast<double>(full.turns),
              static_cast<double>(full.sessions_moved) / static_cast<double>(full.turns), 0.03);
  EXPECT_NEAR(sampled.sampled_load_ratio, 1, 0.15);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SampledAgainstFull, testing::Values("chat", "agent-tree", "mixed"),
                         [](const auto& info) {
                           std::string name = info.param;
                           name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
                           return name;
                         });

}  // namespace
}  // namespace reprise::simulate
