// Forms of log lines.
#include "service/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "service/log_fields.h"

namespace reprise::service {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// What a logger of that form writes for `payload`.
std::string Logged(const std::string& format, const std::string& payload) {
  LogSettings settings;
  settings.format = format;
  const auto logger = MakeLogger(settings);
  ::testing::internal::CaptureStderr();
  logger->info("{}", payload);
  return ::testing::internal::GetCapturedStderr();
}

std::string Refusal(const std::string& request_id) {
  return WithFields("refused: no", {{"request_id", request_id}, {"trace_id", "abc"}});
}

TEST(LoggingTest, FieldsStandBehindTheMessageInText) {
  EXPECT_THAT(Logged("text", Refusal("r-1")),
              MatchesRegex("20[^ ]* info refused: no request_id=r-1 trace_id=abc\n"));
  EXPECT_THAT(Logged("text", "plain"), MatchesRegex("20[^ ]* info plain\n"));
}

TEST(LoggingTest, FieldsAreMembersInJson) {
  const auto line = nlohmann::json::parse(Logged("json", Refusal("r-1")));
  EXPECT_EQ(line["message"], "refused: no");
  EXPECT_EQ(line["request_id"], "r-1");
  EXPECT_EQ(line["trace_id"], "abc");
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(nlohmann::json::parse(Logged("json", "plain")).size(), 3u);
}

TEST(LoggingTest, AStatusIsShownWithoutItsDetails) {
  absl::Status status = absl::AbortedError("moved\non");
  status.SetPayload("type.googleapis.com/x.Y", absl::Cord("\x12payload"));
  EXPECT_EQ(ForLog(status), "ABORTED: moved\\non");
}

TEST(LoggingTest, WhatAClientChoseIsShortened) {
  EXPECT_LE(ForLog(std::string(100'000, 'x')).size(), 128u);
  EXPECT_LE(Logged("text", Refusal(std::string(100'000, 'x'))).size(), 300u);
}

TEST(LoggingTest, EmptyFieldsAreLeftOut) {
  EXPECT_THAT(Logged("text", Refusal("")), Not(HasSubstr("request_id")));
  EXPECT_FALSE(nlohmann::json::parse(Logged("json", Refusal(""))).contains("request_id"));
}

TEST(LoggingTest, AValueMakesNoFieldAndNoLineOfItsOwn) {
  const std::string hostile =
      "a\n\x1elevel\x1f"
      "error\"}\n{\"level\":\"error\"";
  const std::string text = Logged("text", Refusal(hostile));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  const std::string json = Logged("json", Refusal(hostile));
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 1);
  const auto line = nlohmann::json::parse(json);
  EXPECT_EQ(line.size(), 5u);
  EXPECT_EQ(line["level"], "info");
}

}  // namespace
}  // namespace reprise::service
