// Generate with the prefix cache: usage, marks, and the same answers with it as without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using testing::ByteTokenizer;
using ::testing::HasSubstr;
using testing::TestServer;
using testing::TokenRequest;

constexpr char kSystem[] = "You are a careful clerk who answers letters about lost parcels. ";

TEST(CachedPromptsTest, UsageSaysWhatWasReusedAndWhyNothingWas) {
  TestServer server;
  const std::vector<int32_t> first = Bytes(kSystem), second = Bytes(kSystem + std::string("Well?"));
  const Answer cold = server.Generate(TokenRequest(first, 5));
  ASSERT_TRUE(cold.status.ok()) << cold.status.error_message();
  EXPECT_EQ(cold.finished.usage().cached_tokens(), 0);
  EXPECT_EQ(cold.finished.usage().reuse_miss_reason(), "no_entry");
  const Answer warm = server.Generate(TokenRequest(second, 5));
  EXPECT_EQ(warm.ids, server.Expected(second, 5));
  const int system = static_cast<int>(first.size());
  EXPECT_EQ(warm.finished.usage().cached_tokens(), system);
  EXPECT_EQ(warm.finished.usage().computed_tokens(), 5 + 4);
  EXPECT_EQ(warm.finished.usage().reuse_miss_reason(), "");
  v1::GenerateRequest without = TokenRequest(second, 5);
  without.set_no_prefix_cache(true);
  const Answer computed = server.Generate(without);
  EXPECT_EQ(computed.ids, warm.ids);
  EXPECT_EQ(computed.finished.usage().cached_tokens(), 0);
  EXPECT_EQ(computed.finished.usage().computed_tokens(), static_cast<int>(second.size()) + 4);
  EXPECT_EQ(computed.finished.usage().reuse_miss_reason(), "");
  v1::GenerateRequest scored = TokenRequest(second, 5);
  scored.mutable_output()->set_prompt_logprobs(true);
  EXPECT_EQ(server.Generate(scored).finished.usage().reuse_miss_reason(), "prompt_logprobs");
}

TEST(CachedPromptsTest, MarksInTokensAndInText) {
  TestServer server;
  v1::GenerateRequest tokens = TokenRequest(Bytes(kSystem), 1);
  tokens.add_cache_marks(10);
  ASSERT_TRUE(server.Generate(tokens).status.ok());
  std::vector<int32_t> other = Bytes(kSystem);
  other[11] = ByteTokenizer::Id('#');
  EXPECT_EQ(server.Generate(TokenRequest(other, 1)).finished.usage().cached_tokens(), 10);

  v1::GenerateRequest text;
  text.set_text("Fr\xC3\xA4ulein Smilla and the clerk");
  text.mutable_stop()->set_max_tokens(1);
  text.add_cache_marks(9);
  ASSERT_TRUE(server.Generate(text).status.ok());
  text.set_text("Fr\xC3\xA4uleins and clerks");
  text.clear_cache_marks();
  // The beginning token and 9 bytes.
  EXPECT_EQ(server.Generate(text).finished.usage().cached_tokens(), 10);
}

TEST(CachedPromptsTest, AMarkWithinACharacterIsRefused) {
  TestServer server;
  v1::GenerateRequest request;
  request.set_text("Fr\xC3\xA4ulein");
  request.add_cache_marks(3);
  const Answer answer = server.Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("cache_marks[0]"));
}

}  // namespace
}  // namespace reprise::service
