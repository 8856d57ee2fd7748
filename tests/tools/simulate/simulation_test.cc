#include "tools/simulate/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tools/simulate/generators.h"

namespace reprise::simulate {
namespace {

using testing::HasSubstr;

// A step takes 1 s and 10 ms a row; a copy of a state 0.5 s; the store 3 s.
DeviceModel SlowDevice() {
  DeviceModel device;
  device.name = "slow";
  device.step_overhead = 1;
  device.row_overhead = 0.01;
  device.copy_overhead = 0.5;
  device.state_bytes = 100;
  device.import_bytes_per_second = device.export_bytes_per_second = 1e18;
  device.host_tier_bytes = 1000;
  device.store_latency = 3;
  device.store_bytes_per_second = 1e18;
  return device;
}

SimulationOptions SlowOptions() {
  SimulationOptions options;
  options.device = SlowDevice();
  return options;
}

absl::StatusOr<Report> RunTrace(const std::string& trace, const SimulationOptions& options) {
  std::istringstream in(trace);
  auto source = ReadJsonTrace(in, "t", {});
  if (!source.ok()) return source.status();
  return Simulate(**source, options);
}

absl::StatusOr<Report> RunKind(const GeneratorOptions& generator,
                               const SimulationOptions& options) {
  auto source = NewGenerator(generator);
  if (!source.ok()) return source.status();
  return Simulate(**source, options);
}

TEST(Simulation, OneRequestByHand) {
  const auto report = RunTrace(R"({"arrival": 4, "prompt": 10, "output": 3})", SlowOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->turns, 1);
  EXPECT_EQ(report->completed, 1);
  EXPECT_EQ(report->steps, 3);
  EXPECT_EQ(report->rows, 12);
  EXPECT_DOUBLE_EQ(report->all.ttft.mean(), 1.10);
  EXPECT_EQ(report->all.itl.count(), 2);
  EXPECT_DOUBLE_EQ(report->all.itl.mean(), 1.01);
  EXPECT_DOUBLE_EQ(report->all.latency.mean(), 3.12);
  EXPECT_DOUBLE_EQ(report->all.mean_slowdown(), 1);
  EXPECT_DOUBLE_EQ(report->duration, 7.12);
  EXPECT_NEAR(report->busy_seconds, 3.12, 1e-9);
  EXPECT_EQ(report->exports + report->imports, 0);
}

TEST(Simulation, WhoComesInTheMiddleOfAStepWaitsForItsEnd) {
  const auto report = RunTrace(R"({"arrival": 0, "prompt": 10, "output": 2}
{"arrival": 0.5, "prompt": 20, "output": 1})",
                               SlowOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  // The first step ends at 1.1; the second one has 1 + 20 rows and ends at 2.31.
  EXPECT_DOUBLE_EQ(report->all.ttft.Percentile(50), 1.10);
  EXPECT_DOUBLE_EQ(report->all.ttft.Percentile(100), 1.81);
  EXPECT_DOUBLE_EQ(report->all.itl.mean(), 1.21);
  EXPECT_DOUBLE_EQ(report->all.queue.Percentile(100), 0.60);
}

TEST(Simulation, ASecondTurnThinksAndImportsItsState) {
  const std::string trace = R"({"arrival": 0, "session": "s", "prompt": 10, "output": 3}
{"think": 2, "session": "s", "prompt": 4, "output": 1})";
  const auto report = RunTrace(trace, SlowOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  // Ends at 3.12, exported at 3.62, comes back at 5.62; copied in, and the pending token with four
  // new ones: 0.5 + 1.05.
  EXPECT_DOUBLE_EQ(report->all.ttft.Percentile(50), 1.10);
  EXPECT_DOUBLE_EQ(report->all.ttft.Percentile(100), 1.55);
  EXPECT_DOUBLE_EQ(report->duration, 5.62 + 1.55 + 0.5);
  EXPECT_EQ(report->states_local, 1);
  EXPECT_EQ(report->states_from_store, 0);
  EXPECT_EQ(report->imports, 1);
  EXPECT_EQ(report->exports, 2);
  EXPECT_EQ(report->rows, 10 + 2 + 5);

  SimulationOptions no_tier = SlowOptions();
  no_tier.device.host_tier_bytes = 99;  // less than one state
  const auto restored = RunTrace(trace, no_tier);
  ASSERT_TRUE(restored.ok()) << restored.status();
  // Committed at 6.62, and 3 s more to fetch: 4 s after the arrival.
  EXPECT_DOUBLE_EQ(restored->all.ttft.Percentile(100), 4 + 1.55);
  EXPECT_EQ(restored->states_local, 0);
  EXPECT_EQ(restored->states_from_store, 1);

  SimulationOptions resend = SlowOptions();
  resend.resend_history = true;
  const auto again = RunTrace(trace, resend);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_DOUBLE_EQ(again->all.ttft.Percentile(100), 1.17);  // 10 + 3 + 4 tokens
  EXPECT_EQ(again->imports + again->exports, 0);
}

TEST(Simulation, ForksStartFromTheirParentsState) {
  const auto report = RunTrace(R"({"arrival": 0, "session": "a", "prompt": 10, "output": 1}
{"think": 1, "session": "b", "parent": "a", "prompt": 2, "output": 1}
{"think": 1, "session": "c", "parent": "a", "prompt": 2, "output": 1})",
                               SlowOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->completed, 3);
  EXPECT_EQ(report->imports, 2);
  EXPECT_EQ(report->rows, 10 + 3 + 3);
}

TEST(Simulation, ANotBeforeHolds) {
  const auto report = RunTrace(R"({"arrival": 0, "session": "a", "prompt": 10, "output": 1}
{"arrival": 50, "session": "a", "prompt": 1, "output": 1})",
                               SlowOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_DOUBLE_EQ(report->duration, 50 + 0.5 + 1.02 + 0.5);
}

TEST(Simulation, OutputZeroOnlyReads) {
  const auto report = RunTrace(R"({"arrival": 0, "session": "a", "prompt": 10, "output": 0}
{"think": 0, "session": "a", "prompt": 0, "output": 2})",
                               SlowOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->completed, 2);
  EXPECT_EQ(report->all.ttft.count(), 1);
  EXPECT_EQ(report->rows, 9 + 2);  // the last token of the prompt stays pending
}

TEST(Simulation, RefusedTurnsComeBackOrAreDroppedWithWhatFollows) {
  std::string trace;
  for (int i = 0; i < 6; ++i) {
    const std::string session = "\"session\": \"s" + std::to_string(i) + "\"";
    trace += "{\"arrival\": 0, " + session + ", \"prompt\": 5, \"output\": 20}\n";
    trace += "{\"think\": 1, " + session + ", \"prompt\": 5, \"output\": 20}\n";
    trace += "{\"think\": 1, " + session + ", \"prompt\": 5, \"output\": 20}\n";
  }
  SimulationOptions options = SlowOptions();
  options.scheduler.num_slots = 1;
  options.scheduler.max_queued = 1;
  options.max_attempts = 1;
  const auto dropped = RunTrace(trace, options);
  ASSERT_TRUE(dropped.ok()) << dropped.status();
  EXPECT_GE(dropped->dropped, 4);
  EXPECT_GE(dropped->abandoned, 2 * 4 - 2);
  EXPECT_EQ(dropped->turns, 18);
  EXPECT_EQ(dropped->completed + dropped->dropped + dropped->abandoned, 18);
  EXPECT_EQ(dropped->rejections, dropped->dropped);

  options.max_attempts = 1000;
  const auto patient = RunTrace(trace, options);
  ASSERT_TRUE(patient.ok()) << patient.status();
  EXPECT_EQ(patient->completed, 18);
  EXPECT_GT(patient->rejections, 4);
  EXPECT_EQ(patient->retry_delay.count(), patient->rejections);
}

TEST(Simulation, PreemptionIsChargedAndOff) {
  std::string trace;
  for (int i = 0; i < 4; ++i) trace += "{\"arrival\": 0, \"prompt\": 5, \"output\": 30}\n";
  SimulationOptions options = SlowOptions();
  options.scheduler.num_slots = 1;
  options.scheduler.time_slice = absl::Seconds(5);
  const auto parked = RunTrace(trace, options);
  ASSERT_TRUE(parked.ok()) << parked.status();
  EXPECT_EQ(parked->completed, 4);
  EXPECT_GT(parked->parks, 0);
  EXPECT_EQ(parked->exports, parked->parks);
  EXPECT_EQ(parked->imports, parked->parks);
  // Every row is computed once, and every copy takes its half second.
  EXPECT_EQ(parked->rows, 4 * (5 + 29));
  const double steps = static_cast<double>(parked->steps);
  EXPECT_NEAR(parked->duration,
              steps + 0.01 * static_cast<double>(parked->rows) +
                  0.5 * static_cast<double>(parked->exports + parked->imports),
              1e-6);

  options.parked_bytes = 0;
  const auto kept = RunTrace(trace, options);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->parks, 0);
  EXPECT_LT(kept->duration, parked->duration);
}

TEST(Simulation, PriorityAndDeadlineReachTheScheduler) {
  std::string trace = "{\"arrival\": 0, \"prompt\": 5, \"output\": 50}\n";
  for (int i = 0; i < 3; ++i) {
    trace +=
        "{\"arrival\": 1, \"tenant\": \"low\", \"priority\": \"low\", \"prompt\": 5, "
        "\"output\": 5}\n";
  }
  trace +=
      "{\"arrival\": 2, \"tenant\": \"high\", \"priority\": \"high\", \"prompt\": 5, "
      "\"output\": 5}\n";
  SimulationOptions options = SlowOptions();
  options.scheduler.num_slots = 1;
  const auto report = RunTrace(trace, options);
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->tenant_names, (std::vector<std::string>{"default", "high", "low"}));
  EXPECT_LT(report->tenants[1].ttft.max(), 3);
  EXPECT_GT(report->tenants[2].ttft.mean(), 10);

  options.deadline = 10;
  const auto hasty = RunTrace(trace, options);
  ASSERT_TRUE(hasty.ok()) << hasty.status();
  EXPECT_GT(hasty->expired, 0);
  EXPECT_EQ(hasty->completed + hasty->expired, 5);
}

TEST(Simulation, WarmupAndCutOffAreCounted) {
  SimulationOptions options;
  options.device = *DevicePreset("h100-2b");
  options.until = 60;
  const GeneratorOptions traffic{.kind = "chat", .scripts = 1000, .rate = 5};
  const auto cut = RunKind(traffic, options);
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_GT(cut->unfinished, 0);
  EXPECT_GT(cut->unsent, 50);
  EXPECT_EQ(cut->all.completed, cut->completed);
  EXPECT_DOUBLE_EQ(cut->duration, 60);
  options.warmup = 30;
  const auto warm = RunKind(traffic, options);
  ASSERT_TRUE(warm.ok()) << warm.status();
  EXPECT_EQ(warm->completed, cut->completed);
  EXPECT_LT(warm->all.completed, cut->all.completed);
  EXPECT_LT(warm->all.ttft.count(), cut->all.ttft.count());
  EXPECT_DOUBLE_EQ(warm->duration, 30);
}

TEST(Simulation, EveryTurnEndsOnceUnderAnyOptions) {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    SimulationOptions options;
    options.device = *DevicePreset("h100-2b");
    options.seed = seed;
    options.replicas = 1 + static_cast<int>(seed % 5);
    options.sampled = seed % 3 == 0 ? 1 : 0;
    options.load_bound = seed % 4 == 1 ? 1.2 : 0;
    options.route_by_root = seed % 2 == 0;
    options.resend_history = seed % 7 == 3;
    options.scheduler.num_slots = 1 + static_cast<int>(seed * 7 % 13);
    options.scheduler.max_queued = 1 + static_cast<int>(seed * 5 % 20);
    options.scheduler.max_queued_per_tenant = 8;
    options.scheduler.prefill_chunk_tokens = 1 << (seed % 8);
    options.max_attempts = 1 + static_cast<int>(seed % 4);
    options.device.host_tier_bytes = seed % 2 == 0 ? 1e12 : 2e8;
    options.parked_bytes = seed % 5 == 0 ? 0 : 1e9;
    if (seed % 6 == 5) options.deadline = 2;
    if (seed % 8 == 7) options.until = 20;
    if (options.replicas > 1) {
      options.events = {*ParseMembershipEvent("5:fail:0"), *ParseMembershipEvent("9:drain:1:0.2"),
                        *ParseMembershipEvent("12:join:0"), *ParseMembershipEvent("15:join:1")};
    }
    const char* const kinds[] = {"chat", "agent-tree", "long-document", "mixed"};
    const GeneratorOptions traffic{
        .kind = kinds[seed % 4], .scripts = 150, .rate = 12, .seed = seed};
    const auto report = RunKind(traffic, options);
    ASSERT_TRUE(report.ok()) << seed << ": " << report.status();
    EXPECT_EQ(report->Conservation(), "");
    EXPECT_EQ(report->failed, 0) << report->first_failure;
    EXPECT_GT(report->completed, 0);
    if (options.until > 100) {
      EXPECT_EQ(report->unfinished + report->unsent, 0);
    }
    if (options.until > 100 && options.sampled == 0) {
      EXPECT_EQ(report->all.latency.count(), report->completed);
    }
    // The same again is the same to the last digit.
    const auto again = RunKind(traffic, options);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(ReportJson(*again), ReportJson(*report)) << seed;
  }
}

TEST(Simulation, AWeightedTenantIsServedMore) {
  // Two tenants, each with more than the device can do.
  std::string trace;
  for (int i = 0; i < 400; ++i) {
    trace += "{\"arrival\": 0, \"tenant\": \"" + std::string(i % 2 ? "a" : "b") +
             "\", \"prompt\": 100, \"output\": 20}\n";
  }
  SimulationOptions options;
  options.device = *DevicePreset("h100-2b");
  options.scheduler.num_slots = 8;
  options.until = 1;
  const auto equal = RunTrace(trace, options);
  ASSERT_TRUE(equal.ok()) << equal.status();
  EXPECT_GT(equal->jain_service(), 0.99);
  options.tenant_weights = {{"a", 3}};
  const auto weighted = RunTrace(trace, options);
  ASSERT_TRUE(weighted.ok()) << weighted.status();
  EXPECT_NEAR(weighted->tenants[0].computed_rows / weighted->tenants[1].computed_rows, 3, 0.6);
  EXPECT_GT(weighted->jain_service(), 0.97);  // by weight
}

TEST(Simulation, RefusesBadOptions) {
  const auto message = [](auto change) {
    SimulationOptions options = SlowOptions();
    change(options);
    return std::string(
        RunTrace(R"({"arrival": 0, "prompt": 1, "output": 1})", options).status().message());
  };
  EXPECT_THAT(message([](auto& o) { o.replicas = 0; }), HasSubstr("replicas"));
  EXPECT_THAT(message([](auto& o) { o.sampled = 2; }), HasSubstr("sampled"));
  EXPECT_THAT(message([](auto& o) { o.virtual_nodes = 0; }), HasSubstr("virtual_nodes"));
  EXPECT_THAT(message([](auto& o) { o.load_bound = 0.5; }), HasSubstr("load_bound"));
  EXPECT_THAT(message([](auto& o) { o.max_attempts = 0; }), HasSubstr("max_attempts"));
  EXPECT_THAT(message([](auto& o) { o.tenant_weights["a"] = 0; }), HasSubstr("tenant weight"));
  EXPECT_THAT(message([](auto& o) { o.scheduler.num_slots = 0; }), HasSubstr("num_slots"));
  EXPECT_THAT(message([](auto& o) { o.events.push_back({.replica = 1}); }), HasSubstr("event"));
  EXPECT_THAT(message([](auto& o) { o.events = {*ParseMembershipEvent("1:join:0")}; }),
              HasSubstr("to join that is not"));
  EXPECT_FALSE(ParseMembershipEvent("1:explode:0").ok());
  EXPECT_FALSE(ParseMembershipEvent("nan:fail:0").ok());
  EXPECT_FALSE(ParseMembershipEvent("1:drain:0").ok());
}

TEST(Report, JsonAndTableSayTheSame) {
  SimulationOptions options;
  options.device = *DevicePreset("h100-2b");
  auto report = RunKind({.kind = "chat", .scripts = 50}, options);
  ASSERT_TRUE(report.ok()) << report.status();
  report->title = "caf\xff";  // no name can break the output
  const nlohmann::json json = nlohmann::json::parse(ReportJson(*report));
  EXPECT_EQ(json["turns"]["all"], report->turns);
  EXPECT_EQ(json["tenants"].size(), 4u);
  EXPECT_EQ(json["all"]["ttft_ms"]["count"], report->all.ttft.count());
  EXPECT_DOUBLE_EQ(json["all"]["ttft_ms"]["p99"], report->all.ttft.Percentile(99) * 1e3);
  const std::string table = ReportTable(*report);
  EXPECT_THAT(table, HasSubstr(std::to_string(report->turns) + ": "));
  EXPECT_THAT(table, HasSubstr("time to first token"));
}

}  // namespace
}  // namespace reprise::simulate
