#include "tools/simulate/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace reprise::simulate {
namespace {

using testing::HasSubstr;

absl::StatusOr<std::vector<Script>> Collect(absl::StatusOr<std::unique_ptr<ScriptSource>> source) {
  if (!source.ok()) return source.status();
  std::vector<Script> scripts;
  Script script;
  while ((*source)->Next(&script)) scripts.push_back(std::move(script));
  return scripts;
}

absl::StatusOr<std::vector<Script>> Json(const std::string& text, TraceLimits limits = {}) {
  std::istringstream in(text);
  return Collect(ReadJsonTrace(in, "t", limits));
}

absl::StatusOr<std::vector<Script>> Azure(const std::string& rows, TraceLimits limits = {}) {
  std::istringstream in("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows);
  return Collect(ReadAzureTrace(in, "t", limits));
}

TEST(JsonTrace, PutsSessionsAndForksTogether) {
  const auto scripts = Json(R"(
{"arrival": 5, "prompt": 7, "output": 1, "priority": "low"}
{"arrival": 1.5, "tenant": "a", "session": "x", "prefix": [{"id": "p", "tokens": 3}, {"id": "q", "tokens": 2}], "prompt": 4, "output": 9}
{"think": 2, "tenant": "a", "session": "x", "prompt": 6, "output": 8}
{"think": 0.25, "tenant": "a", "session": "y", "parent": "x", "tokens": [1, 2], "output": 0}
{"arrival": 30, "tenant": "a", "session": "x", "output": 5}
)");
  ASSERT_TRUE(scripts.ok()) << scripts.status();
  ASSERT_EQ(scripts->size(), 2u);
  const Script& tree = (*scripts)[0];  // sorted by start
  EXPECT_EQ(tree.start, 1.5);
  EXPECT_EQ(tree.num_sessions, 2);
  ASSERT_EQ(tree.turns.size(), 4u);
  EXPECT_EQ(tree.turns[0].after, -1);
  EXPECT_EQ(tree.turns[0].prompt_tokens(), 9);
  EXPECT_EQ(tree.turns[1].after, 0);
  EXPECT_EQ(tree.turns[1].delay, 2);
  EXPECT_EQ(tree.turns[2].after, 1);  // the parent's last turn before it
  EXPECT_EQ(tree.turns[2].session, 1);
  EXPECT_EQ(tree.turns[2].tokens, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(tree.turns[3].after, 1);
  EXPECT_EQ(tree.turns[3].session, 0);
  EXPECT_EQ(tree.turns[3].not_before, 30);
  EXPECT_EQ((*scripts)[1].turns[0].priority, TurnPriority::kLow);
  EXPECT_EQ((*scripts)[1].turns[0].session, -1);
}

TEST(JsonTrace, ErrorsNameLineAndColumn) {
  const std::pair<std::string, std::string> cases[] = {
      {"x", "t:1:1: expected '{', found 'x'"},
      {"\n\n{\"arrival\": 1, \"output\": -1}", "t:3:26: output: expected 0 to 1048576"},
      {"{\"arrival\": 1e9, \"prompt\": 1, \"output\": 1}", "t:1:13: arrival: expected 0 to 1e+08"},
      {"{\"arrival\": nan}", "t:1:13: arrival: expected a number, found 'n'"},
      {"{\"arrival\": -inf}", "t:1:13: arrival: expected a number"},
      {"{\"arrival\": 1, \"prompt\": 1.5, \"output\": 1}", "t:1:26: prompt: expected a whole"},
      {"{\"arrival\": 1, \"arrival\": 1}", "t:1:16: \"arrival\" is given twice"},
      {"{\"arival\": 1}", "t:1:2: unknown key \"arival\""},
      {"{\"tenant\": \"a b\"}", "t:1:14: tenant: expected letters"},
      {"{\"tenant\": \"\"}", "t:1:12: tenant: expected 1 to 128 characters, found 0"},
      {"{\"tenant\": \"abc", "t:1:12: the string does not end"},
      {std::string("{\"tenant\": \"a\0\"}", 16), "t:1:14: tenant: expected letters, digits"},
      {"{\"priority\": \"urgent\"}", "t:1:14: priority: expected low, normal or high"},
      {"{\"prefix\": [{\"id\": \"a\"}]}", "t:1:13: a part of prefix needs"},
      {"{\"prefix\": [{\"id\": \"a\", \"n\": 1}]}", "t:1:25: unknown key \"n\" in prefix"},
      {"{\"prefix\": [[[[[[[[", "t:1:13: expected '{'"},
      {"{\"tokens\": [1, \"a\"]}", "t:1:16: tokens: expected a whole number, found '\"'"},
      {"{\"tokens\": [99999999999999999999]}", "t:1:13: tokens: expected 0 to"},
      {"{\"arrival\": 1, \"prompt\": 1, \"output\": 1} x", "t:1:42: expected the end of the line"},
      {"{\"arrival\": 1, \"prompt\": 1}", "t:1:1: \"output\" is missing"},
      {"{\"arrival\": 1, \"output\": 1}", "t:1:1: the prompt is empty"},
      {"{\"prompt\": 1, \"output\": 1}", "t:1:1: expected either \"arrival\" or \"think\""},
      {"{\"think\": 1, \"prompt\": 1, \"output\": 1}", "t:1:1: \"think\" needs an earlier turn"},
      {"{\"arrival\": 1, \"parent\": \"p\", \"prompt\": 1, \"output\": 1}", "needs a \"session\""},
      {"{\"arrival\": 1, \"session\": \"a\", \"parent\": \"p\", \"prompt\": 1, \"output\": 1}",
       "t:1:1: \"parent\" names no earlier session"},
      {"{\"arrival\": 1, \"session\": \"a\", \"prompt\": 1, \"output\": 1}\n"
       "{\"think\": 1, \"session\": \"a\", \"tenant\": \"b\", \"output\": 1}",
       "t:2:1: a session belongs to one tenant"},
      {"{\"arrival\": 1, \"session\": \"a\", \"prompt\": 1, \"output\": 1}\n"
       "{\"think\": 1, \"session\": \"a\", \"prefix\": [{\"id\": \"p\", \"tokens\": 1}], "
       "\"output\": 1}",
       "t:2:1: \"prefix\" is for turns that start without a state"},
  };
  for (const auto& [text, message] : cases) {
    const absl::Status status = Json(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << text;
  }
}

TEST(JsonTrace, LimitsHold) {
  const std::string line = "{\"arrival\": 1, \"prompt\": 1, \"output\": 1}\n";
  EXPECT_TRUE(Json(line + line, {.max_records = 2}).ok());
  const absl::Status many = Json(line + line + line, {.max_records = 2}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(many)) << many;
  EXPECT_THAT(std::string(many.message()), HasSubstr("t:3:1"));
  const absl::Status wide = Json(line + std::string(2000, ' '), {.max_line_bytes = 1000}).status();
  EXPECT_THAT(std::string(wide.message()), HasSubstr("t:2:1001: the line has more than 1000"));
  const std::string other = "{\"arrival\": 1, \"tenant\": \"b\", \"prompt\": 1, \"output\": 1}\n";
  EXPECT_THAT(std::string(Json(line + other, {.max_tenants = 1}).status().message()),
              HasSubstr("t:2:1: more than 1 tenants"));
}

TEST(JsonTrace, AnyCutOrFlippedByteIsReadOrRefused) {
  const std::string text =
      "{\"arrival\": 1.5, \"tenant\": \"a\", \"session\": \"x\", \"prefix\": [{\"id\": \"p\", "
      "\"tokens\": 3}], \"tokens\": [4, 5], \"prompt\": 4, \"output\": 9}\n"
      "{\"think\": 2, \"tenant\": \"a\", \"session\": \"x\", \"prompt\": 6, \"output\": 8}\n";
  ASSERT_TRUE(Json(text).ok());
  int refused = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    refused += !Json(text.substr(0, i)).ok();
    for (const char byte : {'\0', '"', '{', '9', '\xff'}) {
      std::string changed = text;
      changed[i] = byte;
      const auto read = Json(changed);
      refused += !read.ok();
      EXPECT_LT(read.status().message().size(), 300u);
    }
  }
  EXPECT_GT(refused, 500);
}

TEST(JsonTrace, WhatIsWrittenReadsBackTheSame) {
  const std::string text =
      R"({"arrival": 0.1, "tenant": "a", "session": "s0.0", "prompt": 3, "output": 4}
{"think": 0.30000000000000004, "tenant": "a", "session": "s0.0", "tokens": [7], "prompt": 0, "output": 1}
{"think": 1e-07, "tenant": "a", "priority": "high", "session": "s0.1", "parent": "s0.0", "prompt": 2, "output": 2}
{"arrival": 7, "tenant": "b", "prefix": [{"id": "p", "tokens": 12}], "prompt": 0, "output": 5}
)";
  std::istringstream in(text);
  auto source = ReadJsonTrace(in, "t", {});
  ASSERT_TRUE(source.ok()) << source.status();
  std::ostringstream out;
  ASSERT_TRUE(WriteJsonTrace(**source, out).ok());
  EXPECT_EQ(out.str(), text);
}

TEST(AzureTrace, ReadsBothYearsAndAnyOrder) {
  const auto scripts = Azure(
      "2023-11-16 18:15:50.9951690,396,109\r\n"
      "2023-11-16 18:15:46.6805900,374,44\n"
      "2023-11-17 00:00:00,0,3\n"
      "2023-11-16 18:15:51.5+00:00,5,0\n");
  ASSERT_TRUE(scripts.ok()) << scripts.status();
  ASSERT_EQ(scripts->size(), 4u);
  EXPECT_EQ((*scripts)[0].start, 0);
  EXPECT_EQ((*scripts)[0].turns[0].own_tokens, 374);
  EXPECT_EQ((*scripts)[0].turns[0].output, 44);
  EXPECT_NEAR((*scripts)[1].start, 4.314579, 1e-5);
  EXPECT_NEAR((*scripts)[2].start, 4.81941, 1e-5);
  EXPECT_NEAR((*scripts)[3].start, 20653.31941, 1e-5);
  EXPECT_EQ((*scripts)[3].turns[0].own_tokens, 1);  // there is always a first token
}

TEST(AzureTrace, ErrorsNameLineAndColumn) {
  const std::pair<std::string, std::string> cases[] = {
      {"2023-11-16 18:15:46.68,374", "t:2:27: expected ',', found the end of the line"},
      {"2023-11-16 18:15:46.68,a,1", "t:2:24: ContextTokens: expected a whole number, found 'a'"},
      {"2023-11-16 18:15:46.68,1,-1", "t:2:26: GeneratedTokens: expected 0 to"},
      {"2023-11-16 18:15:46.68,1,1,1", "t:2:27: expected the end of the line"},
      {"2023-13-16 18:15:46.68,1,1", "t:2:6: TIMESTAMP"},
      {"2023-02-30 18:15:46.68,1,1", "t:2:1: TIMESTAMP: no such day"},
      {"2023-02-20 24:15:46.68,1,1", "t:2:12: TIMESTAMP: no such time"},
      {"2023-02-20 2:15:46.68,1,1", "t:2:13: TIMESTAMP: expected a digit, found ':'"},
      {"2023-02-20 12:15:46.,1,1", "t:2:21: TIMESTAMP: expected digits after the point"},
      {"2023-02-20 12:15:46+02:00,1,1", "t:2:22: expected '0', found '2'"},
      {"2023-02-20 12:15:46,1,1\n5000-02-20 12:15:46,1,1", "spans more than 1e+08 seconds"},
  };
  for (const auto& [rows, message] : cases) {
    EXPECT_THAT(std::string(Azure(rows).status().message()), HasSubstr(message)) << rows;
  }
  std::istringstream headless("2023-11-16 18:15:46.6805900,374,44\n");
  EXPECT_THAT(std::string(ReadAzureTrace(headless, "t", {}).status().message()),
              HasSubstr("t:1:1: expected the header TIMESTAMP,"));
}

}  // namespace
}  // namespace reprise::simulate
