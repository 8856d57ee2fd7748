// Which traceparent headers count, and what the server makes of them.
#include "service/trace_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Bytes;
using testing::TestServer;
using testing::TokenRequest;

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpan[] = "00f067aa0ba902b7";

std::string Header(const std::string& flags) {
  return std::string("00-") + kTrace + "-" + kSpan + "-" + flags;
}

TEST(TraceContextTest, AValidHeaderIsRead) {
  const auto parent = ParseTraceparent(Header("01"));
  ASSERT_TRUE(parent.has_value());
  EXPECT_EQ(parent->trace_id, kTrace);
  EXPECT_EQ(parent->span_id, kSpan);
  EXPECT_TRUE(parent->sampled);
  EXPECT_FALSE(ParseTraceparent(Header("00"))->sampled);
  EXPECT_TRUE(ParseTraceparent(Header("ff"))->sampled);  // unknown flags beside it
  EXPECT_FALSE(ParseTraceparent(Header("fe"))->sampled);
  // A later version may say more.
  EXPECT_TRUE(ParseTraceparent("cc" + Header("01").substr(2) + "-what-the-future").has_value());
  EXPECT_TRUE(ParseTraceparent("cc" + Header("01").substr(2)).has_value());
}

TEST(TraceContextTest, AnInvalidHeaderIsNone) {
  const std::string zeros32(32, '0'), zeros16(16, '0');
  for (const std::string& header :
       {std::string(), std::string("00"), std::string(kTrace), Header("1"), Header("01") + "-",
        Header("01") + "x", Header("0g"), "ff" + Header("01").substr(2),
        "cc" + Header("01").substr(2) + "x", "00-" + zeros32 + "-" + kSpan + "-01",
        std::string("00-") + kTrace + "-" + zeros16 + "-01",
        std::string("00-4BF92F3577B34DA6A3CE929D0E0E4736-") + kSpan + "-01",
        std::string("00_") + kTrace + "-" + kSpan + "-01", std::string(10000, '0'),
        " " + Header("01")}) {
    EXPECT_FALSE(ParseTraceparent(header).has_value()) << header;
  }
}

// The traceparent in the answer to a call that came with `headers`.
std::string Answered(TestServer& server, const std::vector<std::string>& headers) {
  grpc::ClientContext context;
  for (const std::string& header : headers) context.AddMetadata(kTraceparentKey, header);
  auto reader = server.generation().Generate(&context, TokenRequest(Bytes("ab"), 2));
  EXPECT_TRUE(testing::ReadAll(reader.get()).status.ok());
  const auto& metadata = context.GetServerInitialMetadata();
  EXPECT_EQ(metadata.count(kTraceparentKey), 1u);
  const auto header = metadata.find(kTraceparentKey);
  return header == metadata.end() ? "" : std::string(header->second.begin(), header->second.end());
}

TEST(TraceContextTest, TheAnswerNamesTheTraceAndASpanOfTheServers) {
  TestServer server;
  for (const bool sampled : {true, false}) {
    const auto answer = ParseTraceparent(Answered(server, {Header(sampled ? "01" : "00")}));
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->trace_id, kTrace);
    EXPECT_NE(answer->span_id, kSpan);
    EXPECT_EQ(answer->sampled, sampled);
  }
}

TEST(TraceContextTest, WithoutAValidHeaderThereIsANewTrace) {
  TestServer server;
  std::set<std::string> traces = {kTrace};
  for (const std::vector<std::string>& headers :
       {std::vector<std::string>{}, {"nonsense"}, {Header("01"), Header("01")}}) {
    const auto answer = ParseTraceparent(Answered(server, headers));
    ASSERT_TRUE(answer.has_value());
    EXPECT_TRUE(traces.insert(answer->trace_id).second) << answer->trace_id;
    EXPECT_FALSE(answer->sampled);
  }
}

TEST(TraceContextTest, UnaryCallsAnswerToo) {
  TestServer server;
  grpc::ClientContext context;
  context.AddMetadata(kTraceparentKey, Header("01"));
  v1::GetSessionRequest request;
  request.set_name("sessions/none");
  v1::Session session;
  EXPECT_FALSE(server.sessions().GetSession(&context, request, &session).ok());
  const auto& metadata = context.GetServerInitialMetadata();
  const auto header = metadata.find(kTraceparentKey);
  ASSERT_NE(header, metadata.end());
  EXPECT_EQ(ParseTraceparent({header->second.data(), header->second.size()})->trace_id, kTrace);
}

}  // namespace
}  // namespace reprise::service
