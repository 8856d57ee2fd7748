// Calls that end early: cancel, deadline, slow and vanished readers, full queues.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using testing::ByteTokenizer;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

v1::GenerateRequest TurnRequest(const std::string& session, const Ids& prompt, int max_tokens) {
  v1::GenerateRequest request = TokenRequest(prompt, max_tokens);
  request.set_session(session);
  return request;
}

// Until the session has this version; false after kPatience.
bool AwaitVersion(TestServer& server, const std::string& session, uint64_t version) {
  const absl::Time limit = absl::Now() + testing::kPatience;
  while (server.GetSession(session).version() < version) {
    if (absl::Now() > limit) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

TEST(InterruptionTest, ACancelledTurnCommitsWhatWasGeneratedAndFreesItsSlot) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  grpc::ClientContext context;
  auto reader = server.generation().Generate(&context, TurnRequest(session, Bytes("go"), 1 << 20));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(AwaitVersion(server, session, 2));
  ASSERT_TRUE(server.AwaitIdle());
  // The session is at a token that the model had reached, and goes on from there.
  const int64_t count = server.GetSession(session).token_count();
  EXPECT_GT(count, 2);
  EXPECT_LT(count, 1 << 20);
  Ids tokens = Bytes("go");
  const Ids answer = server.Expected(tokens, static_cast<int>(count) - 2 + 5);
  EXPECT_EQ(server.Turn(session, {}, 5).ids, Ids(answer.end() - 5, answer.end()));
}

TEST(InterruptionTest, ATurnCancelledInItsPromptCommitsNothing) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  server.gate().Hold();
  grpc::ClientContext context;
  // A prompt of more steps than the cancel can take to arrive, each held for a while.
  constexpr int kSteps = 4000;
  auto reader = server.generation().Generate(
      &context, TurnRequest(session, Ids(kSteps * 64, ByteTokenizer::Id('x')), 9));
  ASSERT_TRUE(server.gate().AwaitHeld());
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  while (!server.Idle() && server.gate().steps() < kSteps) {
    server.gate().Allow(1);
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_LT(server.gate().steps(), kSteps);
  server.gate().Open();
  ASSERT_TRUE(server.AwaitIdle());
  EXPECT_EQ(server.GetSession(session).version(), 1u);
}

TEST(InterruptionTest, ADeadlineEndsTheSequenceAndTheTurnIsCommitted) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  auto reader = server.generation().Generate(&context, TurnRequest(session, Bytes("go"), 1 << 20));
  const Answer answer = testing::ReadAll(reader.get());
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(server.AwaitIdle());
  if (!answer.ids.empty()) {
    ASSERT_TRUE(AwaitVersion(server, session, 2));
    EXPECT_GE(server.GetSession(session).token_count(),
              static_cast<int64_t>(2 + answer.ids.size()));
  }
}

TEST(InterruptionTest, ADeadlineThatHasPassedComputesNothing) {
  TestServer server;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  auto reader = server.generation().Generate(&context, TokenRequest(Bytes("go"), 3));
  EXPECT_EQ(testing::ReadAll(reader.get()).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(InterruptionTest, ASlowReaderPausesItsOwnSequenceOnly) {
  TestServer server;
  // Big events, so that the connection's window fills up soon.
  v1::GenerateRequest big = TokenRequest(Bytes("slow"), 3000);
  big.mutable_output()->set_top_logprobs(20);
  grpc::ClientContext context;
  auto slow = server.generation().Generate(&context, big);
  // Without the pause the sequence would run to its end while nobody reads, and be gone.
  const int64_t steps = server.gate().AwaitStill();
  EXPECT_GT(steps, 0);
  EXPECT_LT(steps, 2900) << "the sequence was not paused";
  // Meanwhile others run.
  EXPECT_EQ(server.Generate(TokenRequest(Bytes("fast"), 200)).ids,
            server.Expected(Bytes("fast"), 200));
  // And the slow one loses nothing.
  const Answer answer = testing::ReadAll(slow.get());
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids, server.Expected(Bytes("slow"), 3000));
}

TEST(InterruptionTest, AReaderThatIsGoneWhilePausedFreesItsSlot) {
  TestServer server;
  v1::GenerateRequest big = TokenRequest(Bytes("slow"), 1 << 20);
  big.mutable_output()->set_top_logprobs(20);
  {
    grpc::ClientContext context;
    auto slow = server.generation().Generate(&context, big);
    v1::GenerateResponse response;
    ASSERT_TRUE(slow->Read(&response));
    context.TryCancel();
    slow->Finish();
  }
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(InterruptionTest, AReaderThatNeverReadsIsCancelledInTheEnd) {
  auto options = TestServer::SmallOptions();
  options.server.limits.stall = absl::Milliseconds(100);
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest big = TurnRequest(session, Bytes("slow"), 1 << 20);
  big.mutable_output()->set_top_logprobs(20);
  grpc::ClientContext context;
  auto reader = server.generation().Generate(&context, big);
  ASSERT_TRUE(AwaitVersion(server, session, 2)) << "its turn is committed";
  ASSERT_TRUE(server.AwaitIdle());
  EXPECT_EQ(testing::ReadAll(reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST(InterruptionTest, AFullQueueRefusesAtOnce) {
  auto options = TestServer::SmallOptions();
  options.server.compute.slots = 1;
  options.server.compute.max_queued = 2;
  TestServer server(options);
  server.gate().Hold();
  // One runs, two wait; calls are started one after the other, so that the order is known.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  const auto start = [&] {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(
        server.generation().Generate(contexts.back().get(), TokenRequest(Bytes("go"), 3)));
  };
  start();
  ASSERT_TRUE(server.gate().AwaitHeld());
  for (int i = 0; i < 12; ++i) start();
  int refused = 0;
  server.gate().Open();
  for (auto& reader : readers) {
    const Answer answer = testing::ReadAll(reader.get());
    if (answer.status.ok()) {
      EXPECT_EQ(answer.ids, server.Expected(Bytes("go"), 3));
      continue;
    }
    ++refused;
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(ReasonIn(answer.status), "QUEUE_FULL");
    EXPECT_TRUE(testing::HasRetryInfo(answer.status));
  }
  EXPECT_LE(refused, 10);
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(InterruptionTest, ManyCallsCancelledAtAnyMomentLeaveNothingBehind) {
  TestServer server;
  for (int i = 0; i < 8; ++i) server.NewSession(absl::StrCat("s", i));
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&server, t] {
      for (int round = 0; round < 12; ++round) {
        grpc::ClientContext context;
        auto reader = server.generation().Generate(
            &context, TurnRequest(absl::StrCat("sessions/s", t),
                                  Bytes(std::string(1 + 7 * round, 'x')), 1 << 20));
        v1::GenerateResponse response;
        for (int reads = 0; reads < round % 4; ++reads) reader->Read(&response);
        context.TryCancel();
        reader->Finish();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(server.AwaitIdle());
  EXPECT_TRUE(server.AwaitCalls(0));
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
  EXPECT_EQ(server.Generate(TokenRequest(Bytes("go"), 5)).ids, server.Expected(Bytes("go"), 5));
}

}  // namespace
}  // namespace reprise::service
