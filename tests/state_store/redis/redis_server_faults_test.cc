// The Redis store while the server itself is in trouble: its disk is full, it is a replica, it asks
// for a password that it did not ask for before, or sessions go while they are being read.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "state_store/redis/error.h"
#include "state_store/redis/keys.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisServer;
using testing::WaitUntil;

RedisStoreOptions Impatient(const std::string& url) {
  RedisStoreOptions options = OptionsFor(url);
  options.operation_timeout = absl::Seconds(1);
  return options;
}

constexpr uint64_t kNoLimit = UINT64_MAX;

class FullDisk : public ::testing::Test {
 protected:
  // A session at version 2, with a state that is on disk.
  void Begin(RedisServer& server) {
    const auto store = OpenStore(server.url());
    session_ = store->CreateSession("t", {.id = "s"}).value();
    session_ = store->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(1), {}).value();
  }

  // No write is acknowledged, whatever is tried, and all that is there can be read.
  void ExpectReadOnly(RedisServer& server) {
    const auto store = OpenStore(Impatient(server.url()));
    const auto refused =
        store->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), repeated_);
    EXPECT_TRUE(absl::IsUnavailable(refused.status())) << refused.status();
    EXPECT_FALSE(store->CreateSession("t", {.id = "x"}).ok());
    EXPECT_FALSE(store->Fork("t", {"s"}, {.id = "f"}).ok());
    EXPECT_FALSE(store->AcquireLease("t", "s", "me", absl::Minutes(1)).ok());
    EXPECT_FALSE(store->DeleteSession("t", "s").ok());
    EXPECT_EQ(store->GetSession("t", "s").value(), session_);
    ExpectSoundHead(*store, "s");
  }

  // With room again the same call happens, once, and lasts.
  void ExpectHealed(RedisServer& server) {
    const RedisStoreOptions options = OptionsFor(server.url());
    const auto store = OpenStore(options);
    const auto moved =
        store->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), repeated_);
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(moved->version, session_.version + 1);
    EXPECT_EQ(
        store->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), repeated_).value(),
        *moved);
    session_ = *moved;
    ExpectSoundHead(*store, "s");
    CollectAll(options);
    EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  }

  const CommitOptions repeated_{.request_id = "r"};
  Session session_;
};

TEST_F(FullDisk, UnderTheLog) {
  RedisServer server({.arguments = {"--appendonly", "yes", "--appendfsync", "everysec"}});
  Begin(server);
  server.LimitFileBytes(1);
  // The first write finds it out; what was acknowledged just before may be lost by a crash now, as
  // everysec says.
  EXPECT_TRUE(WaitUntil([&] {
    return server.Do({"SET", "probe", "1"}).text.find("MISCONF") != std::string::npos;
  }));
  ExpectReadOnly(server);
  server.LimitFileBytes(kNoLimit);
  EXPECT_TRUE(WaitUntil([&] { return !server.Do({"SET", "probe", "1"}).is_error(); }));
  ExpectHealed(server);
  server.Do({"DEL", "probe"});
  const std::string appended = server.Do({"CONFIG", "SET", "appendfsync", "always"}).text;
  EXPECT_EQ(appended, "OK");
  const auto store = OpenStore(server.url());
  session_ = store->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(3), {}).value();
  server.Kill();
  server.Start();
  EXPECT_EQ(store->GetSession("t", "s").value(), session_) << "the log is whole again";
  ExpectSoundHead(*store, "s");
}

TEST_F(FullDisk, UnderALogThatIsWrittenBeforeEachAnswer) {
  RedisServer server({.arguments = {"--appendonly", "yes", "--appendfsync", "always"}});
  Begin(server);
  server.LimitFileBytes(1);
  // Redis ends itself rather than answer for what it could not write.
  const auto store = OpenStore(Impatient(server.url()));
  const auto refused =
      store->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), repeated_);
  EXPECT_TRUE(absl::IsUnavailable(refused.status()) || absl::IsDeadlineExceeded(refused.status()))
      << refused.status();
  server.Kill();
  server.Start();
  EXPECT_EQ(OpenStore(server.url())->GetSession("t", "s").value(), session_);
  ExpectHealed(server);
}

TEST_F(FullDisk, UnderSnapshotsOfTheWholeServer) {
  RedisServer server;
  Begin(server);
  ASSERT_EQ(server.Do({"CONFIG", "SET", "save", "3600 1"}).text, "OK");
  server.LimitFileBytes(1);
  server.Do({"BGSAVE"});
  EXPECT_TRUE(WaitUntil([&] { return server.Info("rdb_last_bgsave_status") == "err"; }));
  ExpectReadOnly(server);
  server.LimitFileBytes(kNoLimit);
  server.Do({"BGSAVE"});
  EXPECT_TRUE(WaitUntil([&] { return server.Info("rdb_last_bgsave_status") == "ok"; }));
  ExpectHealed(server);
}

TEST(ServerFaults, AServerThatHasBecomeAReplicaTakesNothing) {
  RedisServer server, other;
  const auto store = OpenStore(server.url());
  Session session = store->CreateSession("t", {.id = "s"}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).value();
  // Of a master that is not there, so that it keeps what it has.
  const uint16_t port = other.port();
  other.Kill();
  server.Do({"REPLICAOF", "127.0.0.1", std::to_string(port)});
  const auto refused = OpenStore(Impatient(server.url()))
                           ->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), {});
  EXPECT_TRUE(absl::IsUnavailable(refused.status()) || absl::IsDeadlineExceeded(refused.status()))
      << refused.status();
  server.Do({"REPLICAOF", "NO", "ONE"});
  EXPECT_EQ(store->GetSession("t", "s").value(), session);
  ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), {}).ok());
  ExpectSoundHead(*store, "s");
}

TEST(ServerFaults, APasswordThatChangesIsATypedErrorAtOnce) {
  RedisServer server;
  const auto store = OpenStore(OptionsFor(server.url()));
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  server.Do({"CONFIG", "SET", "requirepass", "secret"});
  // What is connected stays so; who comes anew is asked.
  const auto late = OpenStore(OptionsFor(server.url()));
  const auto refused = late->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {});
  EXPECT_TRUE(absl::IsUnauthenticated(refused.status())) << refused.status();
  EXPECT_EQ(refused.status().message().find("secret"), absl::string_view::npos);
}

TEST(ServerFaults, AServerThatComesBackOlderIsNotWrittenOver) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  Session session = store->CreateSession("t", {.id = "s"}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).value();
  ASSERT_EQ(server.Do({"SAVE"}).text, "OK");
  const Session saved = session;
  for (uint64_t seed = 2; seed < 5; ++seed) {
    session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(seed), {}).value();
  }
  server.Kill();
  server.Start();
  // Whoever goes on from what is gone is refused, also the process that made it and remembers it.
  const auto late = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(5), {});
  EXPECT_EQ(GetStoreError(late.status()), StoreError::kVersionMismatch) << late.status();
  EXPECT_EQ(store->GetSession("t", "s").value(), saved);
  ExpectSoundHead(*store, "s");
  // Who goes on from what is there is not.
  ASSERT_TRUE(store->PutAndCommit("t", "s", saved.version, MakeTestSnapshot(6), {}).ok());
  ExpectSoundHead(*store, "s");
  CollectAll(options);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(ServerFaults, AServerThatStillLoadsIsWaitedFor) {
  // Each key takes it 2 ms to load, and it looks up every kilobyte.
  RedisServer server({.arguments = {"--key-load-delay", "2000",
                                    "--loading-process-events-interval-bytes", "1024"}});
  const auto store = OpenStore(OptionsFor(server.url()));
  Session session = store->CreateSession("t", {.id = "s"}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).value();
  for (int i = 0; i < 200; ++i) {
    server.Do({"SET", "other" + std::to_string(i), state_store::PatternBytes(1, 1000)});
  }
  ASSERT_EQ(server.Do({"SAVE"}).text, "OK");
  server.Kill();
  std::atomic<bool> loading = false, done = false;
  std::thread caller([&] {
    const auto moved = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), {});
    EXPECT_TRUE(moved.ok()) << moved.status();
    done = true;
  });
  std::thread watcher([&] {
    while (!done) {
      const Reply reply = server.Do({"GET", "other0"});
      loading = loading || reply.text.find("LOADING") != std::string::npos;
    }
  });
  server.Start();
  caller.join();
  watcher.join();
  EXPECT_TRUE(loading) << "the fault did not come about";
  EXPECT_EQ(store->GetSession("t", "s")->version, session.version + 1);
  ExpectSoundHead(*store, "s");
}

// Runs something in the middle of a read: when the manifest is known and the bytes are not.
class AtFirstChunk final : public ChunkSource {
 public:
  explicit AtFirstChunk(std::function<void()> run) : run_(std::move(run)) {}
  SharedBytes FindChunk(std::string_view, const ChunkRef&) override {
    if (!done_.exchange(true)) run_();
    return {};
  }
  void Arm() { done_ = false; }

 private:
  const std::function<void()> run_;
  std::atomic<bool> done_ = true;
};

TEST(ServerFaults, ASessionThatGoesWhileItIsReadIsNotFoundAndNotDamaged) {
  RedisServer server;
  std::atomic<int64_t> hours = 0;
  RedisStoreOptions options = OptionsFor(server.url());
  options.store.clock = [&] {
    return absl::FromUnixSeconds(1'700'000'000) + absl::Hours(hours.load());
  };
  const auto store = OpenStore(options);
  Session session;
  std::function<void()> happens;
  RedisStoreOptions reading = options;
  const auto source = std::make_shared<AtFirstChunk>([&] { happens(); });
  reading.known_chunks = source;
  const auto reader = OpenStore(reading);
  const auto read_while = [&](std::function<void()> what) {
    session = store->CreateSession("t", {.id = "s", .ttl = absl::Hours(1)}).value();
    session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).value();
    happens = std::move(what);
    source->Arm();
    return reader->ReadSnapshot("t", "s", "");
  };
  // It expires and is swept away.
  const auto expired = read_while([&] {
    hours += 2;
    EXPECT_EQ(store->SweepExpired(options.store.clock()).value(), 1);
  });
  EXPECT_EQ(GetStoreError(expired.status()), StoreError::kSessionNotFound) << expired.status();
  // It is deleted.
  const auto deleted =
      read_while([&] { EXPECT_EQ(store->DeleteSession("t", "s"), absl::OkStatus()); });
  EXPECT_EQ(GetStoreError(deleted.status()), StoreError::kSessionNotFound) << deleted.status();
  // It moves on, and what the reader began with is gone: the reader gets what is there now.
  const auto moved = read_while([&] {
    session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(50), {}).value();
  });
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_TRUE(SameState(MakeTestSnapshot(50), *moved));
  // Another of that name takes its place.
  ASSERT_EQ(store->DeleteSession("t", "s"), absl::OkStatus());
  const auto replaced = read_while([&] {
    ASSERT_EQ(store->DeleteSession("t", "s"), absl::OkStatus());
    const Session fresh = store->CreateSession("t", {.id = "s"}).value();
    ASSERT_TRUE(store->PutAndCommit("t", "s", fresh.version, MakeTestSnapshot(70), {}).ok());
  });
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_TRUE(SameState(MakeTestSnapshot(70), *replaced));
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

}  // namespace
}  // namespace reprise::state_store::redis
