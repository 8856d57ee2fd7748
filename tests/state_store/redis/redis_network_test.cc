// The Redis store behind a bad network, with clocks that disagree, and beside another tenant's
// values.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "state_store/disk_store.h"
#include "state_store/redis/error.h"
#include "state_store/redis/keys.h"
#include "state_store/redis/record.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
using testing::RedisServer;
using testing::TemporaryDirectory;
using testing::WaitUntil;

// Whether a caller can tell what to do about it.
bool IsTyped(const absl::Status& status) {
  return status.ok() || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsAborted(status);
}

TEST(Network, CutInTheMiddleOfALargeChunk) {
  RedisServer server;
  FaultProxy proxy(server.port());
  RedisStoreOptions options = OptionsFor(proxy.url()), direct = OptionsFor(server.url());
  options.store.chunk_bytes = direct.store.chunk_bytes = 256 << 10;
  const auto store = OpenStore(options), watcher = OpenStore(direct);
  Session session = store->CreateSession("t", {.id = "s"}).value();
  for (int i = 0; i < 12; ++i) {
    SCOPED_TRACE(i);
    const Snapshot snapshot = MakeTestSnapshot(static_cast<uint64_t>(i), 1'500'000);
    proxy.CutAfterToServer(1000 + i * 120'011);
    const auto moved = store->PutAndCommit("t", "s", session.version, snapshot, {});
    proxy.CutAfterToServer(-1);
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(moved->version, session.version + 1);
    session = *moved;
    EXPECT_TRUE(SameState(snapshot, *watcher->ReadSnapshot("t", "s", "")));
    proxy.CutAfterToClient(1000 + i * 120'011);
    const auto read = store->ReadSnapshot("t", "s", "");
    proxy.CutAfterToClient(-1);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(SameState(snapshot, *read));
  }
  EXPECT_GE(proxy.cuts(), 20);
  CollectAll(direct);
  EXPECT_EQ(watcher->CheckIntegrity(), absl::OkStatus());
}

TEST(Network, TwoSecondsOfLatency) {
  RedisServer server;
  FaultProxy proxy(server.port());
  RedisStoreOptions options = OptionsFor(proxy.url());
  options.operation_timeout = absl::Seconds(3);
  options.client.call_timeout = absl::Seconds(3);
  const auto store = OpenStore(options), watcher = OpenStore(server.url());
  const Session made = watcher->CreateSession("t", {.id = "s"}).value();
  const Session session =
      watcher->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {.keep = true}).value();
  const std::string head = session.head_snapshot_id;
  const CommitOptions once{.request_id = "slow"};
  const std::vector<std::function<absl::Status()>> calls = {
      [&] { return store->GetSession("t", "s").status(); },
      [&] { return store->ReadSnapshot("t", "s", "").status(); },
      [&] { return store->ListSessions("t", {}).status(); },
      [&] { return store->ListSnapshots("t", "s", {}).status(); },
      [&] { return store->CreateSession("t", {.id = "new"}).status(); },
      [&] { return store->Fork("t", {"s"}, {.id = "fork"}).status(); },
      [&] { return store->Rewind("t", "s", head, 99, "").status(); },
      [&] { return store->CreateSnapshot("t", "s").status(); },
      [&] {
        return store->UpdateSession("t", "s", {.labels = Labels{{"a", "b"}}}).status();
      },
      [&] { return store->AcquireLease("t", "s2", "o", absl::Seconds(1)).status(); },
      [&] { return store->Stats("t").status(); },
      [&] {
        return store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), once).status();
      }};
  proxy.Delay(absl::Seconds(2));
  std::vector<std::thread> callers;
  std::atomic<int> late = 0, failed = 0;
  for (const auto& call : calls) {
    callers.emplace_back([&] {
      const auto begin = std::chrono::steady_clock::now();
      const absl::Status status = call();
      EXPECT_TRUE(IsTyped(status) || absl::IsNotFound(status)) << status;
      failed += !status.ok();
      // A lenient bound: without deadlines these calls take 10 s and more.
      late += std::chrono::steady_clock::now() - begin > std::chrono::seconds(9);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(late, 0);
  EXPECT_GT(failed, 3) << "the latency was not felt";
  proxy.Delay(absl::ZeroDuration());
  // What became of the commit is settled by its request id.
  absl::StatusOr<Session> repeat = absl::UnknownError("");
  EXPECT_TRUE(WaitUntil([&] {
    repeat = store->PutAndCommit("t", "s", session.version, MakeTestSnapshot(2), once);
    return repeat.ok();
  }));
  EXPECT_EQ(repeat->version, session.version + 1);
  EXPECT_EQ(watcher->GetSession("t", "s")->version, session.version + 1);
  ExpectSoundHead(*watcher, "s");
  CollectAll(OptionsFor(server.url()));
  EXPECT_EQ(watcher->CheckIntegrity(), absl::OkStatus());
}

TEST(Network, HalfOfAllAnswersAreResets) {
  RedisServer server;
  FaultProxy proxy(server.port());
  RedisStoreOptions options = OptionsFor(proxy.url());
  options.operation_timeout = absl::Seconds(3);
  options.client.pool.max_backoff = absl::Milliseconds(20);
  options.client.max_retry_delay = absl::Milliseconds(20);
  const auto store = OpenStore(options), watcher = OpenStore(server.url());
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    const std::string id = "s" + std::to_string(t);
    ASSERT_TRUE(watcher->CreateSession("t", {.id = id}).ok());
    writers.emplace_back([&, id] {
      uint64_t version = 1, acknowledged = 1;
      for (uint64_t i = 0; i < 16; ++i) {
        const CommitOptions once{.request_id = std::to_string(i)};
        absl::StatusOr<Session> moved = absl::UnknownError("");
        for (int attempt = 0; attempt < 50 && !moved.ok(); ++attempt) {
          moved = store->PutAndCommit("t", id, version, MakeTestSnapshot(i), once);
          EXPECT_TRUE(IsTyped(moved.status())) << moved.status();
        }
        ASSERT_TRUE(moved.ok()) << moved.status();
        // However often it was repeated, it happened once.
        EXPECT_EQ(moved->version, version + 1);
        version = acknowledged = moved->version;
      }
      EXPECT_EQ(watcher->GetSession("t", id)->version, acknowledged);
      ExpectSoundHead(*watcher, id);
    });
  }
  proxy.ResetPerMille(500);
  for (std::thread& writer : writers) writer.join();
  proxy.ResetPerMille(0);
  EXPECT_GT(proxy.cuts(), 200);
  CollectAll(OptionsFor(server.url()));
  EXPECT_EQ(watcher->CheckIntegrity(), absl::OkStatus());
}

// Sessions are made, moved, swept and looked at by stores whose clocks are an hour apart.
void JumpClocks(SessionStore& store, SessionStore& ahead, FakeClock& clock) {
  // Long enough for any of the clocks, and too short for the one ahead.
  const Session kept = store.CreateSession("t", {.id = "kept", .ttl = absl::Hours(5)}).value();
  ASSERT_TRUE(store.CreateSession("t", {.id = "forever"}).ok());
  ASSERT_TRUE(store.CreateSession("t", {.id = "short", .ttl = absl::Minutes(30)}).ok());
  uint64_t version = kept.version;
  const CommitOptions once{.request_id = "r"};
  const Session first = store.PutAndCommit("t", "kept", version, MakeTestSnapshot(0), once).value();
  for (int i = 1; i <= 6; ++i) {
    version = store.GetSession("t", "kept")->version;
    clock.Advance(absl::Hours(i % 2 == 0 ? -1 : 1));
    SessionStore& other = i % 3 == 0 ? ahead : store;
    const auto moved = other.PutAndCommit("t", "kept", version, MakeTestSnapshot(i), {});
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(moved->version, version + 1);
    // What has happened has happened, whatever the time.
    const auto repeat = store.PutAndCommit("t", "kept", kept.version, MakeTestSnapshot(0), once);
    ASSERT_TRUE(repeat.ok()) << repeat.status();
    EXPECT_EQ(*repeat, first);
    EXPECT_FALSE(store.PutAndCommit("t", "kept", version, MakeTestSnapshot(9), {}).ok());
    const auto read = store.ReadSnapshot("t", "kept", "");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(SameState(MakeTestSnapshot(static_cast<uint64_t>(i)), *read));
  }
  EXPECT_TRUE(store.GetSession("t", "short").ok());
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(GetStoreError(store.GetSession("t", "short").status()), StoreError::kSessionExpired);
  EXPECT_EQ(store.SweepExpired(clock.Now()).value(), 1);
  clock.Advance(-absl::Hours(1));
  EXPECT_EQ(GetStoreError(store.GetSession("t", "short").status()), StoreError::kSessionNotFound);
  EXPECT_TRUE(store.GetSession("t", "kept").ok());
  EXPECT_TRUE(store.GetSession("t", "forever").ok());
  EXPECT_EQ(store.CheckIntegrity(), absl::OkStatus());
}

TEST(Clocks, JumpByAnHourUnderARedisStore) {
  RedisServer server;
  FakeClock clock;
  RedisStoreOptions options = OptionsFor(server.url()), ahead = options;
  options.store.clock = clock.AsFunction();
  ahead.store.clock = [&] { return clock.Now() + absl::Hours(1); };
  const auto store = OpenStore(options), other = OpenStore(ahead);
  JumpClocks(*store, *other, clock);
}

TEST(Clocks, JumpByAnHourUnderADiskStore) {
  TemporaryDirectory directory;
  FakeClock clock;
  DiskStoreOptions options;
  options.directory = directory.path() + "/store";
  options.store.clock = clock.AsFunction();
  auto opened = OpenDiskStore(options);
  ASSERT_TRUE(opened.ok());
  JumpClocks(*opened->store, *opened->store, clock);
}

TEST(Clocks, ALeaseAndPinsGoByTheServersClockWhateverItDoes) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const Keys keys(options.key_prefix);
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  const auto lease = store->AcquireLease("t", "s", "a", absl::Minutes(1));
  ASSERT_TRUE(lease.ok());
  // Redis' clock goes an hour ahead: to it everything it stamped is an hour older.
  const auto shift = [&](const std::string& key, const std::string& field) {
    std::string value = server.Do({"HGET", key, field}).text;
    const size_t digits = value.find_first_not_of("0123456789");
    const uint64_t stamp = std::stoull(value.substr(0, digits)) - 3'600'000'000;
    const std::string rest = digits == std::string::npos ? "" : value.substr(digits);
    server.Do({"HSET", key, field, std::to_string(stamp) + rest});
  };
  shift(keys.Session("t", "s"), "lease_until");
  CommitOptions leased;
  leased.lease_token = lease->token;
  EXPECT_EQ(
      store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), leased).status().code(),
      absl::StatusCode::kAborted);
  const auto next = store->AcquireLease("t", "s", "b", absl::Minutes(1));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_GT(std::stoull(next->token), std::stoull(lease->token));
  leased.lease_token = next->token;
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), leased).ok());
  ASSERT_TRUE(store->ReleaseLease("t", "s", *next).ok());
  // Pins and holds that look an hour old are in use all the same.
  for (const auto* pattern : {"*c:{*", "*h:{*"}) {
    for (const Reply& key : server.Do({"KEYS", pattern}).elements) {
      for (const Reply& field : server.Do({"HKEYS", key.text}).elements) {
        if (field.text != "d" && field.text != "h") shift(key.text, field.text);
      }
    }
  }
  const auto report = store->CollectGarbage();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->pins_dropped + report->holds_dropped, 0);
  ExpectSoundHead(*store, "s");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

TEST(Tenants, AnothersValuesAreNoAnswers) {
  RedisServer server;
  const RedisStoreOptions options = OptionsFor(server.url());
  const Keys keys(options.key_prefix);
  const auto store = OpenStore(options);
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {}).ok());
  const Session own = store->CreateSession("u", {.id = "own"}).value();
  ASSERT_TRUE(store->PutAndCommit("u", "own", own.version, MakeTestSnapshot(2), {}).ok());
  // The whole session under another tenant's name, and under another id of the same tenant.
  for (const auto& [tenant, id] : {std::pair{"u", "s"}, {"t", "x"}}) {
    server.Do({"COPY", keys.Session("t", "s"), keys.Session(tenant, id)});
    EXPECT_TRUE(absl::IsDataLoss(store->GetSession(tenant, id).status()));
    EXPECT_TRUE(absl::IsDataLoss(store->ReadSnapshot(tenant, id, "").status()));
    EXPECT_TRUE(absl::IsDataLoss(store->Fork(tenant, {id}, {.id = "f"}).status()));
    EXPECT_TRUE(absl::IsDataLoss(
        store->PutAndCommit(tenant, id, made.version + 1, MakeTestSnapshot(3), {}).status()));
    server.Do({"DEL", keys.Session(tenant, id)});
  }
  // One chunk's bytes in the place of another's.
  const ChunkRef theirs = store->GetSnapshot("t", "s", "")->manifest.parts[0].chunks[0];
  const ChunkRef ours = store->GetSnapshot("u", "own", "")->manifest.parts[0].chunks[0];
  const std::string key = keys.Chunk("u", ours.digest);
  const std::string bytes = server.Do({"HGET", key, "d"}).text;
  server.Do({"HSET", key, "d", server.Do({"HGET", keys.Chunk("t", theirs.digest), "d"}).text});
  EXPECT_TRUE(absl::IsDataLoss(store->ReadSnapshot("u", "own", "").status()));
  server.Do({"HSET", key, "d", bytes});
  server.Do({"HDEL", key, "bad"});
  ExpectSoundHead(*store, "own", "u");
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus());
}

// Whoever can write there can make checksums right; what does not belong together is found anyway.
TEST(Tenants, AManifestOfAnotherTenantOrNameIsDataLossThoughItsChecksumIsRight) {
  RedisServer server;
  const auto store = OpenStore(server.url());
  const Session made = store->CreateSession("t", {.id = "s"}).value();
  ASSERT_TRUE(store->PutAndCommit("t", "s", made.version, MakeTestSnapshot(1), {}).ok());
  const std::string key = Keys("reprise:1:").Session("t", "s"), id(32, 'a');
  const auto whole = server.Do({"HGET", key, "r"}).text;
  SessionRecord record = DecodeRecord(*Unseal(key, "r", whole, StoreError::kCorruptIndex)).value();
  // A row that is neither the head nor retained.
  record.snapshots.push_back({record.next_order++, id, false, record.snapshots[0].use});
  server.Do({"HSET", key, "r", Seal(key, "r", *EncodeRecord(record))});
  const auto plant = [&](const std::string& tenant, const std::string& snapshot_id) {
    SnapshotManifest manifest = store->GetSnapshot("t", "s", "")->manifest;
    manifest.tenant = tenant;
    manifest.snapshot_id = snapshot_id;
    const std::string field = ManifestField(id);
    server.Do({"HSET", key, field, Seal(key, field, *EncodeManifest(manifest))});
  };
  plant("t", id);
  EXPECT_EQ(store->ListSnapshots("t", "s", {})->snapshots.size(), 2u);
  for (const auto& [tenant, snapshot_id] : {std::pair{"u", id}, {"t", std::string(32, 'b')}}) {
    plant(tenant, snapshot_id);
    EXPECT_TRUE(absl::IsDataLoss(store->ListSnapshots("t", "s", {}).status())) << tenant;
    EXPECT_TRUE(absl::IsDataLoss(store->GetSnapshot("t", "s", id).status())) << tenant;
  }
}

}  // namespace
}  // namespace reprise::state_store::redis
