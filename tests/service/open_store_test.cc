#include "service/open_store.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "spdlog/spdlog.h"
#include "tests/testing/redis_server.h"

namespace reprise::service {
namespace {

void Share(scheduler::TieredSpill& spill, const std::string& tenant, int32_t token, size_t bytes) {
  spill.Share({tenant, "model", {token}}, std::make_shared<Bytes>(bytes, 0));
  spill.Flush();
}

TEST(OpenPrefixSpill, KeepsToTheCapsOfItsFlags) {
  testing::RedisServer server;
  StoreSettings settings;
  settings.kind = StoreSettings::Kind::kRedis;
  settings.url = server.url();
  settings.prefix_share = true;
  settings.prefix_share_timeout = absl::Minutes(1);
  settings.prefix_share_ttl = absl::Minutes(10);
  settings.prefix_share_bytes = 25000;
  settings.prefix_share_total_bytes = 45000;
  const RealClock clock;
  const auto spill = OpenPrefixSpill(settings, &clock, spdlog::default_logger());
  ASSERT_TRUE(spill.ok()) << spill.status();
  // Two of a tenant fit, and four in all.
  for (int32_t i = 0; i < 3; ++i) Share(**spill, "t", i, 10000);
  EXPECT_EQ((*spill)->stats().shared, 3);
  EXPECT_EQ((*spill)->stats().store.tenant_evictions, 1);
  for (const char* tenant : {"u", "v"}) Share(**spill, tenant, 0, 10000);
  EXPECT_EQ((*spill)->stats().store.total_evictions, 0);
  Share(**spill, "w", 0, 10000);
  EXPECT_EQ((*spill)->stats().store.total_evictions, 1);
  EXPECT_EQ((*spill)->stats().store.tenant_evictions, 1);
  EXPECT_GT((*spill)->stats().store.bytes, 40000);
  EXPECT_LE((*spill)->stats().store.bytes, 45000);
  const auto kept = server.Do({"KEYS", "reprise:1:p:*"}).elements;
  EXPECT_EQ(kept.size(), 4u);
  for (const auto& key : kept) {
    const int64_t left = server.Do({"PTTL", key.text}).integer;
    EXPECT_GT(left, 0);
    EXPECT_LE(left, 600 * 1000);
  }
}

}  // namespace
}  // namespace reprise::service
