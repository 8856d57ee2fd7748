// Commits of a session that this process moved before: one round trip, by the record as it was
// seen last. Whatever has happened to the session or its chunks since, the outcome is that of the
// long way.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "state_store/redis/keys.h"
#include "state_store/redis/record_cache.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisServer;

class CommitAtOnce : public ::testing::Test {
 protected:
  void SetUp() override {
    session_ = store_->CreateSession("t", {.id = "s"}).value();
    Commit(1);
  }

  void Commit(uint64_t seed, size_t window_bytes = 2000) {
    const auto moved =
        store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(seed, window_bytes), {});
    ASSERT_TRUE(moved.ok()) << moved.status();
    ASSERT_EQ(moved->version, session_.version + 1);
    session_ = *moved;
    state_ = {seed, window_bytes};
  }

  // The state is the last one committed, and nothing is left over that is not in use.
  void ExpectWhole() {
    const auto watcher = OpenStore(options_);
    EXPECT_EQ(watcher->GetSession("t", "s").value(), session_);
    EXPECT_TRUE(SameState(MakeTestSnapshot(state_.first, state_.second),
                          watcher->ReadSnapshot("t", "s", "").value()));
    EXPECT_EQ(watcher->CheckIntegrity(), absl::OkStatus());
    const GarbageReport report = CollectAll(options_);
    EXPECT_EQ(report.pins_dropped + report.holds_dropped + report.fields_dropped +
                  report.counts_corrected,
              0);
  }

  std::vector<std::string> ChunkKeys() {
    std::vector<std::string> keys;
    for (const Reply& key : server_.Do({"KEYS", "reprise:1:c:*"}).elements) {
      keys.push_back(key.text);
    }
    std::sort(keys.begin(), keys.end());
    return keys;
  }

  // Calls of each command since the last time.
  std::map<std::string, int> Calls() {
    std::map<std::string, int> calls;
    std::istringstream lines(server_.Do({"INFO", "commandstats"}).text);
    for (std::string line; std::getline(lines, line);) {
      const size_t colon = line.find(":calls=");
      if (line.compare(0, 8, "cmdstat_") != 0 || colon == std::string::npos) continue;
      calls[line.substr(8, colon - 8)] = std::atoi(line.c_str() + colon + 7);
    }
    server_.Do({"CONFIG", "RESETSTAT"});
    return calls;
  }

  RedisServer server_;
  const RedisStoreOptions options_ = OptionsFor(server_.url());
  const std::unique_ptr<RedisStore> store_ = OpenStore(options_);
  Session session_;
  std::pair<uint64_t, size_t> state_;
};

TEST_F(CommitAtOnce, SendsWhatIsNewAndAsksForNothing) {
  Commit(2);
  Calls();
  Commit(3);
  auto calls = Calls();
  // Five chunks come, five go: the script of the commit, the hold, and a script for each that goes.
  EXPECT_EQ(calls["hsetnx"], 5);
  EXPECT_EQ(calls["evalsha"], 7);
  ExpectWhole();
  // Of bytes that the head has, none are sent, and what it shares with the next one stays.
  Calls();
  Commit(3);
  calls = Calls();
  EXPECT_EQ(calls["hsetnx"], 0);
  EXPECT_EQ(calls["evalsha"], 7);
  ExpectWhole();
}

TEST_F(CommitAtOnce, AReaderMovesItInOneTripToo) {
  Commit(3);  // after which the server knows the scripts
  const auto reader = OpenStore(options_);
  ASSERT_TRUE(reader->ReadSnapshot("t", "s", "").ok());
  Calls();
  session_ = reader->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), {}).value();
  state_.first = 2;
  EXPECT_EQ(Calls()["evalsha"], 7);
  ExpectWhole();
}

TEST_F(CommitAtOnce, WhatAnotherProcessDidSinceDecides) {
  const auto other = OpenStore(options_);
  const auto moved = other->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), {});
  ASSERT_TRUE(moved.ok());
  const auto late = store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(3), {});
  EXPECT_EQ(GetStoreError(late.status()), StoreError::kVersionMismatch) << late.status();
  session_ = *moved;
  state_.first = 2;
  ExpectWhole();
  // A change that does not move the session is no reason to refuse.
  session_ = other->UpdateSession("t", "s", {.labels = {{{"a", "b"}}}}).value();
  Commit(4);
  EXPECT_EQ(session_.labels.at("a"), "b");
  ExpectWhole();
  ASSERT_TRUE(other->DeleteSession("t", "s").ok());
  const auto gone = store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(5), {});
  EXPECT_EQ(GetStoreError(gone.status()), StoreError::kSessionNotFound) << gone.status();
  EXPECT_TRUE(ChunkKeys().empty()) << "bytes of a commit that was refused";
  // Another session of that name is another session, even at the same version.
  session_ = other->CreateSession("t", {.id = "s"}).value();
  session_ = other->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(6), {}).value();
  Commit(7);
  ExpectWhole();
}

TEST_F(CommitAtOnce, ARepeatGetsTheFirstAnswer) {
  const uint64_t version = session_.version;
  const CommitOptions once{.request_id = "r"};
  session_ = store_->PutAndCommit("t", "s", version, MakeTestSnapshot(2), once).value();
  state_.first = 2;
  EXPECT_EQ(store_->PutAndCommit("t", "s", version, MakeTestSnapshot(2), once).value(), session_);
  // And whoever is asked, also after the session has moved on.
  const auto other = OpenStore(options_);
  EXPECT_EQ(other->PutAndCommit("t", "s", version, MakeTestSnapshot(2), once).value(), session_);
  const Session first = session_;
  Commit(3);
  EXPECT_EQ(store_->PutAndCommit("t", "s", version, MakeTestSnapshot(2), once).value(), first);
  ExpectWhole();
  // One that another process made is not known here, and found all the same.
  const auto theirs =
      other->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(4), {.request_id = "q"});
  ASSERT_TRUE(theirs.ok());
  EXPECT_EQ(
      store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(4), {.request_id = "q"})
          .value(),
      *theirs);
}

TEST_F(CommitAtOnce, ALeaseKeepsOthersOut) {
  const auto other = OpenStore(options_);
  const auto lease = other->AcquireLease("t", "s", "other", absl::Hours(1));
  ASSERT_TRUE(lease.ok());
  const auto without = store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), {});
  EXPECT_EQ(GetStoreError(without.status()), StoreError::kSessionLeased) << without.status();
  const auto wrong =
      store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2), {.lease_token = "1"});
  EXPECT_EQ(GetStoreError(wrong.status()), StoreError::kLeaseLost) << wrong.status();
  ExpectWhole();
  session_ = other
                 ->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(2),
                                {.lease_token = lease->token})
                 .value();
  state_.first = 2;
  ExpectWhole();
}

TEST_F(CommitAtOnce, ChunksThatAreLostOrDamagedAreBroughtBack) {
  const std::vector<std::vector<std::string>> damages = {
      {"DEL"}, {"HDEL", "d"}, {"HSET", "d", "short"}, {"HSET", "bad", "1"}, {"HSET", "h", "x"}};
  for (const std::vector<std::string>& damage : damages) {
    SCOPED_TRACE(damage[0] + (damage.size() > 1 ? damage[1] : ""));
    for (const std::string& key : ChunkKeys()) {
      std::vector<std::string> command = {damage[0], key};
      command.insert(command.end(), damage.begin() + 1, damage.end());
      server_.Do(command);
    }
    // The head names them, so their bytes are not sent with the commit at first.
    Commit(1);
    CollectAll(options_);  // nobody counted what was taken away
    ExpectWhole();
  }
}

TEST_F(CommitAtOnce, ScriptsThatAreForgottenAndAServerThatIsEmpty) {
  server_.Do({"SCRIPT", "FLUSH"});
  Commit(2);
  ExpectWhole();
  server_.Do({"FLUSHALL"});
  const auto gone = store_->PutAndCommit("t", "s", session_.version, MakeTestSnapshot(3), {});
  EXPECT_EQ(GetStoreError(gone.status()), StoreError::kSessionNotFound) << gone.status();
  EXPECT_EQ(server_.Do({"DBSIZE"}).integer, 0);
}

TEST_F(CommitAtOnce, ManyChunksOfWhichSomeStay) {
  RedisStoreOptions options = options_;
  options.store.chunk_bytes = 64 << 10;
  const auto store = OpenStore(options);
  Snapshot state = MakeTestSnapshot(1, 3 << 20);
  for (uint64_t turn = 0; turn < 4; ++turn) {
    SCOPED_TRACE(turn);
    // Every turn writes a tenth of the window, somewhere else each time.
    const std::string fresh = PatternBytes(100 + turn, 300'000);
    state.payloads[1].replace(turn * 700'000, fresh.size(), fresh);
    const auto moved = store->PutAndCommit("t", "s", session_.version, state, {});
    ASSERT_TRUE(moved.ok()) << moved.status();
    session_ = *moved;
    const auto watcher = OpenStore(options);
    EXPECT_TRUE(SameState(state, watcher->ReadSnapshot("t", "s", "").value()));
    EXPECT_EQ(watcher->CheckIntegrity(), absl::OkStatus());
    EXPECT_EQ(watcher->Stats("t")->chunks, 49u);
  }
}

TEST(RecordCacheTest, KeepsWhatWasUsedLast) {
  RecordCache cache(2);
  const auto record = [](const std::string& rev) {
    return KnownRecord{rev, {}, std::make_shared<const SnapshotManifest>()};
  };
  cache.Put("a", record("1"));
  cache.Put("b", record("2"));
  ASSERT_NE(cache.Find("a"), nullptr);
  cache.Put("c", record("3"));
  EXPECT_EQ(cache.Find("b"), nullptr);
  EXPECT_EQ(cache.Find("a")->rev, "1");
  cache.Put("a", record("4"));
  EXPECT_EQ(cache.Find("a")->rev, "4");
  cache.Forget("a");
  cache.Forget("a");
  EXPECT_EQ(cache.Find("a"), nullptr);
  EXPECT_EQ(cache.Find("c")->rev, "3");
  // Of a session without a head there is nothing to know.
  cache.Put("c", {"5", {}, nullptr});
  EXPECT_EQ(cache.Find("c"), nullptr);
}

}  // namespace
}  // namespace reprise::state_store::redis
