// What the tests of the Redis store share.
#ifndef REPRISE_TESTS_STATE_STORE_REDIS_STORE_TEST_UTIL_H_
#define REPRISE_TESTS_STATE_STORE_REDIS_STORE_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "state_store/redis/redis_store.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store::redis {

inline RedisStoreOptions OptionsFor(const std::string& url) {
  RedisStoreOptions options;
  options.client.url = url;
  options.client.call_timeout = absl::Seconds(20);
  options.operation_timeout = absl::Minutes(2);
  options.store.chunk_bytes = 512;
  options.cluster_release_delay = absl::ZeroDuration();
  return options;
}

inline std::unique_ptr<RedisStore> OpenStore(const RedisStoreOptions& options) {
  auto store = RedisStore::Create(options);
  EXPECT_TRUE(store.ok()) << store.status();
  return *std::move(store);
}

inline std::unique_ptr<RedisStore> OpenStore(const std::string& url) {
  return OpenStore(OptionsFor(url));
}

// Collects as if every pin without a manifest were old. Only while nobody writes.
inline GarbageReport CollectAll(RedisStoreOptions options) {
  options.pin_grace = absl::Microseconds(1);
  const auto report = OpenStore(options)->CollectGarbage();
  EXPECT_TRUE(report.ok()) << report.status();
  return report.value_or(GarbageReport{});
}

// Whether the head of `session_id` is, whole, the test snapshot that its position says.
inline void ExpectSoundHead(RedisStore& store, const std::string& session_id,
                            const std::string& tenant = "t") {
  const auto read = store.ReadSnapshot(tenant, session_id, "");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(SameState(MakeTestSnapshot(read->manifest.position - 1), *read));
}

}  // namespace reprise::state_store::redis

#endif  // REPRISE_TESTS_STATE_STORE_REDIS_STORE_TEST_UTIL_H_
