// Generate with a session: turns continue each other exactly, and are committed once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using testing::ByteTokenizer;
using testing::ErrorInfoIn;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

v1::GenerateRequest TurnRequest(const std::string& session, const Ids& prompt, int max_tokens) {
  v1::GenerateRequest request = TokenRequest(prompt, max_tokens);
  request.set_session(session);
  return request;
}

TEST(SessionTurnsTest, TurnsContinueEachOtherExactly) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  Ids tokens = Bytes("first prompt");
  const Answer first = server.Turn(session, tokens, 7);
  EXPECT_EQ(first.ids, server.Expected(tokens, 7));
  EXPECT_EQ(first.finished.usage().restored_tokens(), 0);
  EXPECT_EQ(first.finished.commit().session(), session);
  EXPECT_EQ(first.finished.commit().version(), 2u);
  EXPECT_EQ(first.finished.commit().token_count(), 19);
  EXPECT_EQ(first.finished.commit().committed_tokens(), 19);
  EXPECT_FALSE(first.finished.commit().already_committed());

  tokens = tokens + first.ids + Bytes(" second");
  const Answer second = server.Turn(session, Bytes(" second"), 90);
  EXPECT_EQ(second.ids, server.Expected(tokens, 90));
  EXPECT_EQ(second.finished.usage().restored_tokens(), 18);
  EXPECT_EQ(second.finished.usage().computed_tokens(), 1 + 7 + 89);

  // An empty prompt goes on.
  tokens = tokens + second.ids;
  const Answer third = server.Turn(session, {}, 5);
  EXPECT_EQ(third.ids, server.Expected(tokens, 5));

  const v1::Session state = server.GetSession(session);
  EXPECT_EQ(state.version(), 4u);
  EXPECT_EQ(state.model(), "puppet");
  EXPECT_EQ(state.token_count(), static_cast<int64_t>(tokens.size()) + 5);
  EXPECT_EQ(state.head_snapshot(), third.finished.commit().snapshot());
  EXPECT_EQ(state.state_bytes(), 16 * 8);
}

TEST(SessionTurnsTest, FeedingOnlyPreparesASession) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  server.Turn(session, Bytes("a long system prompt"), 0);
  server.Turn(session, Bytes("x"), 0);
  EXPECT_EQ(server.Turn(session, Bytes("go"), 9).ids,
            server.Expected(Bytes("a long system promptxgo"), 9));
}

TEST(SessionTurnsTest, TextGetsTheBeginningTokenInTheFirstTurnOnly) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = TurnRequest(session, {}, 3);
  request.set_text("hi");
  const Answer first = server.Generate(request);
  EXPECT_EQ(first.finished.usage().prompt_tokens(), 3);
  const Answer second = server.Generate(request);
  EXPECT_EQ(second.finished.usage().prompt_tokens(), 2);
  EXPECT_EQ(second.ids,
            server.Expected(Ids{ByteTokenizer::kBos} + Bytes("hi") + first.ids + Bytes("hi"), 3));
}

TEST(SessionTurnsTest, SamplingGoesOnAsIfNothingHadHappened) {
  TestServer server;
  v1::GenerateRequest whole = TokenRequest(Bytes("go"), 40);
  whole.mutable_sampling()->set_temperature(1);
  whole.mutable_sampling()->set_seed(99);
  const Ids uninterrupted = server.Generate(whole).ids;

  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest part = TurnRequest(session, Bytes("go"), 15);
  part.mutable_sampling()->set_temperature(1);
  part.mutable_sampling()->set_seed(99);
  const Ids first = server.Generate(part).ids;
  part.clear_prompt();
  part.mutable_sampling()->clear_seed();  // the session's own goes on
  part.mutable_stop()->set_max_tokens(25);
  const Answer second = server.Generate(part);
  EXPECT_EQ(second.finished.seed(), 99u);
  EXPECT_EQ(first + second.ids, uninterrupted);
}

TEST(SessionTurnsTest, ACharacterCutByATurnsEndIsCompletedByTheNext) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = TurnRequest(session, Bytes("go"), 1);
  (*request.mutable_sampling()->mutable_logit_bias())[ByteTokenizer::Id('\xC3')] = 500;
  EXPECT_EQ(server.Generate(request).text, "\xEF\xBF\xBD");
  request = TurnRequest(session, {}, 1);
  (*request.mutable_sampling()->mutable_logit_bias())[ByteTokenizer::Id('\xA9')] = 500;
  EXPECT_EQ(server.Generate(request).text, "\xC3\xA9");
}

TEST(SessionTurnsTest, StopStringsStayInTheSession) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = TurnRequest(session, Bytes("go"), 50);
  (*request.mutable_sampling()->mutable_logit_bias())[ByteTokenizer::Id('!')] = 500;
  request.mutable_stop()->add_stop_strings("!!!");
  const Answer answer = server.Generate(request);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(answer.text, "");
  EXPECT_EQ(answer.finished.commit().token_count(), 5);
  EXPECT_EQ(server.Turn(session, Bytes("?"), 4).ids, server.Expected(Bytes("go!!!?"), 4));
}

TEST(SessionTurnsTest, AVersionThatIsNotTheSessionsFailsBeforeAnythingIsComputed) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  server.Turn(session, Bytes("go"), 3);
  const int64_t steps = server.gate().steps();
  v1::GenerateRequest request = TurnRequest(session, Bytes("go"), 3);
  request.set_session_version(1);
  const Answer answer = server.Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonIn(answer.status), "VERSION_MISMATCH");
  EXPECT_EQ(ErrorInfoIn(answer.status).metadata().at("expected"), "1");
  EXPECT_EQ(ErrorInfoIn(answer.status).metadata().at("found"), "2");
  EXPECT_EQ(server.gate().steps(), steps);
  request.set_session_version(2);
  EXPECT_TRUE(server.Generate(request).status.ok());
}

TEST(SessionTurnsTest, AnotherTurnOfABusySessionIsRefused) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  server.gate().Hold();
  grpc::ClientContext context;
  auto running = server.generation().Generate(&context, TurnRequest(session, Bytes("go"), 3));
  ASSERT_TRUE(server.gate().AwaitHeld());
  const Answer refused = server.Generate(TurnRequest(session, Bytes("other"), 3));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonIn(refused.status), "SESSION_BUSY");
  server.gate().Open();
  const Answer answer = testing::ReadAll(running.get());
  EXPECT_EQ(answer.ids, server.Expected(Bytes("go"), 3));
  // Free the moment the client knows.
  EXPECT_TRUE(server.Generate(TurnRequest(session, Bytes("other"), 3)).status.ok());
}

TEST(SessionTurnsTest, AWriterElsewhereWinsAndTheTurnLosesNothing) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  server.Turn(session, Bytes("go"), 3);
  const std::string head = server.GetSession(session).head_snapshot();
  server.gate().Hold();
  grpc::ClientContext context;
  auto running = server.generation().Generate(&context, TurnRequest(session, Bytes("x"), 3));
  ASSERT_TRUE(server.gate().AwaitHeld());
  // What another server on the same store would do.
  const std::string snapshot_id = head.substr(head.rfind('/') + 1);
  ASSERT_TRUE(server.store().CreateSnapshot("default", "chat").ok());
  ASSERT_TRUE(server.store().Rewind("default", "chat", snapshot_id, 2, "").ok());
  server.gate().Open();
  const Answer answer = testing::ReadAll(running.get());
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonIn(answer.status), "VERSION_MISMATCH");
  EXPECT_EQ(server.GetSession(session).head_snapshot(), head);
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
}

TEST(SessionTurnsTest, ARepeatedRequestIdChangesTheSessionOnce) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = TurnRequest(session, Bytes("go"), 6);
  request.set_request_id("turn\n1");
  request.set_session_version(1);
  const Answer first = server.Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  const int64_t steps = server.gate().steps();
  const Answer repeat = server.Generate(request);
  ASSERT_TRUE(repeat.status.ok()) << repeat.status.error_message();
  EXPECT_TRUE(repeat.finished.commit().already_committed());
  EXPECT_EQ(repeat.finished.commit().version(), first.finished.commit().version());
  EXPECT_EQ(repeat.finished.commit().snapshot(), first.finished.commit().snapshot());
  EXPECT_EQ(repeat.finished.commit().committed_tokens(), 8);
  EXPECT_TRUE(repeat.ids.empty());
  EXPECT_EQ(server.gate().steps(), steps);

  // A fork has the parent's snapshot, but not its turns.
  grpc::ClientContext context;
  v1::ForkSessionRequest fork;
  fork.set_source(session);
  fork.set_session_id("branch");
  v1::Session branch;
  ASSERT_TRUE(server.sessions().ForkSession(&context, fork, &branch).ok());
  request.set_session(branch.name());
  request.set_session_version(0);
  const Answer forked = server.Generate(request);
  ASSERT_TRUE(forked.status.ok()) << forked.status.error_message();
  EXPECT_EQ(forked.ids.size(), 6u);
}

TEST(SessionTurnsTest, AnOlderRequestIdIsRefusedOrAnsweredByItsFirstCommit) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = TurnRequest(session, Bytes("go"), 6);
  request.set_request_id("one");
  ASSERT_TRUE(server.Generate(request).status.ok());
  server.Turn(session, Bytes("more"), 2);
  const v1::Session before = server.GetSession(session);
  const Answer repeat = server.Generate(request);
  EXPECT_EQ(ReasonIn(repeat.status), repeat.status.ok() ? "" : "REQUEST_ID_REUSED");
  EXPECT_EQ(server.GetSession(session).version(), before.version());
  EXPECT_EQ(server.GetSession(session).head_snapshot(), before.head_snapshot());
}

TEST(SessionTurnsTest, NumbersThatAreNoneAreNeverStored) {
  auto options = TestServer::SmallOptions();
  options.nan_token = ByteTokenizer::Id('!');
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  server.Turn(session, Bytes("go"), 3);
  const v1::Session before = server.GetSession(session);
  const Answer answer = server.Generate(TurnRequest(session, Bytes("!"), 3));
  EXPECT_EQ(ReasonIn(answer.status), "NON_FINITE");
  EXPECT_EQ(server.GetSession(session).version(), before.version());
}

TEST(SessionTurnsTest, AModelThatIsNotTheSessionsIsRefused) {
  auto options = TestServer::SmallOptions();
  options.models = {"one", "two"};
  TestServer server(options);
  grpc::ClientContext context;
  v1::CreateSessionRequest create;
  create.set_session_id("chat");
  create.set_model("one");
  v1::Session session;
  ASSERT_TRUE(server.sessions().CreateSession(&context, create, &session).ok());
  EXPECT_EQ(session.model(), "one");
  v1::GenerateRequest request = TurnRequest(session.name(), Bytes("go"), 3);
  EXPECT_TRUE(server.Generate(request).status.ok());  // the session knows
  request.set_model("two");
  const Answer answer = server.Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonIn(answer.status), "FINGERPRINT_MISMATCH");
}

TEST(SessionTurnsTest, ASessionOutlivesItsServerOnDiskAndRefusesOtherWeights) {
  const std::string directory = ::testing::TempDir() + "reprise-turns-" + std::to_string(getpid());
  std::filesystem::remove_all(directory);
  auto options = TestServer::SmallOptions();
  options.disk = directory;
  Ids tokens = Bytes("remember this");
  std::string session;
  {
    TestServer server(options);
    session = server.NewSession("chat").name();
    v1::GenerateRequest request = TurnRequest(session, tokens, 11);
    request.set_durability(v1::DURABILITY_SYNC);
    const Answer answer = server.Generate(request);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    tokens = tokens + answer.ids;
  }
  {
    options.weights_fingerprint = std::string(64, 'c');
    TestServer server(options);
    const Answer answer = server.Generate(TurnRequest(session, Bytes("x"), 3));
    EXPECT_EQ(ReasonIn(answer.status), "FINGERPRINT_MISMATCH");
    EXPECT_EQ(ErrorInfoIn(answer.status).metadata().at("field"), "weights_fingerprint");
  }
  options.weights_fingerprint.clear();
  TestServer server(options);
  EXPECT_EQ(server.GetSession(session).version(), 2u);
  EXPECT_EQ(server.Turn(session, Bytes("x"), 20).ids, server.Expected(tokens + Bytes("x"), 20));
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
  std::filesystem::remove_all(directory);
}

TEST(SessionTurnsTest, AFullStoreSaysSoAndTheSessionStaysAsItWas) {
  auto options = TestServer::SmallOptions();
  options.server.store.max_bytes = 100;  // less than one state
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  const Answer answer = server.Generate(TurnRequest(session, Bytes("go"), 3));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonIn(answer.status), "STORE_FULL");
  EXPECT_EQ(answer.ids, server.Expected(Bytes("go"), 3)) << "tokens were delivered all the same";
  EXPECT_EQ(server.GetSession(session).version(), 1u);
  EXPECT_TRUE(server.AwaitIdle());
}

}  // namespace
}  // namespace reprise::service
