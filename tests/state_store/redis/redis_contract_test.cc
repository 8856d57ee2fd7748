// The contract suite of all session stores, on Redis.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "state_store/redis/redis_store.h"
#include "state_store/testing/store_contract.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store {
namespace {

using redis::RedisStore;
using redis::RedisStoreOptions;

// Servers are shared by the tests of one process: each place is a key prefix of its own.
template <typename Servers>
class OnRedis : public StoreUnderTest {
 public:
  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    RedisStoreOptions redis;
    redis.client.url = TheServers().url();
    redis.client.call_timeout = absl::Minutes(1);
    redis.operation_timeout = absl::Minutes(2);
    redis.store = options;
    redis.key_prefix = prefix_;
    redis.cluster_release_delay = absl::ZeroDuration();
    return RedisStore::Create(redis);
  }

 private:
  static Servers& TheServers() {
    static Servers servers;
    return servers;
  }

  static int next_;
  const std::string prefix_ = "test:" + std::to_string(next_++) + ":";
};

template <typename Servers>
int OnRedis<Servers>::next_ = 0;

INSTANTIATE_TEST_SUITE_P(
    Redis, StoreContract,
    ::testing::Values(StoreKind{"Redis", true,
                                [] { return std::make_unique<OnRedis<testing::RedisServer>>(); }},
                      StoreKind{"RedisCluster", true,
                                [] { return std::make_unique<OnRedis<testing::RedisCluster>>(); }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::state_store
