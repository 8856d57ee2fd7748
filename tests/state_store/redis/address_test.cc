#include "state_store/redis/address.h"

#include <gtest/gtest.h>

#include <string>

namespace reprise::state_store::redis {
namespace {

struct Good {
  std::string url;
  Topology topology;
  std::string endpoints;  // joined by ' '
  bool tls;
  std::string user, password, service;
  int db;
};

TEST(ParseAddress, ReadsEveryForm) {
  const Good rows[] = {
      {"redis://h", Topology::kSingle, "h:6379", false, "", "", "", 0},
      {"redis://h:1/7", Topology::kSingle, "h:1", false, "", "", "", 7},
      {"rediss://u:p@h:2", Topology::kSingle, "h:2", true, "u", "p", "", 0},
      {"redis://:p%40%3a/@h", Topology::kSingle, "", false, "", "", "", 0},
      {"redis://:p%40%3A@h", Topology::kSingle, "h:6379", false, "", "p@:", "", 0},
      {"redis://u:p@q@h", Topology::kSingle, "h:6379", false, "u", "p@q", "", 0},
      {"redis://[::1]:5/1", Topology::kSingle, "[::1]:5", false, "", "", "", 1},
      {"redis://[::1]", Topology::kSingle, "[::1]:6379", false, "", "", "", 0},
      {"unix:///run/r.sock", Topology::kSingle, "unix:/run/r.sock", false, "", "", "", 0},
      {"unix://u:p@/r%20s?db=3", Topology::kSingle, "unix:/r s", false, "u", "p", "", 3},
      {"redis-sentinel://a,b:7/main", Topology::kSentinel, "a:26379 b:7", false, "", "", "main", 0},
      {"rediss-sentinel://u:p@a/m/2", Topology::kSentinel, "a:26379", true, "u", "p", "m", 2},
      {"redis-cluster://a:1,[::2]:3", Topology::kCluster, "a:1 [::2]:3", false, "", "", "", 0},
  };
  for (const Good& row : rows) {
    SCOPED_TRACE(row.url);
    const auto address = ParseAddress(row.url);
    if (row.endpoints.empty()) {
      EXPECT_FALSE(address.ok());
      continue;
    }
    ASSERT_TRUE(address.ok()) << address.status();
    std::string endpoints;
    for (const Endpoint& endpoint : address->endpoints) {
      endpoints += (endpoints.empty() ? "" : " ") + endpoint.ToString();
    }
    EXPECT_EQ(endpoints, row.endpoints);
    EXPECT_EQ(address->topology, row.topology);
    EXPECT_EQ(address->tls, row.tls);
    EXPECT_EQ(address->user, row.user);
    EXPECT_EQ(address->password, row.password);
    EXPECT_EQ(address->service, row.service);
    EXPECT_EQ(address->db, row.db);
  }
}

TEST(ParseAddress, RefusesTheRestAndNeverShowsThePassword) {
  for (const std::string url : {"",
                                "redis:",
                                "http://h",
                                "redis://",
                                "redis://h:0",
                                "redis://h:65536",
                                "redis://h:x",
                                "redis://h/x",
                                "redis://h/-1",
                                "redis://a,b",
                                "redis://u:secret%4@h",
                                "redis://u@h",
                                "redis://::1",
                                "redis://[::1",
                                "redis://[::1]x",
                                "redis://:secret@",
                                "unix://r.sock",
                                "unix:///r?x=1",
                                "unix://",
                                "redis-sentinel://a",
                                "redis-sentinel://a/",
                                "redis-cluster://a/1",
                                "redis-cluster://a,,b",
                                "redis://:secret@h:99999"}) {
    const auto address = ParseAddress(url);
    ASSERT_FALSE(address.ok()) << url;
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << url;
    EXPECT_EQ(std::string(address.status().message()).find("secret"), std::string::npos);
  }
}

}  // namespace
}  // namespace reprise::state_store::redis
