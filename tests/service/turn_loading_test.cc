// A session's state is read while others are computed; checkpoints while its own turn is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/fault_point.h"
#include "service/errors.h"
#include "state_store/testing/faulty_store.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using state_store::FaultyStore;
using testing::Answer;
using testing::Bytes;
using testing::FieldsIn;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

// A server whose store can be held at one of its calls.
struct Held {
  Held() {
    TestServer::Options options = TestServer::SmallOptions();
    options.wrap_store = [this](std::unique_ptr<state_store::SessionStore> inner) {
      auto faulty = std::make_unique<FaultyStore>(std::move(inner));
      store = faulty.get();
      store->SetBefore([this](std::string_view method) {
        absl::MutexLock lock(&mutex);
        if (method != held) return absl::OkStatus();
        ++waiting;
        auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return held != method; };
        mutex.Await(absl::Condition(&free));
        --waiting;
        return failure;
      });
      return faulty;
    };
    server.emplace(options);
  }
  ~Held() { Hold(""); }
  void Hold(const std::string& method) {
    absl::MutexLock lock(&mutex);
    held = method;
  }
  bool AwaitWaiting() {
    absl::MutexLock lock(&mutex);
    auto there = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return waiting > 0; };
    return mutex.AwaitWithTimeout(absl::Condition(&there), testing::kPatience);
  }

  absl::Mutex mutex;
  std::string held;
  absl::Status failure;
  int waiting = 0;
  FaultyStore* store = nullptr;
  std::optional<TestServer> server;
};

TEST(TurnLoading, OthersAreComputedWhileAStateIsRead) {
  Held held;
  TestServer& server = *held.server;
  const std::string session = server.NewSession("chat").name();
  const Ids prompt = Bytes("hello");
  const Answer first = server.Turn(session, prompt, 6);
  held.Hold("ReadSnapshot");
  Answer second;
  std::thread turn([&] { second = server.Turn(session, {}, 8); });
  ASSERT_TRUE(held.AwaitWaiting());
  // The batch goes on meanwhile, with whole requests of others.
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(server.Generate(TokenRequest(Bytes("x"), 20)).ids.size(), 20u);
  }
  absl::SleepFor(absl::Milliseconds(30));
  held.Hold("");
  turn.join();
  Ids all = prompt;
  all.insert(all.end(), first.ids.begin(), first.ids.end());
  EXPECT_EQ(second.ids, server.Expected(all, 8));
  const v1::Timeline& timeline = second.finished.timeline();
  EXPECT_GE(timeline.load_seconds(), 0.03);
  EXPECT_GE(timeline.queue_seconds(), timeline.load_seconds());
  EXPECT_GE(timeline.time_to_first_token_seconds(), timeline.load_seconds());
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(TurnLoading, AStateThatCannotBeReadEndsItsOwnTurn) {
  Held held;
  TestServer& server = *held.server;
  const std::string session = server.NewSession("chat").name();
  server.Turn(session, Bytes("hello"), 6);
  held.failure = state_store::MakeStoreError(state_store::StoreError::kCorruptChunk, "damaged");
  held.Hold("ReadSnapshot");
  Answer turn;
  v1::GenerateRequest request = TokenRequest({}, 3);
  request.set_session(session);
  std::thread thread([&] { turn = server.Generate(request); });
  ASSERT_TRUE(held.AwaitWaiting());
  held.Hold("");
  thread.join();
  EXPECT_EQ(turn.status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(ReasonIn(turn.status), "CORRUPT_SNAPSHOT");
  EXPECT_TRUE(server.AwaitIdle());
  EXPECT_EQ(server.GetSession(session).version(), 2u);
  // Not busy any more.
  EXPECT_EQ(server.Turn(session, {}, 2).ids.size(), 2u);
}

v1::GenerateRequest Checkpointed(const std::string& session, const Ids& prompt, int max_tokens,
                                 int every) {
  v1::GenerateRequest request = TokenRequest(prompt, max_tokens);
  request.set_session(session);
  request.set_request_id("r");
  request.set_durability(v1::DURABILITY_EVERY_N_TOKENS);
  request.set_checkpoint_tokens(every);
  return request;
}

TEST(Checkpoints, AreCommitsAndTheAnswerIsTheSame) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  const Answer answer = server.Generate(Checkpointed(session, Bytes("hello"), 200, 10));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids, server.Expected(Bytes("hello"), 200));
  const int stored = answer.finished.timeline().checkpoints();
  EXPECT_GT(stored, 0);
  EXPECT_EQ(answer.finished.commit().version(), 2u + stored);
  EXPECT_EQ(answer.finished.commit().committed_tokens(), 205);
  EXPECT_EQ(server.GetSession(session).token_count(), 205);
  // The whole turn counts once.
  const Answer again = server.Generate(Checkpointed(session, Bytes("hello"), 200, 10));
  EXPECT_TRUE(again.finished.commit().already_committed());
  EXPECT_EQ(again.finished.commit().version(), answer.finished.commit().version());
}

TEST(Checkpoints, ASequenceDoesNotRunFarAheadOfThem) {
  Held held;
  TestServer& server = *held.server;
  const std::string session = server.NewSession("chat").name();
  held.Hold("PutAndCommit");
  Answer answer;
  std::thread turn(
      [&] { answer = server.Generate(Checkpointed(session, Bytes("hello"), 500, 10)); });
  ASSERT_TRUE(held.AwaitWaiting());
  // The first is being stored, the second waits, then nothing moves.
  const auto steps = [&] { return server.gate().steps(); };
  for (int64_t before = -1; before != steps();) {
    before = steps();
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_LE(steps(), 25);
  EXPECT_GE(steps(), 10);
  held.Hold("");
  turn.join();
  EXPECT_EQ(answer.ids, server.Expected(Bytes("hello"), 500));
}

TEST(Checkpoints, ATurnThatCanNeverBeCommittedEndsAtOnce) {
  Held held;
  TestServer& server = *held.server;
  const std::string session = server.NewSession("chat").name();
  held.Hold("PutAndCommit");
  Answer answer;
  std::thread turn(
      [&] { answer = server.Generate(Checkpointed(session, Bytes("hello"), 100000, 10)); });
  ASSERT_TRUE(held.AwaitWaiting());
  held.failure = state_store::MakeStoreError(state_store::StoreError::kVersionMismatch, "moved");
  held.Hold("");
  turn.join();
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonIn(answer.status), "VERSION_MISMATCH");
  EXPECT_LT(answer.ids.size(), 100000u);
  EXPECT_TRUE(server.AwaitIdle());
  EXPECT_EQ(server.GetSession(session).version(), 1u);
}

#ifdef REPRISE_FAULT_POINTS
TEST(Checkpoints, OneThatFailsForGoodBeforeTheTurnsIdIsKnownEndsItToo) {
  Held held;
  TestServer& server = *held.server;
  const std::string session = server.NewSession("chat").name();
  held.failure = state_store::MakeStoreError(state_store::StoreError::kVersionMismatch, "moved");
  held.Hold("PutAndCommit");
  bool known_late = false;
  ChooseFaultPoint("generate.submitted", [&] {
    if (!held.AwaitWaiting()) return;
    const int64_t still = server.gate().AwaitStill();
    held.Hold("");
    // It goes on once the failure has been noted: nobody could cancel it.
    known_late = testing::Await([&] { return server.gate().steps() > still; });
  });
  const Answer answer = server.Generate(Checkpointed(session, Bytes("hello"), 50000, 10));
  ChooseFaultPoint("");
  EXPECT_TRUE(known_late);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonIn(answer.status), "VERSION_MISMATCH");
  EXPECT_LT(server.gate().steps(), 50000);
  EXPECT_TRUE(server.AwaitIdle());
  EXPECT_EQ(server.GetSession(session).version(), 1u);
}
#endif

TEST(Checkpoints, RequestsAreChecked) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("x"), 5);
  request.set_durability(v1::DURABILITY_EVERY_N_TOKENS);
  request.set_checkpoint_tokens(-1);
  request.mutable_output()->set_prompt_logprobs(true);
  EXPECT_THAT(FieldsIn(server.Generate(request).status),
              ::testing::UnorderedElementsAre("checkpoint_tokens", "session", "request_id",
                                              "output.prompt_logprobs"));
  request = TokenRequest(Bytes("x"), 5);
  request.set_checkpoint_tokens(5);
  request.set_sync_replicas(1);  // there are none here
  EXPECT_THAT(FieldsIn(server.Generate(request).status),
              ::testing::UnorderedElementsAre("checkpoint_tokens", "sync_replicas"));
}

TEST(TurnLoadingTest, AManifestOfMoreBytesThanAnyStateIsRefusedBeforeTheyAreRead) {
  TestServer server;
  server.NewSession("chat");
  server.Turn("sessions/chat", Bytes("go"), 3);
  state_store::SnapshotManifest manifest =
      server.store().GetSnapshot("default", "chat", "")->manifest;
  EXPECT_TRUE(ReadLegsChecked(server.served(), manifest).ok());
  manifest.parts[0].byte_length = uint64_t{1} << 40;
  EXPECT_EQ(ReasonOf(ReadLegsChecked(server.served(), manifest).status()),
            v1::ERROR_REASON_CORRUPT_SNAPSHOT);
}

}  // namespace
}  // namespace reprise::service
