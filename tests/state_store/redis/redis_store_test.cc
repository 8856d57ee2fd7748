// What the Redis store does beyond the contract of all stores: leases, durability, garbage, access
// rights, many replicas of the service.
#include "state_store/redis/redis_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "state_store/redis/error.h"
#include "state_store/redis/keys.h"
#include "state_store/redis/record.h"
#include "state_store/redis/store_scripts.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
using testing::RedisServer;
using testing::WaitUntil;

TEST(RedisStore, RefusesBadOptions) {
  const auto refused = [](auto change) {
    RedisStoreOptions options = OptionsFor("redis://127.0.0.1:1");
    change(options);
    return RedisStore::Create(options).status().code() == absl::StatusCode::kInvalidArgument;
  };
  using O = RedisStoreOptions;
  EXPECT_TRUE(refused([](O& o) { o.client.url = ""; }));
  EXPECT_TRUE(refused([](O& o) { o.store.chunk_bytes = 0; }));
  EXPECT_TRUE(refused([](O& o) { o.key_prefix = "{a}"; }));
  EXPECT_TRUE(refused([](O& o) { o.operation_timeout = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](O& o) { o.sync_replicas = -1; }));
  EXPECT_TRUE(refused([](O& o) { o.sync_timeout = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](O& o) { o.pin_grace = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](O& o) { o.cluster_release_delay = -absl::Seconds(1); }));
  EXPECT_FALSE(refused([](O&) {}));
}

TEST(RedisStore, TwoReplicasShareSessions) {
  RedisServer server;
  const auto a = OpenStore(server.url()), b = OpenStore(server.url());
  const Session made = a->CreateSession("t", {.id = "s"}).value();
  const Session moved = a->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {}).value();
  EXPECT_EQ(b->GetSession("t", "s").value(), moved);
  ExpectSoundHead(*b, "s");
  // Both resume it: the second to commit is aborted and loses nothing.
  EXPECT_TRUE(b->PutAndCommit("t", "s", moved.version, MakeTestSnapshot(2), {}).ok());
  EXPECT_EQ(
      GetStoreError(a->PutAndCommit("t", "s", moved.version, MakeTestSnapshot(3), {}).status()),
      StoreError::kVersionMismatch);
  ExpectSoundHead(*a, "s");
  EXPECT_EQ(a->GetSession("t", "s")->position, 3u);
  EXPECT_EQ(a->CheckIntegrity(), absl::OkStatus());
}

TEST(RedisStore, ConcurrentCreationsWithOneRequestIdMakeOneSession) {
  RedisServer server;
  const auto store = OpenStore(server.url());
  std::vector<std::thread> threads;
  std::vector<absl::StatusOr<Session>> made(8, absl::UnknownError(""));
  for (size_t i = 0; i < made.size(); ++i) {
    threads.emplace_back([&, i] { made[i] = store->CreateSession("t", {.request_id = "r"}); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& session : made) {
    ASSERT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(*session, *made[0]);
  }
  EXPECT_EQ(store->ListSessions("t", {})->sessions.size(), 1u);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

absl::StatusOr<Session> CommitLeased(RedisStore& store, std::string_view tenant,
                                     std::string_view session_id, uint64_t expected_version,
                                     const Snapshot& snapshot, CommitOptions options,
                                     const Lease& lease) {
  options.lease_token = lease.token;
  return store.PutAndCommit(tenant, session_id, expected_version, snapshot, options);
}

TEST(Leases, OneHolderCommitsAndTheOthersAreAborted) {
  RedisServer server;
  const auto store = OpenStore(server.url());
  Session session = store->CreateSession("t", {.id = "s"}).value();
  const auto mine = store->AcquireLease("t", "s", "replica-1", absl::Hours(1));
  ASSERT_TRUE(mine.ok()) << mine.status();
  const auto refused = store->AcquireLease("t", "s", "replica-2", absl::Hours(1)).status();
  EXPECT_EQ(GetStoreError(refused), StoreError::kSessionLeased);
  EXPECT_GT(RetryAfter(refused), absl::Minutes(50));
  EXPECT_LE(RetryAfter(refused), absl::Hours(1));
  const auto blocked = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {});
  EXPECT_EQ(GetStoreError(blocked.status()), StoreError::kSessionLeased) << blocked.status();
  EXPECT_GT(RetryAfter(blocked.status()), absl::Minutes(50));
  EXPECT_NE(std::string(blocked.status().message()).find("replica-1"), std::string::npos);
  session = CommitLeased(*store, "t", "s", session.version, MakeTestSnapshot(1), {}, *mine).value();
  EXPECT_TRUE(store->UpdateSession("t", "s", {.labels = Labels{{"a", "b"}}}).ok());
  EXPECT_TRUE(store->RenewLease("t", "s", *mine, absl::Hours(1)).ok());
  EXPECT_TRUE(store->ReleaseLease("t", "s", *mine).ok());
  // Released: its token is worth nothing, and the next one is higher.
  EXPECT_EQ(
      GetStoreError(
          CommitLeased(*store, "t", "s", session.version, MakeTestSnapshot(2), {}, *mine).status()),
      StoreError::kLeaseLost);
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), {}).value();
  const auto next = store->AcquireLease("t", "s", "replica-2", absl::Hours(1));
  ASSERT_TRUE(next.ok());
  EXPECT_GT(std::stoull(next->token), std::stoull(mine->token));
  EXPECT_FALSE(store->RenewLease("t", "s", *mine, absl::Hours(1)).ok());
  EXPECT_FALSE(store->ReleaseLease("t", "s", *mine).ok());
  EXPECT_EQ(GetStoreError(store->AcquireLease("t", "none", "r", absl::Hours(1)).status()),
            StoreError::kSessionNotFound);
  for (const absl::Duration bad : {absl::ZeroDuration(), absl::InfiniteDuration()}) {
    EXPECT_FALSE(store->AcquireLease("t", "s", "r", bad).ok());
  }
  EXPECT_FALSE(store->AcquireLease("t", "s", "", absl::Hours(1)).ok());
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Leases, RunOutByTheServersClockAndFenceOffWhoWasPaused) {
  RedisServer server;
  RedisStoreOptions options = OptionsFor(server.url());
  // The client's clock stands still: it has no say.
  FakeClock clock;
  options.store.clock = clock.AsFunction();
  const auto store = OpenStore(options);
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  const auto paused = store->AcquireLease("t", "s", "replica-1", absl::Milliseconds(1));
  ASSERT_TRUE(paused.ok());
  // Run out is lost, though nobody else has taken it yet.
  EXPECT_TRUE(WaitUntil([&] {
    const auto renewed = store->RenewLease("t", "s", *paused, absl::Milliseconds(1));
    return GetStoreError(renewed.status()) == StoreError::kLeaseLost;
  }));
  absl::StatusOr<Lease> taken = absl::UnknownError("");
  EXPECT_TRUE(WaitUntil([&] {
    taken = store->AcquireLease("t", "s", "replica-2", absl::Hours(1));
    return taken.ok();
  }));
  const auto late =
      CommitLeased(*store, "t", "s", session.version, MakeTestSnapshot(1), {}, *paused);
  EXPECT_EQ(GetStoreError(late.status()), StoreError::kLeaseLost) << late.status();
  EXPECT_TRUE(
      CommitLeased(*store, "t", "s", session.version, MakeTestSnapshot(2), {}, *taken).ok());
  // A session of the same name, made anew, gives out higher tokens than the one before.
  ASSERT_TRUE(store->DeleteSession("t", "s").ok());
  ASSERT_TRUE(store->CreateSession("t", {.id = "s"}).ok());
  const auto fresh = store->AcquireLease("t", "s", "replica-3", absl::Hours(1));
  ASSERT_TRUE(fresh.ok());
  EXPECT_GT(std::stoull(fresh->token), std::stoull(taken->token));
}

TEST(Durability, SyncWaitsForReplicasAndSaysIfThereAreTooFew) {
  RedisServer master;
  RedisStoreOptions options = OptionsFor(master.url());
  options.sync_replicas = 1;
  options.sync_timeout = absl::Milliseconds(100);
  const auto impatient = OpenStore(options);
  const Session session = impatient->CreateSession("t", {.id = "s"}).value();
  // Without chunks nothing is refused before the commit itself.
  Snapshot small = MakeTestSnapshot(1);
  small.manifest.parts.clear();
  small.payloads.clear();
  const CommitOptions sync{.durability = Durability::kSync, .request_id = "r"};
  const auto alone = impatient->PutAndCommit("t", "s", session.version, small, sync);
  EXPECT_EQ(alone.status().code(), absl::StatusCode::kUnavailable) << alone.status();
  EXPECT_EQ(GetOutcome(alone.status()), Outcome::kUnknown);
  EXPECT_EQ(impatient->GetSession("t", "s")->version, 2u) << "the master has it";
  // A repeat is not an answer either while the replica is missing.
  EXPECT_FALSE(impatient->PutAndCommit("t", "s", session.version, small, sync).ok());
  // With chunks it is refused before anything is committed, and leaves nothing behind.
  const auto refused =
      impatient->PutAndCommit("t", "s", 2, MakeTestSnapshot(2), {.durability = Durability::kSync});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(impatient->GetSession("t", "s")->version, 2u);
  EXPECT_TRUE(impatient->PutAndCommit("t", "s", 2, small, {.durability = Durability::kAsync}).ok());

  RedisServer replica({.arguments = {"--replicaof", "127.0.0.1 " + std::to_string(master.port())}});
  EXPECT_TRUE(WaitUntil([&] { return replica.Info("master_link_status") == "up"; }));
  options.sync_timeout = absl::Minutes(1);
  const auto patient = OpenStore(options);
  const auto repeat = patient->PutAndCommit("t", "s", session.version, small, sync);
  ASSERT_TRUE(repeat.ok()) << repeat.status();
  EXPECT_EQ(repeat->version, 2u);
  const auto moved =
      patient->PutAndCommit("t", "s", 3, MakeTestSnapshot(5), {.durability = Durability::kSync});
  ASSERT_TRUE(moved.ok()) << moved.status();
  // What was acknowledged is on the replica, whole.
  master.Kill();
  replica.Do({"REPLICAOF", "NO", "ONE"});
  const auto after = OpenStore(replica.url());
  EXPECT_EQ(after->GetSession("t", "s").value(), *moved);
  ExpectSoundHead(*after, "s");
  CollectAll(OptionsFor(replica.url()));
  EXPECT_EQ(after->CheckIntegrity(), absl::OkStatus());
}

TEST(Garbage, PinsWithoutAManifestGoAndOthersStay) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).ok());
  ASSERT_TRUE(store->Fork("t", {"s"}, {.id = "f"}).ok());
  // As a writer leaves it that dies between its chunks and its commit: pins on chunks that are
  // there, and a chunk of its own.
  const auto snapshot = store->GetSnapshot("t", "s", "");
  const std::string shared =
      Keys(options.key_prefix).Chunk("t", snapshot->manifest.parts[0].chunks[0].digest);
  server.Do({"HSET", shared, "p:dead", "1000 s"});
  const std::string own = options.key_prefix + "c:{t:" + std::string(64, 'f') + "}";
  server.Do({"HSET", own, "h", "1 0 3 3 0 0", "d", "abc", "p:dead", "1000 gone"});
  EXPECT_FALSE(store->CheckIntegrity().ok());
  // The grace counts from the stamp; these are old, and one that is not stays.
  server.Do({"HSET", own, "p:young", server.Do({"TIME"}).elements[0].text + "000000 gone"});
  GarbageReport report = store->CollectGarbage().value();
  EXPECT_EQ(report.pins_dropped, 2);
  EXPECT_EQ(server.Do({"EXISTS", own}).integer, 1);
  EXPECT_TRUE(WaitUntil([&] { return CollectAll(options).pins_dropped == 1; }));
  EXPECT_EQ(server.Do({"EXISTS", own}).integer, 0);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  ExpectSoundHead(*store, "f");
  // Bytes that came after their writer had given up.
  server.Do({"HSET", own, "d", "abc"});
  EXPECT_FALSE(store->CheckIntegrity().ok());
  EXPECT_TRUE(store->CollectGarbage().ok());
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  // A pin that cannot be read is not dropped.
  server.Do({"HSET", shared, "p:odd", "?"});
  EXPECT_EQ(CollectAll(options).pins_dropped, 0);
}

TEST(Garbage, AChunkThatThousandsShare) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).ok());
  const auto manifest = store->GetSnapshot("t", "s", "")->manifest;
  const std::string key = Keys(options.key_prefix).Chunk("t", manifest.parts[0].chunks[0].digest);
  constexpr int kDead = 9000;
  std::vector<std::string> pins = {"HSET", key};
  for (int i = 0; i < kDead; ++i) {
    pins.push_back("p:" + std::to_string(i));
    pins.push_back("1000 gone");
  }
  server.Do(pins);
  EXPECT_EQ(store->CollectGarbage()->pins_dropped, kDead);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  ExpectSoundHead(*store, "s");
}

TEST(Pins, AForkJoinsTheHoldAndTheLastOneUnpins) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {}).ok());
  const auto manifest = store->GetSnapshot("t", "s", "")->manifest;
  const std::string chunk = Keys(options.key_prefix).Chunk("t", manifest.parts[0].chunks[0].digest);
  const int64_t fields = server.Do({"HLEN", chunk}).integer;
  for (const auto* id : {"a", "b", "c"}) ASSERT_TRUE(store->Fork("t", {"s"}, {.id = id}).ok());
  ASSERT_TRUE(store->Fork("t", {"a"}, {.id = "aa"}).ok());
  EXPECT_EQ(server.Do({"HLEN", chunk}).integer, fields) << "forks do not touch chunks";
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  for (const auto* id : {"s", "a", "c", "b"}) {
    ASSERT_TRUE(store->DeleteSession("t", id).ok());
    ExpectSoundHead(*store, "aa");
    EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  }
  ASSERT_TRUE(store->DeleteSession("t", "aa").ok());
  EXPECT_EQ(server.Do({"KEYS", "*c:{*"}).elements.size(), 0u);
  EXPECT_EQ(server.Do({"KEYS", "*h:{*"}).elements.size(), 0u);
}

TEST(Pins, ForksOfASessionThatMovesOnAreWhole) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  Session session = store->CreateSession("t", {.id = "s"}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(0), {}).value();
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (uint64_t i = 1; !stop; ++i) {
      // Each lets go of the head before it.
      session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(i), {}).value();
    }
  });
  std::vector<std::thread> forkers;
  for (int t = 0; t < 3; ++t) {
    forkers.emplace_back([&, t] {
      const std::string id = "f" + std::to_string(t);
      for (int i = 0; i < 60; ++i) {
        const auto fork = store->Fork("t", {"s"}, {.id = id});
        ASSERT_TRUE(fork.ok()) << fork.status();
        ExpectSoundHead(*store, id);
        ASSERT_TRUE(store->DeleteSession("t", id).ok());
      }
    });
  }
  for (std::thread& forker : forkers) forker.join();
  stop = true;
  writer.join();
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

// A session as the version before wrote it: its pins have one user, and there is no hold.
void MakeOld(RedisServer& server, const RedisStoreOptions& options, const std::string& id) {
  const std::string key = Keys(options.key_prefix).Session("t", id);
  const std::string sealed = server.Do({"HGET", key, "r"}).text;
  const std::string bytes(Unseal(key, "r", sealed, StoreError::kCorruptIndex).value());
  SessionRecord record = DecodeRecord(bytes).value();
  for (SnapshotRow& row : record.snapshots) {
    server.Do({"DEL", Keys(options.key_prefix).Hold("t", row.use.pin)});
    row.use.user.clear();
  }
  std::string old = EncodeRecord(record).value();
  old[0] = 1;
  // Without users: their lengths go, which follow the pins.
  for (const SnapshotRow& row : record.snapshots) {
    old.erase(old.find(row.use.pin) + row.use.pin.size(), 4);
  }
  ASSERT_EQ(DecodeRecord(old)->snapshots, record.snapshots);
  server.Do({"HSET", key, "r", Seal(key, "r", old)});
}

TEST(Pins, OfOlderSessionsHoldToo) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  Session session =
      store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {.keep = true}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), {}).value();
  MakeOld(server, options, "s");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  EXPECT_EQ(CollectAll(options).pins_dropped, 0);
  ExpectSoundHead(*store, "s");
  // A fork pins for itself.
  ASSERT_TRUE(store->Fork("t", {"s"}, {.id = "f"}).ok());
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(3), {}).value();
  ExpectSoundHead(*store, "f");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  ASSERT_TRUE(store->DeleteSession("t", "s").ok());
  ExpectSoundHead(*store, "f");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  ASSERT_TRUE(store->DeleteSession("t", "f").ok());
  EXPECT_EQ(server.Do({"KEYS", "*c:{*"}).elements.size(), 0u);
}

TEST(Garbage, HoldsThatNobodyNamesGoAndLostOnesComeBack) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {}).ok());
  ASSERT_TRUE(store->Fork("t", {"s"}, {.id = "f"}).ok());
  const std::string hold = server.Do({"KEYS", "*h:{*"}).elements.at(0).text;
  // A fork that died before it was named, and a writer that died with a hold and nothing else.
  server.Do({"HSET", hold, "dead", "1000 f"});
  server.Do({"HSET", Keys(options.key_prefix).Hold("t", "gone"), "dead", "1000 nobody"});
  EXPECT_FALSE(store->CheckIntegrity().ok());
  EXPECT_EQ(store->CollectGarbage()->holds_dropped, 2);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  // Lost in a failover: found through the pins, before the fork's chunks are let go of.
  server.Do({"DEL", hold});
  EXPECT_FALSE(store->CheckIntegrity().ok());
  EXPECT_EQ(CollectAll(options).pins_dropped, 0);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  ASSERT_TRUE(store->DeleteSession("t", "s").ok());
  ExpectSoundHead(*store, "f");
}

TEST(Garbage, ListsAreMended) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  for (const auto* id : {"a", "b", "c"}) ASSERT_TRUE(store->CreateSession("t", {.id = id}).ok());
  const Keys keys(options.key_prefix);
  server.Do({"ZREM", keys.Index("t"), "b"});
  server.Do({"ZADD", keys.Index("t"), "0", "ghost"});
  server.Do({"DEL", keys.Tenants()});
  EXPECT_EQ(store->ListSessions("t", {})->sessions.size(), 2u) << "a ghost is no session";
  EXPECT_FALSE(store->CheckIntegrity().ok());
  EXPECT_GT(store->CollectGarbage()->index_repairs, 0);
  EXPECT_EQ(store->ListSessions("t", {})->sessions.size(), 3u);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Garbage, ACommitWithOldPinsIsRefusedByTheServer) {
  // What makes it safe to drop old pins: who set them can no longer name the chunks.
  RedisServer server;
  auto client = Client::Create({.url = server.url()}).value();
  const Deadline patient = DeadlineAfter(absl::Minutes(1));
  const auto apply = [&](const std::string& stamp, const std::string& rev) {
    const Answer answer = client->Run(
        Eval(kApplySession, "k", {"", rev, "update", stamp, "900000000", "*", "0", "f", "v"}),
        patient);
    return answer.reply.ok() ? answer.reply->elements[0].text
                             : std::string(answer.reply.status().message());
  };
  EXPECT_EQ(apply("1", "rev-1"), "stale");
  EXPECT_EQ(server.Do({"EXISTS", "k"}).integer, 0);
  const std::string now = server.Do({"TIME"}).elements[0].text + "000000";
  EXPECT_EQ(apply(now, "rev-1"), "ok");
  EXPECT_EQ(apply(now, "rev-1"), "same") << "run twice, it has happened once";
  EXPECT_EQ(apply(now, "rev-2"), "conflict");
}

TEST(Garbage, RunsBesideWritersThatForkAndDelete) {
  RedisServer server;
  RedisStoreOptions options = OptionsFor(server.url());
  // So short that pins of commits in progress come under suspicion.
  options.pin_grace = absl::Milliseconds(40);
  const auto store = OpenStore(options);
  // A call that took longer than its pins lived is UNAVAILABLE and has done nothing.
  const auto until_done = [](const auto& call) {
    auto result = call();
    while (absl::IsUnavailable(result.status())) result = call();
    return result;
  };
  const Session root = store->CreateSession("t", {.id = "root"}).value();
  ASSERT_TRUE(until_done([&] {
                return store->PutAndCommit("t", "root", root.version, MakeTestSnapshot(7), {});
              }).ok());
  std::atomic<bool> stop = false;
  std::thread collector([&] {
    const auto other = OpenStore(options);
    while (!stop) EXPECT_TRUE(other->CollectGarbage().ok());
  });
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      const std::string id = "f" + std::to_string(t);
      for (int i = 0; i < 60; ++i) {
        const auto fork = until_done([&] { return store->Fork("t", {"root"}, {.id = id}); });
        ASSERT_TRUE(fork.ok()) << fork.status();
        const auto moved = until_done([&] {
          return store->PutAndCommit("t", id, fork->version, MakeTestSnapshot(i % 3), {});
        });
        ASSERT_TRUE(moved.ok()) << moved.status();
        ExpectSoundHead(*store, id);
        ASSERT_TRUE(store->DeleteSession("t", id).ok());
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  collector.join();
  ExpectSoundHead(*store, "root");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Access, TheRightsThatTheDocumentsNameAreEnough) {
  RedisServer server(
      {.arguments = {"--user",       "reprise",        "on",           ">pw",      "resetchannels",
                     "~reprise:1:*", "+evalsha",       "+script|load", "+hget",    "+hmget",
                     "+hset",        "+hdel",          "+hsetnx",      "+hexists", "+hlen",
                     "+hstrlen",     "+hkeys",         "+hgetall",     "+hscan",   "+hincrby",
                     "+del",         "+exists",        "+get",         "+set",     "+sadd",
                     "+sscan",       "+zadd",          "+zrem",        "+zrange",  "+zcard",
                     "+scan",        "+time",          "+wait",        "+ping",    "+select",
                     "+role",        "+cluster|slots", "+asking"}});
  const std::string at = "@127.0.0.1:" + std::to_string(server.port());
  const auto store = OpenStore("redis://reprise:pw" + at);
  const Session session = store->CreateSession("t", {.id = "s", .request_id = "r"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {}).ok());
  ASSERT_TRUE(store->Fork("t", {"s"}, {.id = "f", .ttl = absl::Hours(1)}).ok());
  ExpectSoundHead(*store, "f");
  EXPECT_TRUE(store->AcquireLease("t", "s", "o", absl::Seconds(1)).ok());
  EXPECT_TRUE(store->CollectGarbage().ok());
  EXPECT_EQ(store->SweepExpired(absl::Now() + absl::Hours(2)).value(), 1);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  // And no more than that: another prefix is out of reach.
  RedisStoreOptions other = OptionsFor("redis://reprise:pw" + at);
  other.key_prefix = "elsewhere:";
  EXPECT_EQ(OpenStore(other)->GetSession("t", "s").status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(OpenStore("redis://reprise:wrong" + at)->GetSession("t", "s").status().code(),
            absl::StatusCode::kUnauthenticated);
}

TEST(RedisStore, LargeStatesGoInManyBatches) {
  RedisServer server({.unix_socket = true});
  for (const ChunkCodec codec : {ChunkCodec::kRaw, ChunkCodec::kZstd}) {
    for (const uint32_t chunk_bytes : {64u << 10, 256u << 10, 3u << 20}) {
      RedisStoreOptions options = OptionsFor("unix://" + server.unix_path());
      options.store.chunk_bytes = chunk_bytes;
      options.store.codec = codec;
      const auto store = OpenStore(options);
      const Session session = store->CreateSession("t", {.id = "s"}).value();
      Snapshot snapshot = MakeTestSnapshot(1, 7'000'001);
      // A part of it repeats itself, and compresses.
      std::fill_n(snapshot.payloads[1].begin() + 100'000, 3'000'000, 'x');
      ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, snapshot, {}).ok());
      EXPECT_TRUE(SameState(snapshot, *store->ReadSnapshot("t", "s", "")));
      EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
      const uint64_t stored = store->Stats("t")->stored_bytes;
      EXPECT_LE(stored, 7'000'097u);
      ASSERT_TRUE(store->DeleteSession("t", "s").ok());
      EXPECT_EQ(server.Do({"KEYS", "*{t:*"}).elements.size(), 0u);
    }
  }
}

TEST(RedisStore, LargeStatesAreReadThroughCutsAndDamageIsNamed) {
  RedisServer server({.unix_socket = true});
  FaultProxy proxy(server.port());
  RedisStoreOptions options = OptionsFor(server.url());
  options.store.chunk_bytes = 64 << 10;
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  const Snapshot snapshot = MakeTestSnapshot(1, 9'000'001);
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, snapshot, {}).ok());
  options.client.url = proxy.url();
  const auto reader = OpenStore(options);
  const auto beside = OpenStore("unix://" + server.unix_path());
  for (int i = 0; i < 10; ++i) {
    proxy.CutAfterToClient(800'000 * (i + 1));
    const auto read = reader->ReadSnapshot("t", "s", "");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(SameState(snapshot, *read));
    EXPECT_EQ(proxy.cuts(), i + 1);
  }
  proxy.CutAfterToClient(-1);
  // One damaged chunk, in whichever batch.
  const std::vector<ChunkRef> chunks = store->GetSnapshot("t", "s", "")->manifest.parts[1].chunks;
  for (const size_t at : {size_t{0}, chunks.size() / 2, chunks.size() - 1}) {
    const std::string key = Keys(options.key_prefix).Chunk("t", chunks[at].digest);
    const std::string bytes = server.Do({"HGET", key, "d"}).text;
    server.Do({"HSET", key, "d", std::string(bytes.size(), '\0')});
    for (RedisStore* reading : {reader.get(), beside.get()}) {
      const auto damaged = reading->ReadSnapshot("t", "s", "");
      EXPECT_EQ(GetStoreError(damaged.status()), StoreError::kCorruptChunk) << damaged.status();
      EXPECT_NE(std::string(damaged.status().message()).find(HexDigest(chunks[at].digest)),
                std::string::npos);
    }
    server.Do({"HSET", key, "d", bytes});
  }
  EXPECT_TRUE(SameState(snapshot, *reader->ReadSnapshot("t", "s", "")));
  EXPECT_TRUE(SameState(snapshot, *beside->ReadSnapshot("t", "s", "")));
}

TEST(RedisStore, LossyPartsAreExportedAsTheyAreStored) {
  RedisServer server;
  RedisStoreOptions options = OptionsFor(server.url());
  options.store.lossy = {{"rg_lru", LossyEncoding::kInt8Rows}};
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  Snapshot snapshot = MakeTestSnapshot(1);
  for (size_t i = 3; i < 96; i += 4) snapshot.payloads[0][i] = '\x3f';  // finite
  snapshot.manifest.parts[0].dtype = "f32";
  snapshot.manifest.parts[0].shape = {3, 8};
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, snapshot, {}).ok());
  EXPECT_EQ(store->GetSnapshot("t", "s", "")->manifest.parts[0].dtype, "f32~i8x8");
  EXPECT_EQ(store->GetSnapshot("t", "s", "")->manifest.parts[0].byte_length, 3 * 12u);
  const Snapshot read = store->ReadSnapshot("t", "s", "").value();
  EXPECT_EQ(read.manifest.parts[0].dtype, "f32");
  EXPECT_EQ(read.payloads[0].size(), 96u);
  EXPECT_NE(read.payloads[0], snapshot.payloads[0]);
  // A copy of a copy is the same: nothing is rounded twice.
  for (const auto* id : {"a", "b"}) {
    StringSink sink;
    ASSERT_TRUE(store->ExportSnapshot("t", "s", "", sink).ok());
    StringSource source(sink.bytes());
    ASSERT_TRUE(OpenStore(server.url())->ImportSnapshot("t", {.id = id}, source).ok());
    EXPECT_EQ(store->ReadSnapshot("t", id, "")->payloads, read.payloads);
  }
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(RedisStore, WritersOfOneStateInTwoFormsAgree) {
  RedisServer server;
  RedisStoreOptions raw = OptionsFor(server.url()), zstd = raw;
  raw.store.chunk_bytes = zstd.store.chunk_bytes = 64 << 10;
  zstd.store.codec = ChunkCodec::kZstd;
  const auto a = OpenStore(raw), b = OpenStore(zstd);
  Snapshot snapshot = MakeTestSnapshot(1, 1'000'000);
  for (size_t i = 0; i < snapshot.payloads[1].size(); i += 2) snapshot.payloads[1][i] = 'x';
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (RedisStore* store : {a.get(), b.get(), a.get(), b.get()}) {
      threads.emplace_back([&, store, id = "s" + std::to_string(threads.size())] {
        const Session made = store->CreateSession("t", {.id = id}).value();
        const auto moved = store->PutAndCommit("t", id, made.version, snapshot, {});
        EXPECT_TRUE(moved.ok()) << moved.status();
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(a->CheckIntegrity(), absl::OkStatus());
    for (const auto* id : {"s0", "s1", "s2", "s3"}) {
      EXPECT_TRUE(SameState(snapshot, *a->ReadSnapshot("t", id, "")));
      ASSERT_TRUE(a->DeleteSession("t", id).ok());
    }
  }
}

TEST(RedisStore, WorksOverTls) {
  RedisServer server({.tls = true});
  RedisStoreOptions options = OptionsFor(server.url());
  options.client.tls.ca_file = server.ca_file();
  const auto store = OpenStore(options);
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  Snapshot snapshot = MakeTestSnapshot(1, 3'000'000);
  ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, snapshot, {}).ok());
  EXPECT_TRUE(SameState(snapshot, *store->ReadSnapshot("t", "s", "")));
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

}  // namespace
}  // namespace reprise::state_store::redis
