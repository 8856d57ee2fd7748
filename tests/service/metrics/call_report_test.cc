// What the log says of a call.
#include "service/call_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace reprise::service {
namespace {

using Json = nlohmann::json;

CallReport TurnReport() {
  CallReport report;
  report.trace.trace_id = std::string(32, 'a');
  report.trace.span_id = std::string(16, 'b');
  report.trace.parent_span = std::string(16, 'c');
  report.tenant = "team";
  report.started = absl::FromUnixSeconds(1000);
  report.submitted = report.started + absl::Milliseconds(10);
  report.prompt_tokens = 5;
  report.restored_tokens = 100;
  report.commit = absl::Milliseconds(7);
  scheduler::RequestResult result;
  result.generated = {424242, 434343};
  result.computed_tokens = 6;
  result.timeline.queue = absl::Milliseconds(20);
  result.timeline.load = absl::Milliseconds(15);
  result.timeline.restore = absl::Milliseconds(2);
  result.timeline.prefill = absl::Milliseconds(30);
  result.timeline.time_to_first_token = absl::Milliseconds(52);
  result.timeline.decode = absl::Milliseconds(40);
  report.NoteResult(result);
  return report;
}

TEST(CallReportTest, ASpanHasTheTimesOfTheRequestInOrder) {
  const CallReport report = TurnReport();
  const std::string line = SpanLine(report, report.started + absl::Milliseconds(110),
                                    absl::OkStatus(), "sessions/s", "r-1");
  EXPECT_EQ(line.find('\n'), line.npos);
  const Json span = Json::parse(line);
  EXPECT_EQ(span["trace_id"], report.trace.trace_id);
  EXPECT_EQ(span["span_id"], report.trace.span_id);
  EXPECT_EQ(span["parent_span_id"], report.trace.parent_span);
  EXPECT_EQ(span["status"], "OK");
  EXPECT_EQ(span["session"], "sessions/s");
  EXPECT_EQ(span["request_id"], "r-1");
  EXPECT_EQ(span["tenant"], "team");
  EXPECT_EQ(span["start"], "1970-01-01T00:16:40+00:00");
  EXPECT_NEAR(span["seconds"].get<double>(), 0.110, 1e-9);
  EXPECT_EQ(span["tokens"]["restored"], 100);
  EXPECT_EQ(span["tokens"]["generated"], 2);
  EXPECT_NEAR(span["phases"]["commit"].get<double>(), 0.007, 1e-9);
  const std::vector<std::pair<std::string, double>> expected = {
      {"queued", 0.010},      {"loaded", 0.025},  {"admitted", 0.030},  {"restored", 0.032},
      {"first_token", 0.062}, {"decoded", 0.102}, {"committed", 0.110},
  };
  ASSERT_EQ(span["events"].size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(span["events"][i]["name"], expected[i].first);
    EXPECT_NEAR(span["events"][i]["seconds"].get<double>(), expected[i].second, 1e-9);
  }
  // Tokens are nobody's business.
  EXPECT_THAT(line, ::testing::Not(::testing::HasSubstr("424242")));
}

TEST(CallReportTest, ACallThatNeverCameToTheSchedulerHasNoEvents) {
  CallReport report;
  report.started = absl::FromUnixSeconds(1000);
  const Json span = Json::parse(
      SpanLine(report, report.started, absl::NotFoundError("no such session"), "sessions/x", ""));
  EXPECT_EQ(span["status"], "NOT_FOUND");
  EXPECT_TRUE(span["events"].empty());
  EXPECT_FALSE(span.contains("phases"));
  EXPECT_FALSE(span.contains("model"));
  EXPECT_FALSE(span.contains("request_id"));
  EXPECT_FALSE(span.contains("parent_span_id"));
}

TEST(CallReportTest, ASpanIsOneLineWhateverTheClientChose) {
  CallReport report = TurnReport();
  report.tenant = "t\n\xff";
  const std::string line =
      SpanLine(report, report.started, absl::OkStatus(), "a\"\n\xc3(", std::string(10000, 'x'));
  EXPECT_EQ(line.find('\n'), line.npos);
  EXPECT_LT(line.size(), 3000u);
  EXPECT_FALSE(Json::parse(line, nullptr, false).is_discarded());
}

}  // namespace
}  // namespace reprise::service
