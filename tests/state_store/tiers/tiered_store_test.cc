#include "state_store/tiers/tiered_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "state_store/memory_store.h"
#include "state_store/testing/builders.h"
#include "state_store/testing/faulty_store.h"

namespace reprise::state_store {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(1);

template <typename Condition>
bool Eventually(Condition condition) {
  for (const absl::Time give_up = absl::Now() + kPatience; absl::Now() < give_up;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

// A tiered store whose backend counts its calls, hangs and fails as told.
class Tiers : public ::testing::Test {
 protected:
  void Open(TieredStoreOptions options = {}, uint64_t cache_bytes = 1 << 20) {
    options.clock = clock_.AsFunction();
    options.write_behind.min_retry = absl::Milliseconds(1);
    options.write_behind.max_retry = absl::Milliseconds(5);
    options.probe_interval = absl::Milliseconds(2);
    options.on_backend = [this](const absl::Status& status) {
      absl::MutexLock lock(&mu_);
      news_.push_back(status.code());
    };
    StoreOptions memory;
    memory.clock = clock_.AsFunction();
    memory.chunk_bytes = 512;
    memory.max_stored_bytes = max_stored_bytes_;
    auto faulty = std::make_unique<FaultyStore>(CreateMemoryStore(memory).value());
    backend_ = faulty.get();
    backend_->SetBefore([this](std::string_view method) {
      absl::MutexLock lock(&mu_);
      ++calls_[std::string(method)];
      auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !hang_; };
      if (method == "PutAndCommit") mu_.Await(absl::Condition(&free));
      return down_ ? absl::UnavailableError("backend is down") : absl::OkStatus();
    });
    store_ = TieredStore::Create(
                 options, {std::move(faulty), nullptr, std::make_shared<HostCache>(cache_bytes)})
                 .value();
    session_ = store_->CreateSession("t", {.id = "s"}).value();
  }
  ~Tiers() override {
    Hang(false);
    Down(false);
  }
  void Hang(bool on) {
    absl::MutexLock lock(&mu_);
    hang_ = on;
  }
  void Down(bool on) {
    absl::MutexLock lock(&mu_);
    down_ = on;
  }
  int calls(const std::string& method) {
    absl::MutexLock lock(&mu_);
    return calls_[method];
  }
  std::vector<absl::StatusCode> news() {
    absl::MutexLock lock(&mu_);
    return news_;
  }
  absl::StatusOr<Session> Commit(uint64_t seed, uint64_t version,
                                 const CommitOptions& options = {}) {
    return store_->PutAndCommit("t", "s", version, MakeTestSnapshot(seed), options);
  }
  void ExpectHead(uint64_t seed) {
    const auto read = store_->ReadSnapshot("t", "s", "");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(SameState(MakeTestSnapshot(seed), *read));
  }

  FakeClock clock_;
  absl::Mutex mu_;
  bool hang_ = false, down_ = false;
  std::map<std::string, int> calls_;
  std::vector<absl::StatusCode> news_;
  uint64_t max_stored_bytes_ = 0;
  FaultyStore* backend_ = nullptr;
  std::unique_ptr<TieredStore> store_;
  Session session_;
};

const CommitOptions kSyncCommit{.durability = Durability::kSync};

TEST_F(Tiers, AnAsyncCommitIsAcknowledgedBeforeItIsWrittenAndReadAtOnce) {
  Open();
  Hang(true);
  const auto shared = std::make_shared<const Snapshot>(MakeTestSnapshot(1));
  const auto first = store_->CommitShared("t", "s", 1, shared, {.request_id = "r1", .note = "n"});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->version, 2u);
  EXPECT_EQ(*store_->GetSession("t", "s"), *first);
  const auto read = store_->ReadShared("t", "s", "");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->payloads.get(), &shared->payloads) << "a copy";
  const auto second = Commit(2, 2);
  ASSERT_TRUE(second.ok()) << second.status();
  ExpectHead(2);
  EXPECT_EQ(store_->GetSnapshot("t", "s", "")->manifest.parent_snapshot_id,
            first->head_snapshot_id);
  EXPECT_EQ(store_->ListSessions("t", {})->sessions.at(0), *second);
  EXPECT_EQ((*store_->FindCommit("t", "s", "r1"))->session, *first);
  EXPECT_EQ((*store_->FindCommit("t", "s", "r1"))->note, "n");
  EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 1u) << "written already";
  // Refusals come at once, as if it were written.
  EXPECT_EQ(GetStoreError(Commit(3, 2).status()), StoreError::kVersionMismatch);
  EXPECT_EQ(*Commit(9, 1, {.request_id = "r1"}), *first) << "a repeat";
  EXPECT_EQ(GetStoreError(Commit(9, 3, {.request_id = "r1"}).status()),
            StoreError::kRequestIdReused);
  Snapshot other = MakeTestSnapshot(3);
  other.manifest.model_id = "other";
  EXPECT_EQ(GetStoreError(store_->PutAndCommit("t", "s", 3, other, {}).status()),
            StoreError::kModelMismatch);
  Hang(false);
  ASSERT_EQ(store_->Flush(kPatience), absl::OkStatus());
  // What was promised is what is there.
  EXPECT_EQ(*backend_->store().GetSession("t", "s"), *second);
  EXPECT_EQ((*backend_->store().FindCommit("t", "s", "r1"))->session, *first);
  EXPECT_EQ(store_->stats().queue.written, 2u);
}

TEST_F(Tiers, ASyncCommitComesBackWhenItAndAllBeforeItAreWritten) {
  Open();
  Hang(true);
  ASSERT_TRUE(Commit(1, 1).ok());
  std::atomic<bool> done = false;
  std::thread sync([&] {
    const auto session = Commit(2, 2, kSyncCommit);
    done = true;
    EXPECT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 3u);
  });
  EXPECT_TRUE(Eventually([&] { return calls("PutAndCommit") == 1; }));
  EXPECT_FALSE(done);
  Hang(false);
  sync.join();
  EXPECT_EQ(store_->stats().written_through, 1u);
}

TEST_F(Tiers, AFullQueueMakesTheCallerWaitAndDropsNothing) {
  Open({.write_behind = {.max_bytes = 1 << 20, .max_commits = 1}});
  ASSERT_TRUE(store_->CreateSession("t", {.id = "other"}).ok());
  Hang(true);
  ASSERT_TRUE(Commit(1, 1).ok());
  std::atomic<int> done = 0;
  std::thread same([&] {
    EXPECT_TRUE(Commit(2, 2).ok());
    ++done;
  });
  std::thread other([&] {
    EXPECT_TRUE(store_->PutAndCommit("t", "other", 1, MakeTestSnapshot(7), {}).ok());
    ++done;
  });
  EXPECT_TRUE(Eventually([&] { return store_->stats().queue.refused == 2; }));
  EXPECT_EQ(done, 0);
  Hang(false);
  same.join();
  other.join();
  EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 3u);
  EXPECT_EQ(backend_->store().GetSession("t", "other")->version, 2u);
  ExpectHead(2);
}

TEST_F(Tiers, LostCommitsAreTheSessionsNextAnswerOnce) {
  Open();
  Hang(true);
  ASSERT_TRUE(Commit(1, 1).ok());
  ASSERT_TRUE(Commit(2, 2).ok());
  // Somebody else moves it first.
  ASSERT_TRUE(backend_->store().PutAndCommit("t", "s", 1, MakeTestSnapshot(7), {}).ok());
  Hang(false);
  ASSERT_EQ(store_->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(store_->stats().queue.lost, 2u);
  EXPECT_EQ(store_->stats().lost_sessions, 1u);
  const absl::Status heard = store_->GetSession("t", "s").status();
  EXPECT_EQ(GetStoreError(heard), StoreError::kCommitsLost) << heard;
  EXPECT_NE(std::string(heard.message()).find("version 2"), std::string::npos) << heard;
  EXPECT_EQ(store_->GetSession("t", "s")->version, 2u);
  ExpectHead(7);
  EXPECT_TRUE(Commit(8, 2).ok());
  ExpectHead(8);
}

TEST_F(Tiers, LostCommitsAreHeardByWhateverCallComesNext) {
  Open();
  const auto lose = [&](uint64_t version) {
    Hang(true);
    ASSERT_TRUE(Commit(version, version).ok());
    ASSERT_TRUE(
        backend_->store().PutAndCommit("t", "s", version, MakeTestSnapshot(50 + version), {}).ok());
    Hang(false);
    ASSERT_EQ(store_->Flush(kPatience), absl::OkStatus());
  };
  lose(1);
  EXPECT_EQ(GetStoreError(store_->Hold("t", "s").status()), StoreError::kCommitsLost);
  EXPECT_TRUE(store_->Hold("t", "s").ok());
  lose(2);
  EXPECT_EQ(GetStoreError(Commit(9, 4).status()), StoreError::kCommitsLost);
  lose(3);
  EXPECT_EQ(GetStoreError(store_->ReadShared("t", "s", "").status()), StoreError::kCommitsLost);
  lose(4);
  EXPECT_EQ(GetStoreError(store_->Rewind("t", "s", "", 5, "").status()), StoreError::kCommitsLost);
  lose(5);
  EXPECT_EQ(GetStoreError(store_->FindCommit("t", "s", "r").status()), StoreError::kCommitsLost);
  lose(6);
  // Nobody misses what is deleted.
  EXPECT_EQ(store_->DeleteSession("t", "s"), absl::OkStatus());
  EXPECT_EQ(GetStoreError(store_->GetSession("t", "s").status()), StoreError::kSessionNotFound);
}

TEST_F(Tiers, AWriteWhoseAnswerWasLostHappensOnce) {
  Open();
  std::atomic<int> left = 3;
  backend_->SetAfter([&](std::string_view method) {
    if (method != "PutAndCommit" || left-- <= 0) return absl::OkStatus();
    return absl::UnavailableError("answer lost");
  });
  ASSERT_TRUE(Commit(1, 1).ok());
  ASSERT_TRUE(Commit(2, 2).ok());
  ASSERT_EQ(store_->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 3u);
  EXPECT_EQ(store_->stats().queue.retries, 3u);
  EXPECT_EQ(store_->stats().queue.lost, 0u);
}

TEST_F(Tiers, ReadsTakeBytesFromTheCacheAndTheTruthFromTheBackend) {
  Open();
  ASSERT_TRUE(Commit(1, 1, kSyncCommit).ok());
  ExpectHead(1);
  ExpectHead(1);
  EXPECT_EQ(calls("ReadSnapshot"), 0) << "it was cached when it was committed";
  EXPECT_EQ(calls("GetSnapshot"), 2);
  // Another process, as far as this one can tell.
  ASSERT_TRUE(backend_->store().PutAndCommit("t", "s", 2, MakeTestSnapshot(2), {}).ok());
  ExpectHead(2);
  EXPECT_EQ(calls("ReadSnapshot"), 1);
  ExpectHead(2);
  EXPECT_EQ(calls("ReadSnapshot"), 1);
  EXPECT_EQ(store_->GetSession("t", "s")->version, 3u);
  ASSERT_EQ(backend_->store().DeleteSession("t", "s"), absl::OkStatus());
  EXPECT_EQ(GetStoreError(store_->ReadSnapshot("t", "s", "").status()),
            StoreError::kSessionNotFound);
}

TEST_F(Tiers, AForkReadsTheSameBuffer) {
  Open();
  ASSERT_TRUE(Commit(1, 1).ok());
  ASSERT_TRUE(store_->Fork("t", {"s"}, {.id = "f"}).ok());
  const auto parent = store_->ReadShared("t", "s", "");
  const auto fork = store_->ReadShared("t", "f", "");
  ASSERT_TRUE(parent.ok() && fork.ok());
  EXPECT_EQ(parent->payloads.get(), fork->payloads.get());
  EXPECT_EQ(calls("ReadSnapshot"), 0);
}

TEST_F(Tiers, WithoutTheBackendWhatIsCachedGoesOnForCommitsThatMayBeLost) {
  Open();
  ASSERT_TRUE(store_->CreateSession("t", {.id = "cold"}).ok());
  ASSERT_TRUE(backend_->store().PutAndCommit("t", "cold", 1, MakeTestSnapshot(4), {}).ok());
  ASSERT_TRUE(Commit(1, 1, kSyncCommit).ok());
  Down(true);
  // What is not here cannot go on.
  EXPECT_EQ(GetStoreError(store_->ReadSnapshot("t", "cold", "").status()), StoreError::kIoError);
  EXPECT_EQ(store_->GetSession("t", "s")->version, 2u);
  ExpectHead(1);
  const auto sync = Commit(2, 2, kSyncCommit);
  EXPECT_EQ(sync.status().code(), absl::StatusCode::kUnavailable) << sync.status();
  EXPECT_EQ(GetStoreError(sync.status()), StoreError::kIoError);
  EXPECT_TRUE(store_->stats().backend_lost);
  EXPECT_EQ(store_->stats().backend_losses, 1u);
  EXPECT_GE(store_->stats().degraded_reads, 2u);
  Down(false);
  EXPECT_TRUE(Eventually([&] { return !store_->stats().backend_lost; }));
  EXPECT_EQ(news(),
            (std::vector<absl::StatusCode>{absl::StatusCode::kUnavailable, absl::StatusCode::kOk}));
  ASSERT_TRUE(Commit(2, 2).ok());
  Down(true);
  // Acknowledged while it is down, written when it is back.
  ASSERT_TRUE(Commit(3, 3).ok());
  ASSERT_TRUE(Commit(4, 4).ok());
  EXPECT_EQ(GetStoreError(Commit(5, 5, kSyncCommit).status()), StoreError::kIoError);
  ExpectHead(4);
  EXPECT_EQ(GetStoreError(store_->Flush(absl::Milliseconds(20))), StoreError::kIoError);
  Down(false);
  ASSERT_EQ(store_->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 5u);
  ExpectHead(4);
}

TEST_F(Tiers, AFullBackendIsHeardBeforeAnythingElseIsPromised) {
  max_stored_bytes_ = 5000;
  Open({.flush_patience = absl::Milliseconds(200)});
  ASSERT_TRUE(Commit(1, 1, kSyncCommit).ok());
  ASSERT_TRUE(
      store_->PutAndCommit("t", "s", 2, MakeTestSnapshot(2, 4500), {}).ok());  // does not fit
  EXPECT_TRUE(Eventually([&] { return store_->stats().queue.retries > 0; }));
  EXPECT_EQ(GetStoreError(Commit(3, 3).status()), StoreError::kStoreFull);
  ASSERT_TRUE(store_->CreateSession("t", {.id = "u"}).ok());
  EXPECT_EQ(
      GetStoreError(store_->PutAndCommit("t", "u", 1, MakeTestSnapshot(9, 4500), {}).status()),
      StoreError::kStoreFull);
  EXPECT_EQ(store_->stats().queue.commits, 1u) << "it waits for room";
}

TEST_F(Tiers, WriteBehindCanBeTurnedOff) {
  Open({.write_behind = {.max_bytes = 0, .max_commits = 0}});
  ASSERT_TRUE(Commit(1, 1).ok());
  EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 2u);
  EXPECT_EQ(store_->stats().queue.accepted, 0u);
}

TEST_F(Tiers, OptionsAreChecked) {
  const auto create = [](TieredStoreOptions options) {
    return TieredStore::Create(
               options, {CreateMemoryStore({}).value(), nullptr, std::make_shared<HostCache>(1)})
        .status();
  };
  EXPECT_EQ(create({}), absl::OkStatus());
  EXPECT_TRUE(absl::IsInvalidArgument(create({.write_behind = {.max_commits = -1}})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({.write_behind = {.threads = 0}})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({.lease = absl::ZeroDuration()})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({.flush_patience = absl::ZeroDuration()})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({.clock = nullptr})));
}

// Commits of one session from several threads: every acknowledged one is there, in order, once.
TEST_F(Tiers, ManyWritersOfOneSessionMoveItOneAfterTheOther) {
  Open({.write_behind = {.max_bytes = 1 << 20, .max_commits = 3, .threads = 2}});
  std::atomic<int> acknowledged = 0;
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 50; ++i) {
        const auto session = store_->GetSession("t", "s");
        ASSERT_TRUE(session.ok()) << session.status();
        const auto moved =
            Commit(w * 1000 + i, session->version, i % 3 == 0 ? kSyncCommit : CommitOptions{});
        if (moved.ok()) {
          ++acknowledged;
          EXPECT_EQ(moved->version, session->version + 1);
        } else {
          EXPECT_EQ(GetStoreError(moved.status()), StoreError::kVersionMismatch) << moved.status();
        }
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  ASSERT_EQ(store_->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(backend_->store().GetSession("t", "s")->version, 1u + acknowledged);
  EXPECT_EQ(store_->stats().queue.lost, 0u);
  EXPECT_EQ(store_->CheckIntegrity(), absl::OkStatus());
}

}  // namespace
}  // namespace reprise::state_store
