// What a tenant takes by its counters, beside what a walk over everything finds.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "state_store/byte_stream.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/keys.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisCluster;
using testing::RedisServer;

constexpr const char* kTenants[] = {"t", "u"};

void ExpectExact(RedisStore& store) {
  for (const char* tenant : kTenants) {
    const StoreStats stats = store.Stats(tenant).value();
    EXPECT_EQ(store.Usage(tenant).value(), (StoreUsage{stats.sessions, stats.stored_bytes}))
        << tenant << ": " << store.Usage(tenant)->stored_bytes << " bytes counted, "
        << stats.stored_bytes << " there";
  }
  EXPECT_EQ(store.CheckIntegrity(), absl::OkStatus());
}

// Calls at random through a store of its own, on sessions that all stores share, as servers do.
// Most lose races; some share chunks, some bring the same ones at the same time.
void Play(const RedisStoreOptions& options, uint64_t seed, int steps) {
  const auto store = OpenStore(options);
  std::mt19937_64 random(seed);
  for (int i = 0; i < steps; ++i) {
    const std::string tenant = kTenants[random() % 2];
    const std::string id = Cat("s", random() % 5), other = Cat("s", random() % 5);
    switch (random() % 10) {
      case 0:
        store->CreateSession(tenant, {.id = id}).status().IgnoreError();
        break;
      case 1:
        store->DeleteSession(tenant, id).IgnoreError();
        break;
      case 2:
        store->Fork(tenant, {id, ""}, {.id = other}).status().IgnoreError();
        break;
      case 3: {
        StringSink sink;
        if (!store->ExportSnapshot(tenant, id, "", sink).ok()) break;
        StringSource source(sink.bytes());
        store->ImportSnapshot(tenant, {.id = other}, source).status().IgnoreError();
        break;
      }
      default: {
        const auto session = store->GetSession(tenant, id);
        if (!session.ok()) break;
        store
            ->PutAndCommit(tenant, id, session->version, MakeTestSnapshot(random() % 6),
                           {.keep = random() % 4 == 0})
            .status()
            .IgnoreError();
      }
    }
  }
}

template <typename Servers>
void PlayTogether(uint64_t max_stored_bytes) {
  Servers servers;
  RedisStoreOptions options = OptionsFor(servers.url());
  options.store.max_stored_bytes = max_stored_bytes;
  for (uint64_t round = 0; round < 3; ++round) {
    std::vector<std::thread> players;
    for (uint64_t p = 0; p < 4; ++p) {
      players.emplace_back([&, p] { Play(options, 10 * round + p, 120); });
    }
    for (std::thread& player : players) player.join();
    // A loser in doubt leaves pins, and nothing but these, to be collected.
    CollectAll(options);
    const auto store = OpenStore(options);
    ExpectExact(*store);
    EXPECT_GT(store->Usage("t")->stored_bytes + store->Usage("u")->stored_bytes, 0u);
  }
  const auto store = OpenStore(options);
  for (const char* tenant : kTenants) {
    const std::vector<std::string> ids = store->ListSessionIds(tenant).value();
    for (const std::string& id : ids) {
      EXPECT_TRUE(store->DeleteSession(tenant, id).ok());
    }
    EXPECT_EQ(store->Usage(tenant).value(), StoreUsage{});
  }
}

TEST(Usage, IsExactWhateverManyStoresDo) { PlayTogether<RedisServer>(0); }
TEST(Usage, IsExactUnderACap) { PlayTogether<RedisServer>(20'000); }
TEST(Usage, IsExactInACluster) { PlayTogether<RedisCluster>(0); }

class UsageOfOne : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* id : {"a", "b"}) {
      const Session session = store_->CreateSession("t", {.id = id}).value();
      ASSERT_TRUE(store_->PutAndCommit("t", id, session.version, MakeTestSnapshot(id[0]), {}).ok());
    }
    exact_ = store_->Usage("t").value();
    ExpectExact(*store_);
  }

  RedisServer server_;
  const RedisStoreOptions options_ = OptionsFor(server_.url());
  const std::unique_ptr<RedisStore> store_ = OpenStore(options_);
  const std::string key_ = Keys(options_.key_prefix).Counters("t");
  StoreUsage exact_;
};

TEST_F(UsageOfOne, CollectingGarbageSetsAWrongCountRight) {
  for (const char* off : {"12345", "-700"}) {
    server_.Do({"HINCRBY", key_, "bytes", off});
    EXPECT_NE(store_->Usage("t").value(), exact_);
    EXPECT_FALSE(store_->CheckIntegrity().ok());
    EXPECT_EQ(store_->CollectGarbage()->counts_corrected, 1);
    EXPECT_EQ(store_->Usage("t").value(), exact_);
    EXPECT_EQ(store_->CollectGarbage()->counts_corrected, 0);
  }
  // As of a store that was there before it counted.
  server_.Do({"DEL", key_});
  EXPECT_EQ(store_->CollectGarbage()->counts_corrected, 1);
  EXPECT_EQ(store_->Usage("t").value(), exact_);
  // What is no count is no zero.
  server_.Do({"HSET", key_, "bytes", "many"});
  EXPECT_EQ(GetStoreError(store_->Usage("t").status()), StoreError::kCorruptIndex);
  const Session session = store_->GetSession("t", "a").value();
  ASSERT_TRUE(store_->PutAndCommit("t", "a", session.version, MakeTestSnapshot('a'), {}).ok());
  EXPECT_EQ(store_->CollectGarbage()->counts_corrected, 1);
  EXPECT_EQ(store_->Usage("t").value(), exact_);
}

TEST_F(UsageOfOne, DoesNotGrowWithWhatThereIs) {
  server_.Do({"CONFIG", "RESETSTAT"});
  ASSERT_TRUE(store_->Usage("t").ok());
  const std::string calls = server_.Do({"INFO", "commandstats"}).text;
  EXPECT_NE(calls.find("cmdstat_zcard:calls=1"), std::string::npos) << calls;
  EXPECT_NE(calls.find("cmdstat_hmget:calls=1"), std::string::npos) << calls;
  EXPECT_EQ(calls.find("hgetall"), std::string::npos) << calls;
}

TEST_F(UsageOfOne, AnExpiredSessionCountsUntilItIsSwept) {
  ASSERT_TRUE(store_->UpdateSession("t", "a", {.ttl = absl::Seconds(1)}).ok());
  const absl::Time later = absl::Now() + absl::Hours(1);
  EXPECT_EQ(store_->Usage("t").value(), exact_);
  EXPECT_EQ(store_->SweepExpired(later).value(), 1);
  EXPECT_EQ(store_->Usage("t")->sessions, 1u);
  EXPECT_LT(store_->Usage("t")->stored_bytes, exact_.stored_bytes);
  ExpectExact(*store_);
}

TEST_F(UsageOfOne, BytesOfChunksThatWereDamagedAndHealedCountOnce) {
  const auto snapshot = store_->GetSnapshot("t", "a", "");
  const std::string chunk =
      Keys(options_.key_prefix).Chunk("t", snapshot->manifest.parts[0].chunks[0].digest);
  server_.Do({"HSET", chunk, "d", "torn"});
  EXPECT_FALSE(store_->ReadSnapshot("t", "a", "").ok());
  const Session session = store_->GetSession("t", "a").value();
  ASSERT_TRUE(
      OpenStore(options_)->PutAndCommit("t", "a", session.version, MakeTestSnapshot('a'), {}).ok());
  EXPECT_TRUE(store_->ReadSnapshot("t", "a", "").ok());
  ExpectExact(*store_);
}

}  // namespace
}  // namespace reprise::state_store::redis
