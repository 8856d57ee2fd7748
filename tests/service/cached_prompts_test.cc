// Generate with the prefix cache: usage, marks, and the same answers with it as without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "service/generate_request.h"
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

TEST(CachedPromptsTest, MarksOfAPromptWithoutABeginningToken) {
  TestServer server;
  v1::GenerateRequest text;
  text.set_text("Fraulein Smilla and the clerk");
  text.set_add_bos(false);
  text.mutable_stop()->set_max_tokens(1);
  text.add_cache_marks(9);
  ASSERT_TRUE(server.Generate(text).status.ok());
  text.set_text("Fraulein clerks and others");
  text.clear_cache_marks();
  EXPECT_EQ(server.Generate(text).finished.usage().cached_tokens(), 9);
}

// The text behind a mark may change the last tokens before it.
TEST(CachedPromptsTest, AMarkIsWhereThePromptsTokensAreThoseOfItsBeginning) {
  TestServer server;
  v1::GenerateRequest request;
  request.set_text("abcdef");
  request.add_cache_marks(4);
  const int32_t joined = ByteTokenizer::Id('#');
  const std::vector<int32_t> prompt = {ByteTokenizer::kBos, ByteTokenizer::Id('a'),
                                       ByteTokenizer::Id('b'), joined, ByteTokenizer::Id('f')};
  EXPECT_EQ(*CacheMarks(request, server.served(), RequestLimits(), /*continues=*/false, prompt),
            std::vector<int64_t>{3});
  // One that follows a session has no beginning token.
  EXPECT_EQ(
      *CacheMarks(request, server.served(), RequestLimits(), /*continues=*/true, Bytes("abcdef")),
      std::vector<int64_t>{4});
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

// The second question of a conversation that begins with kSystem.
constexpr char kQuestion[] = "Where is the parcel that I sent to my aunt in the spring? ";

v1::Session Fork(TestServer& server, const std::string& source, const std::string& id) {
  grpc::ClientContext context;
  v1::ForkSessionRequest request;
  request.set_source(source);
  request.set_session_id(id);
  v1::Session session;
  const grpc::Status status = server.sessions().ForkSession(&context, request, &session);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return session;
}

TEST(CachedPromptsTest, LaterTurnsOfForkedSessionsReuseWhatOneOfThemComputed) {
  TestServer server;
  const std::string parent = server.NewSession("parent").name();
  const Answer begin = server.Turn(parent, Bytes(kSystem), 4);
  const auto turn = [&](const std::string& session, const std::string& end, bool cache) {
    v1::GenerateRequest request = TokenRequest(Bytes(kQuestion + end), 9);
    request.set_session(session);
    request.set_no_prefix_cache(!cache);
    request.mutable_output()->set_top_logprobs(3);
    Answer answer = server.Generate(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    return answer;
  };
  const auto name = [&](const char* id) { return Fork(server, parent, id).name(); };
  const Answer first = turn(name("one"), "", true);
  EXPECT_EQ(first.finished.usage().cached_tokens(), 0);
  EXPECT_EQ(first.finished.usage().reuse_miss_reason(), "no_entry");
  const Answer second = turn(name("two"), "Please", true);
  const Answer cold = turn(name("three"), "Please", false);
  const v1::Usage &warm = second.finished.usage(), &all = cold.finished.usage();
  EXPECT_EQ(warm.cached_tokens(), 1 + static_cast<int>(sizeof(kQuestion)) - 1);  // and the pending
  EXPECT_EQ(warm.reuse_miss_reason(), "");
  EXPECT_EQ(all.cached_tokens(), 0);
  EXPECT_EQ(warm.restored_tokens(), all.restored_tokens());
  EXPECT_EQ(warm.cached_tokens() + warm.computed_tokens(), all.computed_tokens());
  // To the bit.
  std::vector<int32_t> tokens = Bytes(kSystem);
  tokens.insert(tokens.end(), begin.ids.begin(), begin.ids.end());
  for (int32_t id : Bytes(kQuestion + std::string("Please"))) tokens.push_back(id);
  EXPECT_EQ(second.ids, server.Expected(tokens, 9));
  ASSERT_EQ(second.logprobs.size(), cold.logprobs.size());
  for (size_t i = 0; i < cold.logprobs.size(); ++i) {
    EXPECT_EQ(second.logprobs[i].SerializeAsString(), cold.logprobs[i].SerializeAsString());
  }
  // And so are the states that they leave.
  EXPECT_EQ(server.Turn("sessions/two", {}, 7).ids, server.Turn("sessions/three", {}, 7).ids);

  // A session whose state is another hits none of it, though the question is the same.
  const std::string stranger = server.NewSession("stranger").name();
  server.Turn(stranger, Bytes("Something quite different from what the clerk was told."), 4);
  EXPECT_EQ(turn(stranger, "Please", true).finished.usage().cached_tokens(), 0);
}

TEST(CachedPromptsTest, ARewoundSessionReusesItsOwnTurn) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  const Answer begin = server.Turn(session, Bytes(kSystem), 4);
  grpc::ClientContext keep_context, rewind_context;
  v1::CreateSnapshotRequest keep;
  keep.set_session(session);
  v1::Snapshot snapshot;
  ASSERT_TRUE(server.sessions().CreateSnapshot(&keep_context, keep, &snapshot).ok());
  server.Turn(session, Bytes(kQuestion), 5);
  v1::RewindSessionRequest rewind;
  rewind.set_name(session);
  rewind.set_snapshot(snapshot.name());
  v1::Session rewound;
  ASSERT_TRUE(server.sessions().RewindSession(&rewind_context, rewind, &rewound).ok());
  const Answer again = server.Turn(session, Bytes(kQuestion + std::string("Please")), 5);
  std::vector<int32_t> tokens = Bytes(kSystem);
  tokens.insert(tokens.end(), begin.ids.begin(), begin.ids.end());
  for (int32_t id : Bytes(kQuestion + std::string("Please"))) tokens.push_back(id);
  EXPECT_EQ(again.ids, server.Expected(tokens, 5));
  EXPECT_GT(again.finished.usage().cached_tokens(), 32);
}

TEST(CachedPromptsTest, ATenantWithoutACache) {
  auto options = TestServer::SmallOptions();
  options.server.compute.prefix_cache_tenant_bytes = 0;
  TestServer server(options);
  for (int i = 0; i < 2; ++i) {
    const Answer answer = server.Generate(TokenRequest(Bytes(kSystem), 5));
    EXPECT_EQ(answer.finished.usage().reuse_miss_reason(), "tenant");
    EXPECT_EQ(answer.finished.usage().cached_tokens(), 0);
  }
}

TEST(CachedPromptsTest, WhatHadToMakeRoomIsSaidToBeEvicted) {
  auto options = TestServer::SmallOptions();
  options.state_words = 2048;                         // 16 KiB
  options.server.compute.prefix_cache_bytes = 65536;  // of three states, with their prompts
  TestServer server(options);
  const auto prompt = [](char first, const char* end = "") {
    return Bytes(std::string(1, first) + kSystem + end);
  };
  for (const char first : {'a', 'b', 'c', 'd'}) {
    ASSERT_TRUE(server.Generate(TokenRequest(prompt(first), 1)).status.ok());
  }
  const Answer gone = server.Generate(TokenRequest(prompt('a', "Well?"), 1));
  EXPECT_EQ(gone.finished.usage().cached_tokens(), 0);
  EXPECT_EQ(gone.finished.usage().reuse_miss_reason(), "evicted");
  const Answer never = server.Generate(TokenRequest(prompt('e', "Well?"), 1));
  EXPECT_EQ(never.finished.usage().reuse_miss_reason(), "no_entry");
}

TEST(CachedPromptsTest, WhatNobodyUsesExpiresAndTheSweeperTakesItAway) {
  auto options = TestServer::SmallOptions();
  options.server.compute.prefix_cache_ttl = absl::Milliseconds(1);
  options.server.store.sweep_interval = absl::Milliseconds(5);
  TestServer server(options);
  ASSERT_TRUE(server.Generate(TokenRequest(Bytes(kSystem), 5)).status.ok());
  const auto& cache = *server.served().scheduler->options().prefix_cache;
  ASSERT_GT(cache.TotalStats().inserts, 0);
  const absl::Time limit = absl::Now() + testing::kPatience;
  while (cache.TotalStats().entries > 0 && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_EQ(cache.TotalStats().entries, 0);
  const Answer answer = server.Generate(TokenRequest(Bytes(kSystem + std::string("Well?")), 5));
  EXPECT_EQ(answer.finished.usage().reuse_miss_reason(), "expired");
}

}  // namespace
}  // namespace reprise::service
