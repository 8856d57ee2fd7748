// Two tiered stores, as two processes have them, on one Redis.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "state_store/redis/redis_store.h"
#include "state_store/testing/builders.h"
#include "state_store/testing/faulty_store.h"
#include "state_store/tiers/tiered_store.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store {
namespace {

using redis::RedisStore;
using redis::RedisStoreOptions;
using testing::RedisServer;
using testing::WaitUntil;

constexpr absl::Duration kPatience = absl::Minutes(1);
const CommitOptions kSyncCommit{.durability = Durability::kSync};

// The leases of a store, which can be cut off as if the process stood still.
class PausableLeases final : public LeaseTable {
 public:
  explicit PausableLeases(LeaseTable* table) : table_(table) {}
  std::atomic<int> renewals = 0;
  // Renewals wait; nothing else does.
  void Pause(bool on) {
    absl::MutexLock lock(&mu_);
    paused_ = on;
  }
  absl::StatusOr<Lease> AcquireLease(std::string_view tenant, std::string_view session_id,
                                     std::string_view owner, absl::Duration length) override {
    return table_->AcquireLease(tenant, session_id, owner, length);
  }
  absl::StatusOr<Lease> RenewLease(std::string_view tenant, std::string_view session_id,
                                   const Lease& lease, absl::Duration length) override {
    {
      absl::MutexLock lock(&mu_);
      auto runs = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !paused_; };
      mu_.Await(absl::Condition(&runs));
    }
    ++renewals;
    return table_->RenewLease(tenant, session_id, lease, length);
  }
  std::atomic<int> release_delay_ms = 0;
  absl::Status ReleaseLease(std::string_view tenant, std::string_view session_id,
                            const Lease& lease) override {
    absl::SleepFor(absl::Milliseconds(release_delay_ms.load()));
    return table_->ReleaseLease(tenant, session_id, lease);
  }

 private:
  LeaseTable* const table_;
  absl::Mutex mu_;
  bool paused_ = false;
};

struct Replica {
  explicit Replica(const std::string& url, absl::Duration lease = absl::Seconds(15),
                   absl::Duration call = absl::Seconds(20), std::vector<LossyRule> lossy = {}) {
    cache = std::make_shared<HostCache>(1 << 20);
    RedisStoreOptions redis;
    redis.client.url = url;
    redis.client.call_timeout = call;
    redis.operation_timeout = call;
    redis.store.chunk_bytes = 512;
    redis.known_chunks = cache;
    redis.store.lossy = lossy;
    auto opened = RedisStore::Create(redis);
    EXPECT_TRUE(opened.ok()) << opened.status();
    leases = std::make_unique<PausableLeases>(opened->get());
    auto faulty = std::make_unique<FaultyStore>(*std::move(opened));
    backend = faulty.get();
    backend->SetBefore([this](std::string_view method) {
      absl::MutexLock lock(&mu);
      if (method == "ReadSnapshot") ++reads;
      auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return !hang; };
      if (method == "PutAndCommit") mu.Await(absl::Condition(&free));
      if (method == "GetSession" && deaf) return absl::UnavailableError("no answer");
      return absl::OkStatus();
    });
    TieredStoreOptions options;
    options.lease = lease;
    options.lease_patience = absl::Milliseconds(20);
    options.probe_interval = absl::Milliseconds(10);
    options.write_behind.max_retry = absl::Milliseconds(50);
    options.flush_patience = absl::Seconds(20);
    options.lossy = std::move(lossy);
    store = TieredStore::Create(options, {std::move(faulty), leases.get(), cache}).value();
  }
  ~Replica() { Hang(false); }
  void Hang(bool on) {
    absl::MutexLock lock(&mu);
    hang = on;
  }

  std::shared_ptr<HostCache> cache;
  std::unique_ptr<PausableLeases> leases;
  FaultyStore* backend = nullptr;
  absl::Mutex mu;
  bool hang = false;
  std::atomic<bool> deaf = false;  // sessions cannot be read, all else can be done
  std::atomic<int> reads = 0;
  std::unique_ptr<TieredStore> store;
};

absl::StatusOr<Session> Commit(Replica& replica, uint64_t seed, uint64_t version,
                               CommitOptions options = {}, const SessionHold* hold = nullptr) {
  options.hold = hold;
  return replica.store->PutAndCommit("t", "s", version, MakeTestSnapshot(seed), options);
}

// The same once the other's hold is gone: an answered call may keep it a moment longer.
absl::StatusOr<Session> CommitWhenFree(Replica& replica, uint64_t seed, uint64_t version) {
  const absl::Time give_up = absl::Now() + absl::Seconds(10);
  while (true) {
    absl::StatusOr<Session> session = Commit(replica, seed, version, kSyncCommit);
    if (GetStoreError(session.status()) != StoreError::kSessionLeased || absl::Now() > give_up) {
      return session;
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
}

void ExpectHead(Replica& replica, uint64_t seed) {
  const auto read = replica.store->ReadSnapshot("t", "s", "");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(SameState(MakeTestSnapshot(seed), *read)) << "the head is not state " << seed;
}

TEST(TwoReplicas, ACachedHeadIsCheckedAgainstWhatTheOtherCommitted) {
  RedisServer server;
  Replica a(server.url()), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  ASSERT_TRUE(Commit(a, 1, 1).ok());
  ASSERT_EQ(a.store->Flush(kPatience), absl::OkStatus());
  ExpectHead(a, 1);
  EXPECT_EQ(a.reads, 0) << "cached when it was committed";
  ASSERT_TRUE(Commit(b, 2, 2, kSyncCommit).ok());
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 3u);
  ExpectHead(a, 2);
  EXPECT_EQ(a.reads, 1);
  EXPECT_EQ(GetStoreError(Commit(a, 3, 2).status()), StoreError::kVersionMismatch);
  // Rewound and deleted by the other: nothing of it is left here.
  const std::string kept = b.store->CreateSnapshot("t", "s")->manifest.snapshot_id;
  ASSERT_TRUE(CommitWhenFree(b, 4, 3).ok());
  ExpectHead(a, 4);
  ASSERT_TRUE(b.store->Rewind("t", "s", kept, 4, "").ok());
  ExpectHead(a, 2);
  EXPECT_EQ(a.reads, 2) << "that one was cached already";
  ASSERT_EQ(b.store->DeleteSession("t", "s"), absl::OkStatus());
  EXPECT_EQ(GetStoreError(a.store->ReadSnapshot("t", "s", kept).status()),
            StoreError::kSessionNotFound);
  EXPECT_EQ(GetStoreError(a.store->GetSession("t", "s").status()), StoreError::kSessionNotFound);
}

TEST(TwoReplicas, ChunksOfAnOlderSnapshotNeedNotBeReadAgain) {
  RedisServer server;
  Replica a(server.url()), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  Snapshot first = MakeTestSnapshot(1, 4096);
  ASSERT_TRUE(b.store->PutAndCommit("t", "s", 1, first, kSyncCommit).ok());
  ASSERT_TRUE(a.store->ReadSnapshot("t", "s", "").ok());
  Snapshot second = first;
  second.payloads[1][100] ^= 1;  // one of its eight chunks
  ASSERT_TRUE(b.store->PutAndCommit("t", "s", 2, second, kSyncCommit).ok());
  const auto read = a.store->ReadSnapshot("t", "s", "");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->payloads, second.payloads);
  EXPECT_EQ(a.cache->stats().chunk_hits, 8u);  // the small part's, and seven
}

// A state of f32 that no lossy encoding keeps.
Snapshot FineNumbers(uint64_t seed) {
  Snapshot snapshot = MakeTestSnapshot(seed);
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::uniform_real_distribution<float> numbers(-3, 3);
  for (size_t i = 0; i < snapshot.payloads[0].size(); i += 4) {
    const float x = numbers(random);
    std::memcpy(snapshot.payloads[0].data() + i, &x, 4);
  }
  return snapshot;
}

TEST(TwoReplicas, ALossyStateIsTheSameFromEverywhere) {
  for (const LossyEncoding encoding : {LossyEncoding::kBf16, LossyEncoding::kInt8Rows}) {
    RedisServer server;
    Replica a(server.url(), absl::Seconds(15), absl::Seconds(3), {{"rg_lru", encoding}});
    Replica exact(server.url());
    ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
    const auto read = [](Replica& from) {
      auto snapshot = from.store->ReadSnapshot("t", "s", "");
      EXPECT_TRUE(snapshot.ok()) << snapshot.status();
      return snapshot.ok() ? *std::move(snapshot) : Snapshot();
    };
    for (uint64_t turn = 1; turn <= 6; ++turn) {
      SCOPED_TRACE(turn);
      const Snapshot put = FineNumbers(turn);
      const bool behind = turn % 2 == 0;
      a.Hang(behind);
      ASSERT_TRUE(
          a.store->PutAndCommit("t", "s", turn, put, behind ? CommitOptions() : kSyncCommit).ok());
      const Snapshot waiting = read(a);
      a.Hang(false);
      ASSERT_EQ(a.store->Flush(kPatience), absl::OkStatus());
      const Snapshot cached = read(a);
      EXPECT_EQ(a.reads, 0) << "from the cache";
      // One who never saw it reads what Redis has; his own flags say nothing about that.
      const Snapshot stored = read(exact);
      EXPECT_EQ(exact.reads, static_cast<int>(turn));
      EXPECT_TRUE(SameState(stored, waiting));
      EXPECT_TRUE(SameState(stored, cached));
      EXPECT_TRUE(SameState(stored, read(exact)));
      EXPECT_EQ(exact.reads, static_cast<int>(turn)) << "once";
      EXPECT_NE(stored.payloads[0], put.payloads[0]) << "nothing was lost, so nothing is shown";
      EXPECT_EQ(stored.payloads[1], put.payloads[1]);
      EXPECT_EQ(stored.manifest.parts[0].dtype, "f32");
      EXPECT_NE(exact.store->GetSnapshot("t", "s", "")->manifest.parts[0].dtype, "f32");
    }
    server.Kill();
    const Snapshot without = read(a);
    server.Start();
    EXPECT_EQ(without.manifest.position, 7u);
    const auto rounded =
        AsReadBack({{"rg_lru", encoding}}, std::make_shared<const Snapshot>(FineNumbers(6)));
    EXPECT_TRUE(SameState(**rounded, without)) << "while Redis is gone";
  }
}

TEST(TwoReplicas, WhatALossyStoreCannotKeepIsNotAcknowledged) {
  RedisServer server;
  Replica a(server.url(), absl::Seconds(15), absl::Seconds(20),
            {{"rg_lru", LossyEncoding::kInt8Rows}});
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  Snapshot infinite = FineNumbers(1);
  const float x = std::numeric_limits<float>::infinity();
  std::memcpy(infinite.payloads[0].data(), &x, 4);
  const auto refused = a.store->PutAndCommit("t", "s", 1, infinite, {});
  EXPECT_EQ(GetStoreError(refused.status()), StoreError::kInvalidArgument) << refused.status();
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 1u);
}

TEST(TwoReplicas, AHeldSessionIsTheOthersToWaitFor) {
  RedisServer server;
  Replica a(server.url()), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  auto hold = a.store->Hold("t", "s");
  ASSERT_TRUE(hold.ok()) << hold.status();
  EXPECT_FALSE((*hold)->degraded());
  const absl::Status refused = b.store->Hold("t", "s").status();
  EXPECT_EQ(GetStoreError(refused), StoreError::kSessionLeased) << refused;
  EXPECT_GT(RetryAfter(refused), absl::Seconds(5));
  EXPECT_LE(RetryAfter(refused), absl::Seconds(15));
  EXPECT_EQ(GetStoreError(Commit(b, 1, 1).status()), StoreError::kSessionLeased);
  EXPECT_EQ(GetStoreError(Commit(b, 1, 1, kSyncCommit).status()), StoreError::kSessionLeased);
  // Reading is everybody's.
  EXPECT_EQ(b.store->GetSession("t", "s")->version, 1u);
  ASSERT_TRUE(Commit(a, 1, 1, kSyncCommit, hold->get()).ok());
  (*hold)->Finish();
  EXPECT_TRUE(b.store->Hold("t", "s").ok());
  EXPECT_EQ(a.store->stats().leases.held, 0u);
  ASSERT_TRUE(Commit(b, 2, 2).ok());
}

// A hold that is dropped gives its lease back beside its caller, who may be here again before.
TEST(TwoReplicas, ALeaseOnItsWayBackIsNotInItsOwnersWay) {
  RedisServer redis;
  Replica a(redis.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  const auto kept = Commit(a, 1, 1, {.durability = Durability::kSync, .keep = true});
  ASSERT_TRUE(kept.ok()) << kept.status();
  a.leases->release_delay_ms = 30;
  uint64_t version = kept->version;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(a.store->Hold("t", "s").ok());
    const auto back = a.store->Rewind("t", "s", kept->head_snapshot_id, version, "");
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_TRUE(a.store->Hold("t", "s").ok());
    const auto committed = Commit(a, 2 + i, back->version, kSyncCommit);
    ASSERT_TRUE(committed.ok()) << committed.status();
    version = committed->version;
  }
}

TEST(TwoReplicas, WhatWasSeenBeforeALeaseIsNotThePresentUnderIt) {
  RedisServer server;
  Replica a(server.url()), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  ASSERT_TRUE(Commit(b, 1, 1, kSyncCommit).ok());
  const auto hold = a.store->Hold("t", "s");
  ASSERT_TRUE(hold.ok()) << hold.status();
  EXPECT_FALSE((*hold)->degraded());
  a.deaf = true;
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 1u);
  EXPECT_TRUE((*hold)->degraded());
  a.deaf = false;
  ASSERT_TRUE(WaitUntil([&] { return a.store->GetSession("t", "s")->version == 2; }));
  EXPECT_FALSE((*hold)->degraded());
  ExpectHead(a, 1);
  // What was seen under it is.
  a.deaf = true;
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 2u);
  EXPECT_FALSE((*hold)->degraded());
}

TEST(TwoReplicas, AnotherHoldDoesNotInheritThatItsReaderWasAlone) {
  RedisServer server;
  Replica a(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  a.deaf = true;
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 1u);
  a.deaf = false;
  ASSERT_TRUE(WaitUntil([&] { return !a.store->stats().backend_lost; }));
  const auto hold = a.store->Hold("t", "s");
  ASSERT_TRUE(hold.ok()) << hold.status();
  EXPECT_FALSE((*hold)->degraded());
}

TEST(TwoReplicas, ALeaseIsRenewedForAsLongAsItIsHeld) {
  RedisServer server;
  Replica a(server.url(), absl::Seconds(2)), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  const auto hold = a.store->Hold("t", "s");
  ASSERT_TRUE(hold.ok()) << hold.status();
  EXPECT_TRUE(WaitUntil([&] { return a.leases->renewals >= 4; }));  // three fill its length
  EXPECT_EQ(GetStoreError(b.store->Hold("t", "s").status()), StoreError::kSessionLeased);
  EXPECT_TRUE(Commit(a, 1, 1, {}, hold->get()).ok());
  EXPECT_EQ(a.store->stats().leases.lost, 0u);
}

TEST(TwoReplicas, ACommitThatWaitsKeepsTheSessionUntilItIsWritten) {
  RedisServer server;
  Replica a(server.url()), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  a.Hang(true);
  {
    const auto hold = a.store->Hold("t", "s");
    ASSERT_TRUE(hold.ok());
    ASSERT_TRUE(Commit(a, 1, 1, {.request_id = "r"}, hold->get()).ok());
    (*hold)->Finish();
  }
  // The turn is over, its commit is not: the other may not come between.
  EXPECT_EQ(GetStoreError(b.store->Hold("t", "s").status()), StoreError::kSessionLeased);
  a.Hang(false);
  ASSERT_EQ(a.store->Flush(kPatience), absl::OkStatus());
  const auto hold = b.store->Hold("t", "s");
  ASSERT_TRUE(hold.ok()) << hold.status();
  ExpectHead(b, 1);
  // What became of it can be asked for here too, and a repeat is not a second commit.
  EXPECT_EQ((*b.store->FindCommit("t", "s", "r"))->session.version, 2u);
  EXPECT_EQ(Commit(b, 1, 1, {.request_id = "r"}, hold->get())->version, 2u);
  EXPECT_EQ(b.store->GetSession("t", "s")->version, 2u);
}

// Whether somebody else moved the session meanwhile, only holds it, or has not even looked.
enum class Meanwhile { kMoved, kHeld, kNothing };

void StandStillAndCommit(const std::string& url, Meanwhile meanwhile, Durability durability) {
  Replica a(url, absl::Milliseconds(100)), b(url);
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  auto hold = a.store->Hold("t", "s");
  ASSERT_TRUE(hold.ok()) << hold.status();
  a.leases->Pause(true);
  absl::StatusOr<std::unique_ptr<SessionHold>> other = nullptr;
  if (meanwhile == Meanwhile::kNothing) {
    absl::SleepFor(absl::Milliseconds(200));
  } else {
    EXPECT_TRUE(WaitUntil([&] { return (other = b.store->Hold("t", "s")).ok(); }));
  }
  if (meanwhile == Meanwhile::kMoved) {
    ASSERT_TRUE(Commit(b, 2, 1, kSyncCommit, other->get()).ok());
  }
  a.leases->Pause(false);
  const auto expect_refused = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    // Of a session that has moved on, that may be what is seen first.
    const bool moved_on = GetStoreError(status) == StoreError::kVersionMismatch;
    EXPECT_TRUE(GetStoreError(status) == StoreError::kLeaseLost ||
                (moved_on && meanwhile == Meanwhile::kMoved))
        << status;
  };
  expect_refused(Commit(a, 1, 1, {.durability = durability}, hold->get()).status());
  // Also once its keeper has noticed.
  EXPECT_TRUE(WaitUntil([&] { return a.store->stats().leases.lost == 1; }));
  expect_refused(Commit(a, 1, 1, {.durability = durability}, hold->get()).status());
  hold->reset();
  if (meanwhile != Meanwhile::kNothing) (*other)->Finish();
  const uint64_t version = meanwhile == Meanwhile::kMoved ? 2 : 1;
  EXPECT_EQ(a.store->GetSession("t", "s")->version, version);
  // A new hold is a new right.
  EXPECT_TRUE(WaitUntil([&] { return a.store->Hold("t", "s").ok(); }));
  EXPECT_TRUE(Commit(a, 3, version).ok());
  ASSERT_EQ(a.store->DeleteSession("t", "s"), absl::OkStatus());
}

TEST(TwoReplicas, OneThatStoodStillCannotCommit) {
  RedisServer server;
  for (const Meanwhile meanwhile : {Meanwhile::kMoved, Meanwhile::kHeld, Meanwhile::kNothing}) {
    for (const Durability durability : {Durability::kAsync, Durability::kSync}) {
      SCOPED_TRACE(static_cast<int>(meanwhile));
      StandStillAndCommit(server.url(), meanwhile, durability);
    }
  }
}

TEST(TwoReplicas, AnAcknowledgedCommitOfOneThatStoodStillIsReportedLost) {
  RedisServer server;
  Replica a(server.url(), absl::Seconds(1)), b(server.url());
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  auto hold = a.store->Hold("t", "s");
  a.Hang(true);
  ASSERT_TRUE(Commit(a, 1, 1, {}, hold->get()).ok());
  a.leases->Pause(true);
  // Kept, for a hold that is dropped is given back some time later.
  std::unique_ptr<SessionHold> theirs;
  ASSERT_TRUE(WaitUntil([&] {
    auto taken = b.store->Hold("t", "s");
    if (taken.ok()) theirs = *std::move(taken);
    return theirs != nullptr;
  }));
  ASSERT_TRUE(Commit(b, 2, 1, kSyncCommit, theirs.get()).ok());
  theirs->Finish();
  a.leases->Pause(false);
  a.Hang(false);
  ASSERT_EQ(a.store->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(GetStoreError(a.store->GetSession("t", "s").status()), StoreError::kCommitsLost);
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 2u);
  ExpectHead(a, 2);
}

TEST(LostRedis, CachedSessionsGoOnAndAllIsWrittenWhenItIsBack) {
  // The log outlives the process, if not the machine.
  RedisServer server({.arguments = {"--appendonly", "yes", "--appendfsync", "no"}});
  Replica a(server.url(), absl::Seconds(1), absl::Seconds(1));
  ASSERT_TRUE(a.store->CreateSession("t", {.id = "s"}).ok());
  ASSERT_TRUE(Commit(a, 1, 1, kSyncCommit).ok());
  auto running = a.store->Hold("t", "s");
  ASSERT_TRUE(running.ok()) << running.status();
  server.Kill();
  // A turn that had begun, and one that begins now.
  ASSERT_TRUE(Commit(a, 2, 2, {}, running->get()).ok());
  (*running)->Finish();
  const auto degraded = a.store->Hold("t", "s");
  ASSERT_TRUE(degraded.ok()) << degraded.status();
  EXPECT_TRUE((*degraded)->degraded());
  EXPECT_EQ(a.store->GetSession("t", "s")->version, 3u);
  ExpectHead(a, 2);
  ASSERT_TRUE(Commit(a, 3, 3, {}, degraded->get()).ok());
  const auto sync = Commit(a, 4, 4, kSyncCommit, degraded->get());
  EXPECT_EQ(sync.status().code(), absl::StatusCode::kUnavailable) << sync.status();
  EXPECT_EQ(GetStoreError(sync.status()), StoreError::kIoError);
  (*degraded)->Finish();
  absl::SleepFor(absl::Milliseconds(1200));  // the lease runs out meanwhile
  const TierStats lost = a.store->stats();
  EXPECT_EQ(lost.queue.commits, 2u);
  EXPECT_GT(lost.queue.retries, 0u);
  server.Start();
  ASSERT_EQ(a.store->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(a.store->stats().queue.lost, 0u);
  EXPECT_TRUE(WaitUntil([&] { return !a.store->stats().backend_lost; }));
  Replica b(server.url());
  EXPECT_TRUE(WaitUntil([&] { return b.store->Hold("t", "s").ok(); }));
  EXPECT_EQ(b.store->GetSession("t", "s")->version, 4u);
  ExpectHead(b, 3);
}

}  // namespace
}  // namespace reprise::state_store
