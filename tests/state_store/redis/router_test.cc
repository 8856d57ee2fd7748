#include "state_store/redis/router.h"

#include <gtest/gtest.h>

#include "state_store/redis/script.h"

namespace reprise::state_store::redis {
namespace {

TEST(KeySlot, AgreesWithTheSpecification) {
  EXPECT_EQ(KeySlot("123456789"), 0x31C3);
  EXPECT_EQ(KeySlot(""), 0);
  EXPECT_EQ(KeySlot("foo"), 12182);
  EXPECT_EQ(KeySlot("{user1000}.following"), KeySlot("{user1000}.followers"));
  EXPECT_EQ(KeySlot("{user1000}.following"), KeySlot("user1000"));
  EXPECT_EQ(KeySlot("foo{}{bar}"), KeySlot("foo{}{bar}"));
  EXPECT_NE(KeySlot("foo{}{bar}"), KeySlot("bar"));
  EXPECT_EQ(KeySlot("foo{{bar}}zap"), KeySlot("{bar"));
  EXPECT_EQ(KeySlot("foo{bar}{zap}"), KeySlot("bar"));
}

TEST(ParseRedirection, ReadsMovedAndAsk) {
  const Endpoint from{.host = "old", .port = 1};
  auto moved = ParseRedirection("redis: MOVED 3999 10.0.0.2:6381", from);
  ASSERT_TRUE(moved.has_value());
  EXPECT_FALSE(moved->ask);
  EXPECT_EQ(moved->slot, 3999);
  EXPECT_EQ(moved->target.ToString(), "10.0.0.2:6381");
  auto ask = ParseRedirection("ASK 5 :7", from);
  ASSERT_TRUE(ask.has_value());
  EXPECT_TRUE(ask->ask);
  EXPECT_EQ(ask->target.ToString(), "old:7");
  EXPECT_EQ(ParseRedirection("MOVED 5 2001:db8::1:7", from)->target.ToString(), "[2001:db8::1]:7");
  for (const auto* bad : {"MOVED", "MOVED 16384 h:1", "MOVED x h:1", "MOVED 1 h", "MOVED 1 h:0",
                          "ASK 1 h:70000", "nothing"}) {
    EXPECT_FALSE(ParseRedirection(bad, from).has_value()) << bad;
  }
}

TEST(Script, IsNamedAsRedisNamesIt) {
  const Script script("one", "return 1");
  EXPECT_EQ(script.sha1(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
}

}  // namespace
}  // namespace reprise::state_store::redis
