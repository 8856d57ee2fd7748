#include "state_store/tiers/commit_queue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(1);

QueuedCommit Make(const std::string& session, uint64_t version, uint64_t bytes = 10) {
  QueuedCommit commit;
  commit.tenant = "t";
  commit.session_id = session;
  commit.expected_version = version;
  commit.snapshot = std::make_shared<const Snapshot>(MakeTestSnapshot(version));
  commit.read_back = commit.snapshot;
  commit.bytes = bytes;
  commit.result.version = version + 1;
  commit.options.request_id = session + std::to_string(version);
  auto manifest = std::make_shared<SnapshotManifest>(commit.snapshot->manifest);
  commit.manifest = std::move(manifest);
  return commit;
}

// Records what is written, and how it ends. Writes block while `held`, and then give `answer`.
class Backend {
 public:
  absl::StatusOr<Session> Write(QueuedCommit& commit) {
    absl::MutexLock lock(&mu_);
    ++waiting_;
    const std::string session = commit.session_id;
    auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return held_.count(session) == 0; };
    mu_.Await(absl::Condition(&free));
    --waiting_;
    ++tries_;
    const auto failure = failures_.find(session);
    if (failure != failures_.end()) return failure->second;
    written_.push_back(session + std::to_string(commit.expected_version));
    return commit.result;
  }
  void Done(const QueuedCommit& commit, const absl::StatusOr<Session>& result) {
    absl::MutexLock lock(&mu_);
    ended_.emplace_back(commit.session_id + std::to_string(commit.expected_version),
                        result.status());
  }
  void Hold(const std::string& session, bool on) {
    absl::MutexLock lock(&mu_);
    if (on) {
      held_.insert(session);
    } else {
      held_.erase(session);
    }
  }
  void Fail(const std::string& session, absl::Status status) {
    absl::MutexLock lock(&mu_);
    if (status.ok()) {
      failures_.erase(session);
    } else {
      failures_[session] = std::move(status);
    }
  }
  bool AwaitTries(int tries) {
    absl::MutexLock lock(&mu_);
    auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return tries_ >= tries; };
    return mu_.AwaitWithTimeout(absl::Condition(&done), kPatience);
  }
  std::vector<std::string> written() {
    absl::MutexLock lock(&mu_);
    return written_;
  }
  std::vector<std::pair<std::string, absl::Status>> ended() {
    absl::MutexLock lock(&mu_);
    return ended_;
  }

 private:
  absl::Mutex mu_;
  std::set<std::string> held_;
  std::map<std::string, absl::Status> failures_;
  std::vector<std::string> written_;
  std::vector<std::pair<std::string, absl::Status>> ended_;
  int waiting_ = 0, tries_ = 0;
};

struct Fixture {
  explicit Fixture(CommitQueueOptions options) {
    options.min_retry = absl::Milliseconds(1);
    options.max_retry = absl::Milliseconds(5);
    queue.emplace(
        options, [this](QueuedCommit& commit) { return backend.Write(commit); },
        [this](const QueuedCommit& commit, const absl::StatusOr<Session>& result) {
          backend.Done(commit, result);
        });
  }
  bool Add(const std::string& session, uint64_t version, uint64_t bytes = 10) {
    return queue->TryAdd(Make(session, version, bytes));
  }
  Backend backend;
  std::optional<CommitQueue> queue;
};

TEST(CommitQueue, KeepsTheOrderOfASessionAndLetsOthersPass) {
  Fixture f({.max_bytes = 1000, .max_commits = 100, .threads = 2});
  f.backend.Hold("a", true);
  for (uint64_t v = 1; v <= 3; ++v) ASSERT_TRUE(f.Add("a", v));
  ASSERT_TRUE(f.Add("b", 1));
  EXPECT_EQ(f.queue->Wait("t", "b", kPatience), absl::OkStatus());
  EXPECT_EQ(f.backend.written(), std::vector<std::string>{"b1"});
  EXPECT_FALSE(f.queue->Empty("t", "a"));
  f.backend.Hold("a", false);
  EXPECT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(f.backend.written(), (std::vector<std::string>{"b1", "a1", "a2", "a3"}));
  EXPECT_EQ(f.queue->stats().written, 4u);
  EXPECT_EQ(f.queue->stats().bytes, 0u);
  EXPECT_EQ(f.queue->stats().commits, 0u);
}

TEST(CommitQueue, RefusesWhatHasNoRoomInBytesOrNumber) {
  Fixture f({.max_bytes = 100, .max_commits = 3, .threads = 1});
  f.backend.Hold("a", true);
  EXPECT_TRUE(f.Add("a", 1, 60));
  EXPECT_FALSE(f.Add("a", 2, 41));
  EXPECT_TRUE(f.Add("a", 2, 40));
  EXPECT_FALSE(f.Add("b", 1, 1));
  f.backend.Hold("a", false);
  ASSERT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
  f.backend.Hold("a", true);
  for (uint64_t v = 1; v <= 3; ++v) EXPECT_TRUE(f.Add("a", v, 1));
  EXPECT_FALSE(f.Add("b", 1, 1));
  EXPECT_EQ(f.queue->stats().refused, 3u);
  EXPECT_EQ(f.queue->stats().commits, 3u);
  f.backend.Hold("a", false);
}

TEST(CommitQueue, WhatWaitsCanBeRead) {
  Fixture f({.max_bytes = 1000, .max_commits = 100, .threads = 1});
  f.backend.Hold("a", true);
  ASSERT_TRUE(f.Add("a", 1));
  ASSERT_TRUE(f.Add("a", 2));
  const auto last = f.queue->FindLast("t", "a");
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->session.version, 3u);
  EXPECT_EQ((*last->snapshot.payloads), MakeTestSnapshot(2).payloads);
  EXPECT_EQ(f.queue->FindCommit("t", "a", "a1")->session.version, 2u);
  EXPECT_FALSE(f.queue->FindCommit("t", "a", "a3").has_value());
  EXPECT_FALSE(f.queue->FindLast("u", "a").has_value());
  f.backend.Hold("a", false);
  ASSERT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
  EXPECT_FALSE(f.queue->FindLast("t", "a").has_value());
}

TEST(CommitQueue, TriesAgainUntilWhatKeepsItHasPassed) {
  Fixture f({.max_bytes = 1000, .max_commits = 100, .threads = 2});
  for (const absl::Status& status :
       {absl::UnavailableError("gone"), absl::DeadlineExceededError("slow"),
        MakeStoreError(StoreError::kStoreFull, "full"),
        MakeStoreError(StoreError::kSessionLeased, "another's")}) {
    f.backend.Fail("a", status);
    const int tries = static_cast<int>(f.queue->stats().retries + f.queue->stats().written);
    ASSERT_TRUE(f.Add("a", 1));
    ASSERT_TRUE(f.Add("a", 2));
    ASSERT_TRUE(f.backend.AwaitTries(tries + 3));
    // Whoever waits for this session hears why; whoever waits for all goes on waiting.
    const absl::Status heard = f.queue->Wait("t", "a", kPatience);
    EXPECT_EQ(heard.code(), status.code()) << heard;
    f.backend.Fail("a", absl::OkStatus());
    EXPECT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
  }
  EXPECT_EQ(f.queue->stats().written, 8u);
  EXPECT_EQ(f.queue->stats().lost, 0u);
  EXPECT_GE(f.queue->stats().retries, 12u);
}

TEST(CommitQueue, WhatCanNeverBeWrittenTakesAlongWhatFollowsInItsSession) {
  Fixture f({.max_bytes = 1000, .max_commits = 100, .threads = 1});
  f.backend.Hold("a", true);
  f.backend.Fail("a", MakeStoreError(StoreError::kVersionMismatch, "moved"));
  for (uint64_t v = 1; v <= 3; ++v) ASSERT_TRUE(f.Add("a", v));
  ASSERT_TRUE(f.Add("b", 1));
  f.backend.Hold("a", false);
  EXPECT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(f.backend.written(), std::vector<std::string>{"b1"});
  const auto ended = f.backend.ended();
  ASSERT_EQ(ended.size(), 4u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ended[i].first, "a" + std::to_string(i + 1));
    EXPECT_EQ(GetStoreError(ended[i].second), StoreError::kVersionMismatch);
  }
  EXPECT_EQ(f.queue->stats().lost, 3u);
  EXPECT_EQ(f.queue->stats().bytes, 0u);
  // The line is forgotten: the session may begin anew.
  f.backend.Fail("a", absl::OkStatus());
  ASSERT_TRUE(f.Add("a", 7));
  EXPECT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
  EXPECT_EQ(f.backend.written().back(), "a7");
}

TEST(CommitQueue, WaitingHasAnEnd) {
  Fixture f({.max_bytes = 1000, .max_commits = 100, .threads = 1});
  f.backend.Hold("a", true);
  ASSERT_TRUE(f.Add("a", 1));
  EXPECT_EQ(GetStoreError(f.queue->Wait("t", "a", absl::Milliseconds(5))), StoreError::kIoError);
  const absl::Status flushed = f.queue->Flush(absl::Milliseconds(5));
  EXPECT_EQ(GetStoreError(flushed), StoreError::kIoError);
  EXPECT_NE(std::string(flushed.message()).find("1 commits of 1 sessions"), std::string::npos);
  f.backend.Hold("a", false);
  EXPECT_EQ(f.queue->Flush(kPatience), absl::OkStatus());
}

}  // namespace
}  // namespace reprise::state_store
