// The contract of export and import, and of many threads at once.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/hash.h"
#include "state_store/internal/cat.h"
#include "state_store/testing/store_contract.h"

namespace reprise::state_store {

TEST_P(StoreContract, ExportAndImportKeepEveryByte) {
  Commit(Create("s"), 1);
  const std::string stream = Export("s");
  for (const std::string tenant : {"t", "u"}) {
    StringSource source(stream);
    const auto imported = store().ImportSnapshot(tenant, {.id = "copy", .request_id = "i"}, source);
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_EQ(imported->version, 1u);
    EXPECT_EQ(imported->position, 2u);
    EXPECT_EQ(imported->model_id, "test-model");
    ExpectHead("copy", 1, tenant);
    StringSource again(stream);
    EXPECT_EQ(*store().ImportSnapshot(tenant, {.id = "copy", .request_id = "i"}, again), *imported);
  }
  EXPECT_EQ(StatsOf("t").chunks, StatsOf("u").chunks) << "the tenant had these chunks already";
  EXPECT_EQ(store().GetSnapshot("u", "copy", "")->manifest.tenant, "u");
  StringSource taken(stream);
  EXPECT_STORE_ERROR(store().ImportSnapshot("t", {.id = "s"}, taken), kSessionExists);
}

TEST_P(StoreContract, BadStreamsLeaveNothingBehind) {
  Commit(Create("s"), 1);
  const std::string stream = Export("s");
  const auto import = [&](const std::string& bytes) {
    StringSource source(bytes);
    return store().ImportSnapshot("u", {.id = "copy"}, source).status();
  };
  int refused = 0;
  for (size_t i = 0; i < stream.size(); i += i < 1500 ? 1 : 17) {
    std::string flipped = stream;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    const absl::Status flip = import(flipped);
    EXPECT_TRUE(absl::IsDataLoss(flip) || absl::IsUnimplemented(flip)) << i << ": " << flip;
    const absl::Status cut = import(stream.substr(0, i));
    EXPECT_TRUE(absl::IsDataLoss(cut)) << i << ": " << cut;
    refused += 2;
  }
  EXPECT_STORE_ERROR(import(stream + "x"), kCorruptStream);
  // A trailer that fits does not make up for bytes that are not the manifest's.
  std::string forged = stream.substr(0, stream.size() - 32);
  forged[forged.size() - 100] ^= 1;
  const Sha256Digest digest = Sha256(forged);
  forged.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  EXPECT_STORE_ERROR(import(forged), kCorruptStream);
  EXPECT_GT(refused, 2000);
  EXPECT_EQ(StatsOf("u"), StoreStats{});
  EXPECT_EQ(store().CheckIntegrity(), absl::OkStatus());
  EXPECT_EQ(import(stream), absl::OkStatus());
}

TEST_P(StoreContract, FailingStreamsPassOnTheirError) {
  class Broken : public ByteSource, public ByteSink {
   public:
    absl::StatusOr<size_t> Read(absl::Span<char>) override { return absl::CancelledError("gone"); }
    absl::Status Write(std::string_view) override { return absl::CancelledError("gone"); }
  };
  Commit(Create("s"), 1);
  Broken broken;
  EXPECT_TRUE(absl::IsCancelled(store().ExportSnapshot("t", "s", "", broken)));
  EXPECT_TRUE(absl::IsCancelled(store().ImportSnapshot("t", {}, broken).status()));
}

TEST_P(StoreContract, EightWritersOneWinner) {
  Create("s");
  constexpr int kThreads = 8, kRounds = 12;
  std::atomic<int> won = 0, aborted = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds;) {
        const auto session = store().GetSession("t", "s");
        ASSERT_TRUE(session.ok());
        const auto moved = store().PutAndCommit(
            "t", "s", session->version, MakeTestSnapshot(t * 1000 + i), {.keep = i % 4 == 0});
        if (moved.ok()) {
          EXPECT_EQ(moved->version, session->version + 1);
          ++won;
          ++i;
        } else {
          ASSERT_EQ(GetStoreError(moved.status()), StoreError::kVersionMismatch) << moved.status();
          ++aborted;
        }
        const auto read = store().ReadSnapshot("t", "s", "");
        ASSERT_TRUE(read.ok()) << read.status();
        const uint64_t seed = read->manifest.position - 1;
        EXPECT_TRUE(SameState(MakeTestSnapshot(seed), *read));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store().GetSession("t", "s")->version, 1u + kThreads * kRounds);
  EXPECT_EQ(won, kThreads * kRounds);
}

TEST_P(StoreContract, ManyThreadsForkCommitAndDelete) {
  Commit(Create("root"), 7);
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 15; ++i) {
        const std::string id = Cat("f", t);
        auto fork = store().Fork("t", {"root"}, {.id = id});
        ASSERT_TRUE(fork.ok()) << fork.status();
        // All threads write the same few states, so chunks are shared and freed all the time.
        const auto moved =
            store().PutAndCommit("t", id, fork->version, MakeTestSnapshot(i % 3), {});
        ASSERT_TRUE(moved.ok()) << moved.status();
        const auto read = store().ReadSnapshot("t", id, "");
        ASSERT_TRUE(read.ok()) << read.status();
        EXPECT_TRUE(SameState(MakeTestSnapshot(i % 3), *read));
        ASSERT_TRUE(store().DeleteSession("t", id).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(StatsOf().snapshots, 1u);
  ExpectHead("root", 7);
}

}  // namespace reprise::state_store
