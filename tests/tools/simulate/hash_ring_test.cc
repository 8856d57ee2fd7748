#include "tools/simulate/hash_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tools/simulate/host_tier.h"
#include "tools/simulate/random.h"

namespace reprise::simulate {
namespace {

TEST(HashRing, SpreadsKeys) {
  const HashRing ring(20, 128, 1);
  std::vector<int> counts(20);
  for (uint64_t key = 0; key < 100'000; ++key) ++counts[ring.Route(Mix64(key))];
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  EXPECT_GT(*least, 5000 * 0.7);
  EXPECT_LT(*most, 5000 * 1.3);
}

TEST(HashRing, AReplicaThatGoesMovesOnlyItsKeysAndTakesThemBack) {
  HashRing ring(10, 64, 2);
  std::vector<int> before(20'000);
  for (uint64_t key = 0; key < before.size(); ++key) before[key] = ring.Route(Mix64(key));
  ring.Remove(3);
  EXPECT_EQ(ring.size(), 9);
  std::vector<int> took(10);
  for (uint64_t key = 0; key < before.size(); ++key) {
    const int now = ring.Route(Mix64(key));
    EXPECT_NE(now, 3);
    if (before[key] == 3) {
      ++took[now];
    } else {
      EXPECT_EQ(now, before[key]);
    }
  }
  EXPECT_GE(std::count_if(took.begin(), took.end(), [](int n) { return n > 0; }), 8);
  ring.Add(3);
  for (uint64_t key = 0; key < before.size(); ++key) {
    EXPECT_EQ(ring.Route(Mix64(key)), before[key]);
  }
  for (int replica = 0; replica < 10; ++replica) ring.Remove(replica);
  EXPECT_EQ(ring.Route(5), -1);
  EXPECT_EQ(ring.RouteBounded(5, std::vector<int32_t>(10), 0, 1.25), -1);
}

TEST(HashRing, BoundedLoadsHold) {
  const HashRing ring(8, 16, 3);
  for (const double bound : {1.0, 1.1, 1.5}) {
    std::vector<int32_t> loads(8);
    for (int64_t total = 0; total < 1000; ++total) {
      ++loads[ring.RouteBounded(Mix64(total, 9), loads, total, bound)];
      const double limit = std::ceil(bound * static_cast<double>(total + 1) / 8);
      EXPECT_LE(*std::max_element(loads.begin(), loads.end()), limit);
    }
  }
  // Where nothing is full the key goes to its own replica.
  EXPECT_EQ(ring.RouteBounded(Mix64(1), std::vector<int32_t>(8), 100, 1.25), ring.Route(Mix64(1)));
}

TEST(HostTier, EvictsTheLeastRecentlyPut) {
  HostTier tier(2);
  EXPECT_FALSE(tier.Has(0));
  const uint64_t a = tier.Put(), b = tier.Put();
  EXPECT_TRUE(tier.Has(a) && tier.Has(b));
  const uint64_t c = tier.Put();
  EXPECT_FALSE(tier.Has(a));
  EXPECT_TRUE(tier.Has(b) && tier.Has(c));
  tier.Drop(c);
  tier.Drop(c);
  EXPECT_EQ(tier.size(), 1);
  const uint64_t d = tier.Put();  // takes the dropped one's room, not b's
  EXPECT_TRUE(tier.Has(b) && tier.Has(d));
  tier.Clear();
  EXPECT_FALSE(tier.Has(b) || tier.Has(d));
  const uint64_t e = tier.Put();
  EXPECT_TRUE(tier.Has(e));
  EXPECT_FALSE(tier.Has(b));
  EXPECT_EQ(tier.size(), 1);
}

TEST(HostTier, OfNoRoomKeepsNothing) {
  HostTier tier(0);
  EXPECT_FALSE(tier.Has(tier.Put()));
  EXPECT_EQ(tier.size(), 0);
}

}  // namespace
}  // namespace reprise::simulate
