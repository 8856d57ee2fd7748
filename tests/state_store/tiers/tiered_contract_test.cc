// The contract suite of all session stores, through the tiers: commits are written behind, reads
// come from queue and cache, and nobody can tell.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "base/status_macros.h"
#include "state_store/disk_store.h"
#include "state_store/memory_store.h"
#include "state_store/redis/redis_store.h"
#include "state_store/testing/store_contract.h"
#include "state_store/tiers/tiered_store.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store {
namespace {

absl::StatusOr<std::unique_ptr<SessionStore>> Tiered(const StoreOptions& options,
                                                     TieredStoreParts parts) {
  TieredStoreOptions tiers;
  tiers.clock = options.clock;
  return TieredStore::Create(tiers, std::move(parts));
}

class OverMemory : public StoreUnderTest {
 public:
  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    ASSIGN_OR_RETURN(auto memory, CreateMemoryStore(options));
    return Tiered(options, {std::move(memory), nullptr, std::make_shared<HostCache>(1 << 20)});
  }
};

class OverDisk : public StoreUnderTest {
 public:
  OverDisk() {
    const char* base = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp";
    std::string path = std::string(base) + "/reprise_tiers_XXXXXX";
    directory_ = ::mkdtemp(path.data());
  }
  ~OverDisk() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    ASSIGN_OR_RETURN(auto opened, OpenDiskStore({.directory = directory_, .store = options}));
    // So small that most reads go to the disk.
    return Tiered(options, {std::move(opened.store), nullptr, std::make_shared<HostCache>(5000)});
  }

 private:
  std::string directory_;
};

class OverRedis : public StoreUnderTest {
 public:
  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    static testing::RedisServer server;
    auto cache = std::make_shared<HostCache>(1 << 20);
    redis::RedisStoreOptions redis;
    redis.client.url = server.url();
    redis.client.call_timeout = absl::Minutes(1);
    redis.operation_timeout = absl::Minutes(2);
    redis.store = options;
    redis.key_prefix = prefix_;
    redis.known_chunks = cache;
    ASSIGN_OR_RETURN(auto store, redis::RedisStore::Create(redis));
    LeaseTable* leases = store.get();
    return Tiered(options, {std::move(store), leases, std::move(cache)});
  }

 private:
  static int next_;
  const std::string prefix_ = "test:" + std::to_string(next_++) + ":";
};

int OverRedis::next_ = 0;

INSTANTIATE_TEST_SUITE_P(
    Tiered, StoreContract,
    ::testing::Values(StoreKind{"Memory", false, [] { return std::make_unique<OverMemory>(); },
                                true},
                      StoreKind{"Disk", true, [] { return std::make_unique<OverDisk>(); }, true},
                      StoreKind{"Redis", true, [] { return std::make_unique<OverRedis>(); }, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::state_store
