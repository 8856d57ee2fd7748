// Copies of sessions between stores, whatever their kinds.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "state_store/disk_store.h"
#include "state_store/memory_store.h"
#include "state_store/redis/keys.h"
#include "state_store/store_admin.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisCluster;
using testing::RedisServer;
using testing::TemporaryDirectory;

StoreOptions Options(uint32_t chunk_bytes) {
  StoreOptions options;
  options.chunk_bytes = chunk_bytes;
  options.read_as_stored = true;
  return options;
}

class Stores {
 public:
  std::unique_ptr<SessionStore> Open(const std::string& kind, uint32_t chunk_bytes) {
    if (kind == "memory") return CreateMemoryStore(Options(chunk_bytes)).value();
    if (kind == "disk") {
      DiskStoreOptions options;
      options.directory = directory_.path() + "/" + std::to_string(chunk_bytes);
      options.store = Options(chunk_bytes);
      return std::move(OpenDiskStore(options)->store);
    }
    if (kind == "cluster" && cluster_ == nullptr) cluster_ = std::make_unique<RedisCluster>();
    RedisStoreOptions options = OptionsFor(kind == "cluster" ? cluster_->url() : server_.url());
    options.key_prefix = kind + std::to_string(chunk_bytes) + ":";
    options.store = Options(chunk_bytes);
    return OpenStore(options);
  }

 private:
  TemporaryDirectory directory_;
  RedisServer server_;
  std::unique_ptr<RedisCluster> cluster_;
};

// Two sessions: one with everything that a session can have, and a fork of it.
void Fill(SessionStore& store) {
  Session s =
      store
          .CreateSession(
              "t", {.id = "s", .ttl = absl::Hours(7), .labels = {{"a", "b"}}, .request_id = "c"})
          .value();
  for (uint64_t i = 0; i < 4; ++i) {
    Snapshot snapshot = MakeTestSnapshot(i, 3000);
    snapshot.manifest.parts[0].dtype = "f32~bf16";  // encoded elsewhere
    s = store.PutAndCommit("t", "s", s.version, snapshot, {.keep = i % 2 == 0}).value();
  }
  const std::string first = store.ListSnapshots("t", "s", {})->snapshots[0].manifest.snapshot_id;
  Session f = store.Fork("t", {"s", first}, {.id = "f"}).value();
  f = store.PutAndCommit("t", "f", f.version, MakeTestSnapshot(9), {}).value();
  ASSERT_TRUE(store.CreateSession("t", {.id = "empty"}).ok());
  ASSERT_TRUE(store.CreateSession("u", {.id = "s"}).ok());
}

std::map<std::string, Snapshot> All(SessionStore& store, const std::string& id) {
  std::map<std::string, Snapshot> all;
  const SessionCopy copy = DescribeSession(store, "t", id).value();
  for (const SnapshotInfo& info : copy.snapshots) {
    all[info.manifest.snapshot_id] = store.ReadSnapshot("t", id, info.manifest.snapshot_id).value();
  }
  return all;
}

TEST(CopySession, BetweenAllKindsOfStores) {
  Stores stores;
  const std::vector<std::string> kinds = {"memory", "disk", "redis", "cluster"};
  for (const std::string& a : kinds) {
    for (const std::string& b : kinds) {
      SCOPED_TRACE(a + " to " + b);
      // Other chunks than in the source.
      static uint32_t size = 700;
      const auto from = stores.Open(a, ++size), to = stores.Open(b, ++size);
      Fill(*from);
      for (const auto* id : {"f", "s", "empty"}) {
        const auto copied = CopySession(*from, *to, "t", id);
        ASSERT_TRUE(copied.ok()) << copied.status();
        EXPECT_EQ(*copied, CopyOutcome::kCopied);
        EXPECT_EQ(to->GetSession("t", id).value(), from->GetSession("t", id).value());
        EXPECT_EQ(*CopySession(*from, *to, "t", id), CopyOutcome::kAlreadyThere);
        const auto source = All(*from, id), target = All(*to, id);
        ASSERT_EQ(source.size(), target.size());
        for (const auto& [snapshot_id, snapshot] : source) {
          EXPECT_TRUE(SameState(snapshot, target.at(snapshot_id)));
          EXPECT_EQ(target.at(snapshot_id).manifest.parts[0].dtype,
                    snapshot.manifest.parts[0].dtype);
        }
        EXPECT_EQ(to->CheckIntegrity(), absl::OkStatus());
      }
      EXPECT_EQ(to->Stats("t")->snapshots, from->Stats("t")->snapshots) << "forks share";
      EXPECT_EQ(to->GetSession("u", "s").status().code(), absl::StatusCode::kNotFound);
      // It goes on there as if it had never been elsewhere.
      const Session s = to->GetSession("t", "s").value();
      const std::string first = to->ListSnapshots("t", "s", {})->snapshots[0].manifest.snapshot_id;
      EXPECT_TRUE(to->PutAndCommit("t", "s", s.version, MakeTestSnapshot(20), {}).ok());
      EXPECT_TRUE(to->Rewind("t", "s", first, s.version + 1, "").ok());
      EXPECT_TRUE(to->Rewind("t", "f", "", to->GetSession("t", "f")->version, "").ok());
      EXPECT_EQ(to->CheckIntegrity(), absl::OkStatus());
      for (const auto* id : {"s", "empty", "f"}) EXPECT_TRUE(to->DeleteSession("t", id).ok());
      EXPECT_EQ(to->Stats("t").value(), StoreStats{});
      EXPECT_EQ(to->CheckIntegrity(), absl::OkStatus());
    }
  }
}

TEST(CopySession, LeavesNothingWhenItIsBrokenOff) {
  Stores stores;
  const auto from = stores.Open("memory", 701);
  Fill(*from);
  const SessionCopy copy = DescribeSession(*from, "t", "s").value();
  ASSERT_EQ(copy.snapshots.size(), 3u);
  for (const auto* kind : {"memory", "disk", "redis"}) {
    const auto to = stores.Open(kind, 702);
    for (int reads = 0; reads < 3; ++reads) {
      int left = reads;
      const auto broken = dynamic_cast<StoreAdmin&>(*to).RestoreSession(
          copy, [&](const std::string& id) -> absl::StatusOr<Snapshot> {
            if (left-- == 0) return absl::UnavailableError("the source is gone");
            return from->ReadSnapshot("t", "s", id);
          });
      EXPECT_EQ(broken.status().code(), absl::StatusCode::kUnavailable);
      EXPECT_EQ(to->GetSession("t", "s").status().code(), absl::StatusCode::kNotFound);
      EXPECT_EQ(to->Stats("t")->stored_bytes, 0u);
      // A name on the list without a session is taken off by upkeep.
      EXPECT_EQ(to->CheckIntegrity(), absl::OkStatus()) << kind;
    }
    EXPECT_EQ(*CopySession(*from, *to, "t", "s"), CopyOutcome::kCopied);
  }
}

TEST(CopySession, RefusesAnotherSessionOfTheNameAndDamage) {
  Stores stores;
  const auto from = stores.Open("redis", 703), to = stores.Open("memory", 703);
  Fill(*from);
  ASSERT_TRUE(to->CreateSession("t", {.id = "s"}).ok());
  const Session before = to->GetSession("t", "s").value();
  EXPECT_EQ(GetStoreError(CopySession(*from, *to, "t", "s").status()), StoreError::kSessionExists);
  EXPECT_EQ(to->GetSession("t", "s").value(), before);
  EXPECT_EQ(CopySession(*from, *to, "t", "none").status().code(), absl::StatusCode::kNotFound);
  SessionCopy copy = DescribeSession(*from, "t", "f").value();
  const auto restore = [&](SessionCopy bad) {
    return dynamic_cast<StoreAdmin&>(*to)
        .RestoreSession(bad,
                        [&](const std::string& id) { return from->ReadSnapshot("t", "f", id); })
        .status()
        .code();
  };
  SessionCopy bad = copy;
  bad.session.head_snapshot_id = "other";
  EXPECT_EQ(restore(bad), absl::StatusCode::kInvalidArgument);
  bad = copy;
  bad.session.id = "../x";
  EXPECT_EQ(restore(bad), absl::StatusCode::kInvalidArgument);
  bad = copy;
  bad.snapshots.clear();
  EXPECT_EQ(restore(bad), absl::StatusCode::kInvalidArgument);
  bad = copy;
  bad.session.version = 0;
  EXPECT_EQ(restore(bad), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(restore(copy), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace reprise::state_store::redis
