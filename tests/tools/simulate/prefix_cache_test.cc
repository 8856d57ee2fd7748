#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "tools/simulate/generators.h"
#include "tools/simulate/simulation.h"

namespace reprise::simulate {
namespace {

Report RunOnce(const std::string& trace, const SimulationOptions& options) {
  std::istringstream in(trace);
  auto source = ReadJsonTrace(in, "t", {});
  EXPECT_TRUE(source.ok()) << source.status();
  auto report = Simulate(**source, options);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *report : Report();
}

SimulationOptions Options() {
  SimulationOptions options;
  options.device = *DevicePreset("h100-2b");
  return options;
}

TEST(PrefixCacheOption, SharedPrefixesAreComputedUntilTheyAreKnown) {
  std::string trace;
  for (int i = 0; i < 4; ++i) {
    trace += "{\"arrival\": " + std::to_string(i) +
             ", \"prefix\": [{\"id\": \"p\", \"tokens\": 100}], \"prompt\": 10, \"output\": 2}\n";
  }
  SimulationOptions options = Options();
  const Report without = RunOnce(trace, options);
  EXPECT_EQ(without.cached_tokens, 0);
  EXPECT_EQ(without.rows, 4 * 111);
  options.prefix_bytes = 1e9;
  const Report with = RunOnce(trace, options);
  // The first two show where prompts part; the state kept there serves the last two. Own tokens
  // may agree in a few more by chance.
  EXPECT_EQ(with.cache_hits, 2);
  EXPECT_GE(with.cached_tokens, 200);
  EXPECT_LE(with.cached_tokens, 210);
  EXPECT_EQ(with.rows, without.rows - with.cached_tokens);
  EXPECT_EQ(with.imports, 2);
  EXPECT_GE(with.exports, 2);  // what is kept is copied out
}

TEST(PrefixCacheOption, ResentConversationsAreFoundAgain) {
  const std::string trace = R"({"arrival": 0, "session": "s", "prompt": 500, "output": 50}
{"think": 1, "session": "s", "prompt": 20, "output": 50}
{"think": 1, "session": "s", "prompt": 20, "output": 50})";
  SimulationOptions options = Options();
  options.resend_history = true;
  const Report computed = RunOnce(trace, options);
  options.prefix_bytes = 1e9;
  const Report found = RunOnce(trace, options);
  EXPECT_EQ(found.cache_hits, 2);
  EXPECT_GE(found.cached_tokens, 500 + 570);
  EXPECT_EQ(found.rows, computed.rows - found.cached_tokens);
}

TEST(PrefixCacheOption, TooSmallACacheKeepsLess) {
  auto traffic = NewGenerator({.kind = "chat", .scripts = 400, .rate = 20, .tenants = 1});
  ASSERT_TRUE(traffic.ok());
  SimulationOptions options = Options();
  options.prefix_bytes = 64e9;
  const auto large = Simulate(**traffic, options);
  ASSERT_TRUE(large.ok()) << large.status();
  options.prefix_bytes = 40e6;  // two states
  traffic = NewGenerator({.kind = "chat", .scripts = 400, .rate = 20, .tenants = 1});
  const auto small = Simulate(**traffic, options);
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_GT(large->cache_hits, 250);
  EXPECT_LT(small->cache_hits, large->cache_hits / 2);

  options.prefix_bytes = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(Simulate(**traffic, options).status()));
}

}  // namespace
}  // namespace reprise::simulate
