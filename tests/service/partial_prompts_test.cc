// Turns that are interrupted within their prompts and keep what was computed; and who goes first.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using testing::ByteTokenizer;
using ::testing::ElementsAre;
using testing::FieldsIn;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

// Of more steps than the cancel can take to arrive, each held for a while.
constexpr int kSteps = 4000;

Ids LongPrompt() {
  Ids prompt(kSteps * 64);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = ByteTokenizer::Id('a' + i % 23);
  return prompt;
}

v1::GenerateRequest PartialRequest(const std::string& session, const Ids& prompt, int max_tokens) {
  v1::GenerateRequest request = TokenRequest(prompt, max_tokens);
  request.set_session(session);
  request.set_request_id("turn");
  request.set_keep_partial(true);
  return request;
}

// Starts the turn, cancels it after some steps, and waits for its end.
void Interrupt(TestServer& server, const v1::GenerateRequest& request) {
  server.gate().Hold();
  grpc::ClientContext context;
  auto reader = server.generation().Generate(&context, request);
  ASSERT_TRUE(server.gate().AwaitHeld());
  server.gate().Allow(3);
  ASSERT_TRUE(server.gate().AwaitHeld());
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const int64_t steps = server.gate().steps();
  while (!server.Idle() && server.gate().steps() < steps + kSteps / 2) {
    server.gate().Allow(1);
    absl::SleepFor(absl::Milliseconds(1));
  }
  server.gate().Open();
  ASSERT_TRUE(server.AwaitIdle());
}

// Until the turn's part is stored: commits follow the end of the call.
v1::TurnCommit AwaitUnfinished(TestServer& server, const std::string& session, int64_t beyond) {
  const absl::Time limit = absl::Now() + testing::kPatience;
  v1::TurnCommit turn;
  do {
    grpc::ClientContext context;
    v1::GetCommitRequest request;
    request.set_session(session);
    request.set_request_id("turn");
    turn.Clear();
    const grpc::Status status = server.sessions().GetCommit(&context, request, &turn);
    if (status.ok() && turn.prompt_tokens_done() > beyond) return turn;
    absl::SleepFor(absl::Milliseconds(2));
  } while (absl::Now() < limit);
  ADD_FAILURE() << "no part of the turn was stored";
  return turn;
}

// A busy session is one whose call is about to end.
Answer GenerateWhenFree(TestServer& server, const v1::GenerateRequest& request) {
  const absl::Time limit = absl::Now() + testing::kPatience;
  while (true) {
    Answer answer = server.Generate(request);
    if (ReasonIn(answer.status) != "SESSION_BUSY" || absl::Now() > limit) return answer;
  }
}

TEST(PartialPromptsTest, AnInterruptedPromptGoesOnWhereItStood) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  const Ids prompt = LongPrompt();
  const auto size = static_cast<int64_t>(prompt.size());
  v1::GenerateRequest request = PartialRequest(session, prompt, 9);
  request.mutable_output()->set_logprobs(true);
  Interrupt(server, request);
  v1::TurnCommit turn = AwaitUnfinished(server, session, 0);
  EXPECT_TRUE(turn.unfinished());
  EXPECT_LT(turn.prompt_tokens_done(), size);
  EXPECT_EQ(turn.committed_tokens(), turn.prompt_tokens_done());
  EXPECT_EQ(server.GetSession(session).token_count(), turn.prompt_tokens_done());

  // Nobody else goes on in the middle of a prompt.
  v1::GenerateRequest other = TokenRequest(Bytes("other"), 3);
  other.set_session(session);
  EXPECT_EQ(ReasonIn(GenerateWhenFree(server, other).status), "TURN_UNFINISHED");
  other.set_request_id("turn");
  EXPECT_EQ(ReasonIn(server.Generate(other).status), "REQUEST_ID_REUSED");
  Ids as_long = prompt;
  as_long.front() = ByteTokenizer::Id('z');
  EXPECT_EQ(ReasonIn(server.Generate(PartialRequest(session, as_long, 9)).status),
            "REQUEST_ID_REUSED");

  // Once more, further on.
  const int64_t before = turn.prompt_tokens_done();
  Interrupt(server, request);
  turn = AwaitUnfinished(server, session, before);

  const Answer answer = GenerateWhenFree(server, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids, server.Expected(prompt, 9));
  const v1::Usage& usage = answer.finished.usage();
  EXPECT_EQ(usage.restored_tokens(), turn.prompt_tokens_done() - 1);
  EXPECT_EQ(usage.restored_tokens() + usage.computed_tokens(), size + 8);
  EXPECT_EQ(answer.finished.commit().token_count(), size + 9);
  EXPECT_EQ(answer.finished.commit().committed_tokens(), size + 9);
  v1::GenerateRequest undisturbed = TokenRequest(prompt, 9);
  undisturbed.set_no_prefix_cache(true);
  undisturbed.mutable_output()->set_logprobs(true);
  const Answer expected = server.Generate(undisturbed);
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ(answer.logprobs[i].logprob(), expected.logprobs[i].logprob());
  }
  grpc::ClientContext context;
  v1::GetCommitRequest get;
  get.set_session(session);
  get.set_request_id("turn");
  ASSERT_TRUE(server.sessions().GetCommit(&context, get, &turn).ok());
  EXPECT_FALSE(turn.unfinished());
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
}

// What was computed before counts in the penalties of what is drawn after; the seed is the same;
// marks are places of the whole prompt, also of one of which only a part is left.
TEST(PartialPromptsTest, WhatIsDrawnAfterARepeatIsWhatWouldHaveBeen) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  Ids prompt = LongPrompt();
  for (int i = 0; i < 26; ++i) prompt[i] = ByteTokenizer::Id('A' + i);  // nowhere else in it
  v1::GenerateRequest request = PartialRequest(session, prompt, 60);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(7);
  request.mutable_sampling()->set_repetition_penalty(10);
  request.add_cache_marks(static_cast<int64_t>(prompt.size()) - 10);
  Interrupt(server, request);
  AwaitUnfinished(server, session, 26);
  const Answer answer = GenerateWhenFree(server, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  request.clear_session();
  request.clear_request_id();
  request.clear_keep_partial();
  request.set_no_prefix_cache(true);
  EXPECT_EQ(answer.ids, server.Generate(request).ids);
}

TEST(PartialPromptsTest, CheckpointsKeepAPartToo) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = PartialRequest(session, LongPrompt(), 9);
  request.set_keep_partial(false);
  request.set_durability(v1::DURABILITY_EVERY_N_TOKENS);
  request.set_checkpoint_tokens(1000000);
  Interrupt(server, request);
  EXPECT_TRUE(AwaitUnfinished(server, session, 0).unfinished());
}

TEST(PartialPromptsTest, TheWayBackIsKept) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  const Answer first = server.Turn(session, Bytes("good morning"), 4);
  Interrupt(server, PartialRequest(session, LongPrompt(), 9));
  AwaitUnfinished(server, session, 0);
  v1::GenerateRequest other = TokenRequest(Bytes("x"), 3);
  other.set_session(session);
  const Answer refused = GenerateWhenFree(server, other);
  const auto info = testing::ErrorInfoIn(refused.status);
  EXPECT_EQ(info.metadata().at("request_id"), "turn");
  grpc::ClientContext context;
  v1::RewindSessionRequest rewind;
  rewind.set_name(session);
  rewind.set_snapshot(info.metadata().at("snapshot"));
  v1::Session rewound;
  ASSERT_TRUE(server.sessions().RewindSession(&context, rewind, &rewound).ok());
  Ids tokens = Bytes("good morning");
  tokens.insert(tokens.end(), first.ids.begin(), first.ids.end());
  EXPECT_EQ(server.Turn(session, {}, 5).ids, server.Expected(tokens, 5));
}

TEST(PartialPromptsTest, SeveralAnswersToAPromptThatWasInterrupted) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = PartialRequest(session, LongPrompt(), 9);
  request.set_n(3);
  Interrupt(server, request);
  const v1::TurnCommit turn = AwaitUnfinished(server, session, 0);
  v1::GenerateRequest other = TokenRequest(Bytes("other"), 3);
  other.set_session(session);
  EXPECT_EQ(ReasonIn(GenerateWhenFree(server, other).status), "TURN_UNFINISHED");  // it is free now
  grpc::ClientContext context;
  auto reader = server.generation().Generate(&context, request);
  std::map<int, Ids> answers;  // by choice
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_finished()) {
      EXPECT_EQ(response.finished().usage().restored_tokens(), turn.prompt_tokens_done() - 1);
    }
    Ids& ids = answers[response.tokens().choice()];
    ids.insert(ids.end(), response.tokens().ids().begin(), response.tokens().ids().end());
  }
  ASSERT_TRUE(reader->Finish().ok());
  // Greedy, so three times the same.
  ASSERT_EQ(answers.size(), 3u);
  for (const auto& [index, ids] : answers) {
    EXPECT_EQ(ids, server.Expected(LongPrompt(), 9)) << index;
  }
  EXPECT_EQ(server.GetSession(session).token_count(), kSteps * 64 + 9);
}

TEST(PartialPromptsTest, WithoutItNothingIsKept) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = PartialRequest(session, LongPrompt(), 9);
  request.set_keep_partial(false);
  Interrupt(server, request);
  EXPECT_EQ(server.GetSession(session).version(), 1u);
}

TEST(PartialPromptsTest, NeedsASessionAndARequestId) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("x"), 3);
  request.set_keep_partial(true);
  EXPECT_THAT(FieldsIn(server.Generate(request).status),
              ElementsAre("keep_partial", "keep_partial"));
  request.set_session("sessions/s");
  request.set_request_id("r");
  request.mutable_output()->set_prompt_logprobs(true);
  EXPECT_THAT(FieldsIn(server.Generate(request).status), ElementsAre("keep_partial"));
}

TEST(PriorityTest, TheHigherOneGoesFirst) {
  auto options = TestServer::SmallOptions();
  options.server.compute.slots = 1;
  options.server.compute.max_wait = absl::Hours(1);
  options.server.compute.time_slice = absl::Hours(1);
  TestServer server(options);
  server.gate().Hold();
  constexpr int kTokens = 50;
  grpc::ClientContext contexts[4];
  const auto start = [&](int i, v1::Priority priority, int tokens) {
    v1::GenerateRequest request = TokenRequest(Bytes("go"), tokens);
    request.set_priority(priority);
    return server.generation().Generate(&contexts[i], request);
  };
  auto running = start(0, v1::PRIORITY_HIGH, 1 << 20);
  ASSERT_TRUE(server.gate().AwaitHeld());
  // The lowest comes first.
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> readers[3];
  const v1::Priority priorities[] = {v1::PRIORITY_LOW, v1::PRIORITY_UNSPECIFIED, v1::PRIORITY_HIGH};
  for (int i = 0; i < 3; ++i) {
    readers[i] = start(1 + i, priorities[i], kTokens);
    const absl::Time limit = absl::Now() + testing::kPatience;
    while (server.Waiting() < 1 + i && absl::Now() < limit) {
      server.gate().Allow(1);
      absl::SleepFor(absl::Milliseconds(1));
    }
    ASSERT_EQ(server.Waiting(), 1 + i);
  }
  contexts[0].TryCancel();
  running->Finish();
  const absl::Time limit = absl::Now() + testing::kPatience;
  while (server.Waiting() == 3 && absl::Now() < limit) {  // until its slot is another's
    server.gate().Allow(1);
    absl::SleepFor(absl::Milliseconds(1));
  }
  // Steps for one answer, and not for two: whose it is shows who had the slot.
  for (int i = 2; i >= 0; --i) {
    server.gate().Allow(kTokens + 5);
    const Answer answer = testing::ReadAll(readers[i].get());
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.ids, server.Expected(Bytes("go"), kTokens));
    EXPECT_GE(server.Waiting(), i - 1);
  }
}

}  // namespace
}  // namespace reprise::service
