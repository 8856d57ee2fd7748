// The Redis store under faults of server and network. Whatever happens: what was acknowledged is
// there unless the mode says that it may be lost, a commit happens once or not at all, and no read
// gives a wrong byte.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "state_store/chunking.h"
#include "state_store/redis/chunk_table.h"
#include "state_store/redis/error.h"
#include "state_store/redis/keys.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
using testing::RedisCluster;
using testing::RedisSentinelSetup;
using testing::RedisServer;
using testing::WaitUntil;

TEST(Faults, ConnectionsCutAnywhereInACommit) {
  RedisServer server;
  FaultProxy proxy(server.port());
  const RedisStoreOptions direct = OptionsFor(server.url());
  const auto watcher = OpenStore(direct);
  const auto store = OpenStore(proxy.url());
  Session session = watcher->CreateSession("t", {.id = "s"}).value();
  // Warm: connections and scripts are there, so the cuts fall into the commit's own bytes.
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(0), {}).value();
  int landed = 0;
  for (int step = 1; step <= 120; ++step) {
    SCOPED_TRACE(step);
    const int64_t bytes = 1 + step * 53;
    if (step % 2 == 0) {
      proxy.CutAfterToServer(bytes);
    } else {
      proxy.CutAfterToClient(bytes % 2600);
    }
    const auto moved =
        store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(step * 10), {});
    proxy.CutAfterToServer(-1);
    proxy.CutAfterToClient(-1);
    const Session now = watcher->GetSession("t", "s").value();
    if (moved.ok()) {
      EXPECT_EQ(now, *moved);
      ++landed;
    } else {
      // Only where our change may have been followed by another's is the answer withheld.
      EXPECT_EQ(GetOutcome(moved.status()), Outcome::kUnknown) << moved.status();
    }
    ASSERT_LE(now.version, session.version + 1) << "it happened twice";
    session = now;
    ExpectSoundHead(*watcher, "s");
  }
  EXPECT_EQ(landed, 120) << "a lost answer is found out by asking again";
  EXPECT_GT(proxy.cuts(), 40);
  CollectAll(direct);
  EXPECT_EQ(watcher->CheckIntegrity(), absl::OkStatus());
}

TEST(Faults, ACutWithoutASecondChanceIsInDoubtAndARepeatSettlesIt) {
  RedisServer server;
  FaultProxy proxy(server.port());
  RedisStoreOptions options = OptionsFor(proxy.url());
  options.operation_timeout = absl::Seconds(2);
  options.client.call_timeout = absl::Milliseconds(300);
  const auto store = OpenStore(options);
  const auto watcher = OpenStore(server.url());
  Session session = watcher->CreateSession("t", {.id = "s"}).value();
  const CommitOptions once{.request_id = "r"};
  // The server gets everything and its answers vanish, until the call gives up.
  ASSERT_TRUE(store->GetSession("t", "s").ok());
  proxy.BlackHole(true);
  const auto lost = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), once);
  EXPECT_FALSE(lost.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(lost.status()) || absl::IsUnavailable(lost.status()));
  proxy.BlackHole(false);
  absl::StatusOr<Session> repeat = absl::UnknownError("");
  EXPECT_TRUE(WaitUntil([&] {
    repeat = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), once);
    return repeat.ok();
  }));
  EXPECT_EQ(repeat->version, 2u);
  EXPECT_EQ(watcher->GetSession("t", "s")->version, 2u);
  ExpectSoundHead(*watcher, "s");
}

TEST(Faults, KillDuringWritesLosesNothingThatIsOnDisk) {
  RedisServer server({.arguments = {"--appendonly", "yes", "--appendfsync", "always"}});
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  constexpr int kWriters = 3;
  std::atomic<bool> stop = false;
  std::atomic<int> commits = 0;
  std::vector<std::thread> writers;
  std::vector<Session> last(kWriters);
  for (int t = 0; t < kWriters; ++t) {
    const std::string id = "s" + std::to_string(t);
    last[t] = store->CreateSession("t", {.id = id}).value();
    writers.emplace_back([&, t, id] {
      for (uint64_t i = 0; !stop; ++i) {
        const auto moved = store->PutAndCommit("t", id, last[t].version, MakeTestSnapshot(i), {});
        // The server comes back within the call, so every commit gets its answer.
        ASSERT_TRUE(moved.ok()) << moved.status();
        EXPECT_EQ(moved->version, last[t].version + 1);
        last[t] = *moved;
        ++commits;
      }
    });
  }
  for (int round = 0; round < 6; ++round) {
    const int before = commits;
    EXPECT_TRUE(WaitUntil([&] { return commits > before + 10; }));
    server.Kill();
    server.Start();
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  for (const Session& session : last) {
    EXPECT_EQ(store->GetSession("t", session.id).value(), session);
    ExpectSoundHead(*store, session.id);
  }
  CollectAll(options);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Faults, ALogThatACrashHasTornInTheMiddleOfACommit) {
  // Redis 7.0 cuts such a log after the last whole command and not before the transaction; after a
  // second crash the transaction's beginning is carried out with the next one.
  RedisServer server({.arguments = {"--appendonly", "yes", "--appendfsync", "always"}});
  const RedisStoreOptions options = OptionsFor(server.url());
  const std::string log = server.directory() + "/appendonlydir/appendonly.aof.1.incr.aof";
  const auto store = OpenStore(options);
  Session torn = store->CreateSession("t", {.id = "torn"}).value();
  torn = store->PutAndCommit("t", "torn", torn.version, MakeTestSnapshot(1), {}).value();
  Session other = store->CreateSession("t", {.id = "other"}).value();
  int at_new = 0, at_old = 0;
  for (int part = 0; part < 32; ++part) {
    SCOPED_TRACE(part);
    const auto before = std::filesystem::file_size(log);
    const uint64_t seed = 10 + static_cast<uint64_t>(part);
    const CommitOptions once{.request_id = std::to_string(part)};
    ASSERT_TRUE(store->PutAndCommit("t", "torn", torn.version, MakeTestSnapshot(seed), once).ok());
    server.Kill();
    // The change is the last but for what lets go of the old head.
    const std::string bytes = [&] {
      std::ifstream in(log, std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(in), {});
    }();
    const size_t done = bytes.find("\r\ndone\r\n", before);
    const size_t begin = bytes.rfind("MULTI", done);
    ASSERT_LT(begin, done);
    std::filesystem::resize_file(log, begin + 5 + (done - begin) * static_cast<size_t>(part) / 31);
    server.Start();
    // What is acknowledged now has to last, whether it is of the torn session or not.
    absl::StatusOr<Session> moved = absl::UnknownError("");
    if (part % 2 == 0) {
      moved = store->PutAndCommit("t", "other", other.version, MakeTestSnapshot(seed), {});
      ASSERT_TRUE(moved.ok()) << moved.status();
      other = *moved;
    } else {
      moved = store->PutAndCommit("t", "torn", torn.version, MakeTestSnapshot(seed + 50), {});
      ASSERT_TRUE(moved.ok()) << moved.status();
      torn = *moved;
    }
    server.Kill();
    server.Start();
    EXPECT_EQ(store->GetSession("t", "other").value(), other);
    const Session now = store->GetSession("t", "torn").value();
    if (part % 2 == 0) {
      // The commit that was not acknowledged has happened or has not.
      (now == torn ? at_old : at_new) += 1;
      EXPECT_LE(now.version, torn.version + 1);
      torn = now;
    }
    EXPECT_EQ(now, torn);
    ExpectSoundHead(*store, "torn");
    if (other.version > 1) ExpectSoundHead(*store, "other");
    CollectAll(options);
    EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  }
  EXPECT_GT(at_old, 0);
  EXPECT_GT(at_new, 0) << "the fault did not come about";
}

TEST(Faults, AnEmptyServerIsNotFoundAndNeverWrong) {
  RedisServer server;
  const auto store = OpenStore(server.url());
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  const auto moved = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {});
  ASSERT_TRUE(moved.ok());
  const auto lose_everything = [&](int how) {
    if (how == 0) {
      server.Do({"FLUSHALL"});
    } else {
      server.Kill();
      server.Start();
    }
  };
  for (const int how : {0, 1}) {
    lose_everything(how);
    EXPECT_EQ(GetStoreError(store->GetSession("t", "s").status()), StoreError::kSessionNotFound);
    EXPECT_EQ(GetStoreError(store->ReadSnapshot("t", "s", "").status()),
              StoreError::kSessionNotFound);
    EXPECT_EQ(GetStoreError(
                  store->PutAndCommit("t", "s", moved->version, MakeTestSnapshot(2), {}).status()),
              StoreError::kSessionNotFound)
        << "a session that went back is not silently forked";
    EXPECT_EQ(store->ListSessions("t", {})->sessions.size(), 0u);
    EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
    const Session fresh = store->CreateSession("t", {.id = "s"}).value();
    ASSERT_TRUE(store->PutAndCommit("t", "s", fresh.version, MakeTestSnapshot(3), {}).ok());
    ExpectSoundHead(*store, "s");
  }
}

TEST(Faults, AFullServerRefusesAndLetsGo) {
  RedisServer server;
  const auto store = OpenStore(server.url());
  Session session = store->CreateSession("t", {.id = "s"}).value();
  session =
      store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(1), {.keep = true}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(20), {}).value();
  for (const auto* policy : {"noeviction", "volatile-lru"}) {
    SCOPED_TRACE(policy);
    server.Do({"CONFIG", "SET", "maxmemory-policy", policy});
    server.Do({"CONFIG", "SET", "maxmemory", "1mb"});
    const auto full =
        store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(40, 2'000'000), {});
    EXPECT_EQ(GetStoreError(full.status()), StoreError::kStoreFull) << full.status();
    EXPECT_EQ(full.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(GetStoreError(store->CreateSession("t", {.id = "x"}).status()),
              StoreError::kStoreFull);
    // Nothing of ours was evicted to make room, and reading goes on.
    EXPECT_EQ(store->GetSession("t", "s").value(), session);
    ExpectSoundHead(*store, "s");
    server.Do({"CONFIG", "SET", "maxmemory", "0"});
    EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  }
  server.Do({"CONFIG", "SET", "maxmemory", "1mb"});
  const auto first = store->ListSnapshots("t", "s", {})->snapshots[0].manifest.snapshot_id;
  EXPECT_EQ(store->DeleteSnapshot("t", "s", first), absl::OkStatus()) << "room can be made";
  EXPECT_EQ(store->DeleteSession("t", "s"), absl::OkStatus());
  server.Do({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_EQ(store->Stats("t").value(), StoreStats{});
}

TEST(Faults, WhatAServerEvictsIsMissedAndNotGuessed) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  Snapshot snapshot = MakeTestSnapshot(1);
  const Session moved =
      store->PutAndCommit("t", "s", session.version, snapshot, {.keep = true}).value();
  const auto manifest = store->GetSnapshot("t", "s", "")->manifest;
  const Keys keys(options.key_prefix);
  server.Do({"DEL", keys.Chunk("t", manifest.parts[1].chunks[2].digest)});
  const auto read = store->ReadSnapshot("t", "s", "");
  EXPECT_EQ(GetStoreError(read.status()), StoreError::kCorruptChunk) << read.status();
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
  // A fork is as damaged as its source: it does not touch the chunks.
  ASSERT_TRUE(store->Fork("t", {"s"}, {.id = "f"}).ok());
  EXPECT_EQ(GetStoreError(store->ReadSnapshot("t", "f", "").status()), StoreError::kCorruptChunk);
  EXPECT_FALSE(store->CheckIntegrity().ok());
  // Whoever still has the bytes brings them back.
  ASSERT_TRUE(store->PutAndCommit("t", "s", moved.version, snapshot, {}).ok());
  EXPECT_TRUE(SameState(snapshot, *store->ReadSnapshot("t", "s", "")));
  EXPECT_TRUE(SameState(snapshot, *store->ReadSnapshot("t", "s", manifest.snapshot_id)));
  EXPECT_TRUE(SameState(snapshot, *store->ReadSnapshot("t", "f", "")));
}

// A value with one bit flipped, cut short, or longer than it was.
std::string Damaged(std::string value, size_t at) {
  if (at % 3 == 0) return value.substr(0, at);
  if (at % 3 == 1) return value + value.substr(at);
  value[at] = static_cast<char>(value[at] ^ (1 << (at % 8)));
  return value;
}

class DamagedValues : public ::testing::TestWithParam<ChunkCodec> {};

INSTANTIATE_TEST_SUITE_P(Faults, DamagedValues,
                         ::testing::Values(ChunkCodec::kRaw, ChunkCodec::kZstd),
                         [](const auto& info) { return info.index == 0 ? "Raw" : "Zstd"; });

TEST_P(DamagedValues, AreErrorsAndNeverAnswers) {
  RedisServer server;
  RedisStoreOptions options = OptionsFor(server.url());
  options.store.codec = GetParam();
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  Snapshot snapshot = MakeTestSnapshot(1, 700);
  // So that it can be made shorter.
  for (size_t i = 0; i < 700; ++i) snapshot.payloads[1][i] &= 3;
  const CommitOptions commit{.request_id = "r"};
  const Session session = store->PutAndCommit("t", "s", made.version, snapshot, commit).value();
  int wrong = 0, refused = 0;
  for (const Reply& key : server.Do({"KEYS", "*"}).elements) {
    if (server.Do({"TYPE", key.text}).text != "hash") continue;
    const Reply pairs = server.Do({"HGETALL", key.text});
    for (size_t i = 0; i + 1 < pairs.elements.size(); i += 2) {
      const std::string& field = pairs.elements[i].text;
      const std::string& value = pairs.elements[i + 1].text;
      for (size_t at = 0; at < value.size(); at += 1 + value.size() / 36) {
        server.Do({"HSET", key.text, field, Damaged(value, at)});
        const auto read = store->ReadSnapshot("t", "s", "");
        if (read.ok() && !SameState(snapshot, *read)) ++wrong;
        if (!read.ok()) {
          ++refused;
          EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << read.status();
        }
        const auto got = store->GetSession("t", "s");
        if (got.ok() && !(*got == session)) ++wrong;
        const auto repeat = store->PutAndCommit("t", "s", made.version, snapshot, commit);
        if (repeat.ok() && !(*repeat == session)) ++wrong;
        server.Do({"HSET", key.text, field, value});
        server.Do({"HDEL", key.text, "bad"});
      }
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(refused, 60);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Faults, ADamagedSessionIsSteppedOverAndCanBeDeleted) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  for (const auto* id : {"a", "b", "c"}) {
    const Session made = store->CreateSession("t", {.id = id, .ttl = absl::Hours(1)}).value();
    ASSERT_TRUE(store->PutAndCommit("t", id, made.version, MakeTestSnapshot(1), {}).ok());
  }
  server.Do({"HSET", Keys(options.key_prefix).Session("t", "b"), "r", "nonsense"});
  EXPECT_EQ(GetStoreError(store->GetSession("t", "b").status()), StoreError::kCorruptIndex);
  EXPECT_EQ(CollectAll(options).pins_dropped, 0) << "it may hold its pins";
  EXPECT_EQ(store->SweepExpired(absl::Now() + absl::Hours(3)).value(), 2);
  EXPECT_EQ(store->DeleteSession("t", "b"), absl::OkStatus());
  EXPECT_EQ(GetStoreError(store->GetSession("t", "b").status()), StoreError::kSessionNotFound);
  EXPECT_TRUE(WaitUntil([&] { return CollectAll(options).chunks_seen == 0; }));
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
  EXPECT_TRUE(store->CreateSession("t", {.id = "b"}).ok());
}

TEST(Faults, OtherBytesUnderTheSameAddressAreNeverTakenForOurs) {
  // As if two chunks had one digest: under the address of one lies the other, with a sound header.
  RedisServer server;
  const auto store = OpenStore(server.url());
  const Snapshot ours = MakeTestSnapshot(1, 400), theirs = MakeTestSnapshot(2, 400);
  const Keys keys("reprise:1:");
  const std::string key = keys.Chunk("t", ChunkDigest("t", ours.payloads[1]));
  ChunkRef ref;
  ref.raw_length = ref.stored_length = 400;
  ref.checksum = Checksum64(theirs.payloads[1]);
  const auto plant = [&] {
    server.Do({"HSET", key, "d", theirs.payloads[1], "h", ChunkTable::HeaderOf(key, ref)});
  };
  plant();
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  const auto refused = store->PutAndCommit("t", "s", session.version, ours, {});
  EXPECT_EQ(GetStoreError(refused.status()), StoreError::kCorruptChunk) << refused.status();
  EXPECT_EQ(store->GetSession("t", "s").value(), session);
  // Nor where the session was moved from here before, nor by a fork of a state that was there.
  server.Do({"DEL", key});
  const Session moved = store->PutAndCommit("t", "s", session.version, ours, {}).value();
  plant();
  const auto again = store->PutAndCommit("t", "s", moved.version, ours, {});
  EXPECT_EQ(GetStoreError(again.status()), StoreError::kCorruptChunk) << again.status();
  EXPECT_EQ(GetStoreError(store->ReadSnapshot("t", "s", "").status()), StoreError::kCorruptChunk);
}

TEST(Faults, AHerdOfReadersOfOneSnapshot) {
  RedisServer server;
  RedisStoreOptions options = OptionsFor(server.url());
  options.client.pool.max_connections = 4;
  const auto store = OpenStore(options);
  const Session session = store->CreateSession("t", {.id = "s"}).value();
  const Snapshot state = MakeTestSnapshot(1, 200'000);
  ASSERT_TRUE(store->PutAndCommit("t", "s", session.version, state, {}).ok());
  std::vector<std::thread> readers;
  std::atomic<int> sound = 0;
  for (int t = 0; t < 48; ++t) {
    readers.emplace_back([&] {
      const auto read = store->ReadSnapshot("t", "s", "");
      EXPECT_TRUE(read.ok()) << read.status();
      sound += read.ok() && SameState(state, *read);
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(sound, 48);
  EXPECT_LE(store->ConnectionCounts().first, 4);
}

TEST(Faults, ADamagedChunkIsWrittenAgainByWhoeverHasIt) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  const Snapshot snapshot = MakeTestSnapshot(1);
  const Session session = store->PutAndCommit("t", "s", made.version, snapshot, {}).value();
  const auto manifest = store->GetSnapshot("t", "s", "")->manifest;
  const std::string key = Keys(options.key_prefix).Chunk("t", manifest.parts[0].chunks[0].digest);
  server.Do({"HSET", key, "d", std::string(96, 'x')});
  EXPECT_EQ(GetStoreError(store->ReadSnapshot("t", "s", "").status()), StoreError::kCorruptChunk);
  const Session other = store->CreateSession("t", {.id = "o"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "o", other.version, snapshot, {}).ok());
  EXPECT_TRUE(SameState(snapshot, *store->ReadSnapshot("t", "s", "")));
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Faults, ScriptsMayBeFlushedAtAnyTime) {
  RedisServer server;
  const auto store = OpenStore(server.url());
  Session session = store->CreateSession("t", {.id = "s"}).value();
  std::atomic<bool> stop = false;
  std::thread flusher([&] {
    while (!stop) server.Do({"SCRIPT", "FLUSH"});
  });
  for (uint64_t i = 0; i < 40; ++i) {
    const auto moved = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(i), {});
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(moved->version, session.version + 1);
    session = *moved;
  }
  stop = true;
  flusher.join();
  ExpectSoundHead(*store, "s");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Faults, AFailoverKeepsEverySyncCommit) {
  RedisSentinelSetup setup(2);
  RedisStoreOptions options = OptionsFor(setup.url());
  options.sync_replicas = 2;
  options.sync_timeout = absl::Seconds(1);
  options.client.call_timeout = absl::Seconds(5);
  const auto store = OpenStore(options);
  Session session = store->CreateSession("t", {.id = "s"}).value();
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> acknowledged = session.version;
  std::atomic<int> commits = 0;
  std::thread writer([&] {
    for (uint64_t i = 0; !stop; ++i) {
      const auto now = store->GetSession("t", "s");
      if (!now.ok()) continue;
      EXPECT_GE(now->version, acknowledged) << "an acknowledged commit is gone";
      // While the group is short of a replica a commit is refused, and may have happened.
      const auto moved = store->PutAndCommit("t", "s", now->version, MakeTestSnapshot(i),
                                             {.durability = Durability::kSync});
      if (!moved.ok()) continue;
      acknowledged = moved->version;
      ++commits;
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return commits > 20; }));
  RedisServer* old = setup.master();
  ASSERT_NE(old, nullptr);
  old->Kill();
  EXPECT_TRUE(WaitUntil([&] {
    RedisServer* now = setup.master();
    return now != nullptr && now != old;
  }));
  old->Start();  // comes back, and is made a replica
  const int before = commits;
  EXPECT_TRUE(WaitUntil([&] { return commits > before + 20; }));
  stop = true;
  writer.join();
  EXPECT_GE(store->GetSession("t", "s")->version, acknowledged);
  ExpectSoundHead(*store, "s");
  CollectAll(OptionsFor(setup.url()));
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Faults, SlotsMoveUnderWriters) {
  RedisCluster cluster(3);
  const RedisStoreOptions options = OptionsFor(cluster.url());
  const auto store = OpenStore(options);
  const Keys keys(options.key_prefix);
  Session session = store->CreateSession("t", {.id = "s"}).value();
  session = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(0), {}).value();
  std::atomic<bool> stop = false;
  std::atomic<int> commits = 0;
  std::thread writer([&] {
    while (!stop) {
      // Few states, so that the chunks in the moving slots are used all the time.
      const auto moved =
          store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(commits % 3), {});
      ASSERT_TRUE(moved.ok()) << moved.status();
      EXPECT_EQ(moved->version, session.version + 1);
      session = *moved;
      ExpectSoundHead(*store, "s");
      ++commits;
    }
  });
  const auto manifest = store->GetSnapshot("t", "s", "")->manifest;
  std::vector<uint16_t> slots = {KeySlot(keys.Session("t", "s")), KeySlot(keys.Index("t"))};
  for (const ChunkRef& ref : manifest.parts[1].chunks) {
    slots.push_back(KeySlot(keys.Chunk("t", ref.digest)));
  }
  for (const uint16_t slot : slots) {
    const int from = cluster.OwnerOf(slot), to = (from + 1) % 3;
    const int before = commits;
    cluster.MoveSlot(slot, from, to, /*finish=*/false);
    EXPECT_TRUE(WaitUntil([&] { return commits > before + 2; })) << "in the middle of a move";
    cluster.MoveSlot(slot, from, to, /*finish=*/true);
    EXPECT_TRUE(WaitUntil([&] { return cluster.OwnerOf(slot) == to; }));
  }
  stop = true;
  writer.join();
  CollectAll(options);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

}  // namespace
}  // namespace reprise::state_store::redis
