#include "state_store/redis/redis_blobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisServer;
using testing::WaitUntil;

RedisBlobOptions OptionsFor(const std::string& url) {
  RedisBlobOptions options;
  options.client.url = url;
  options.client.call_timeout = absl::Seconds(20);
  options.timeout = absl::Minutes(2);
  return options;
}

std::unique_ptr<BlobStore> Open(const RedisBlobOptions& options) {
  auto blobs = MakeRedisBlobs(options);
  EXPECT_TRUE(blobs.ok()) << blobs.status();
  return *std::move(blobs);
}

Sha256Digest Name(int i) { return Sha256(std::to_string(i)); }

bool Has(BlobStore& blobs, const std::string& tenant, int i) {
  return blobs.Get(tenant, Name(i)).ok();
}

TEST(RedisBlobs, RefusesBadOptions) {
  const auto refused = [](auto change) {
    RedisBlobOptions options = OptionsFor("redis://127.0.0.1:1");
    change(options);
    return MakeRedisBlobs(options).status().code() == absl::StatusCode::kInvalidArgument;
  };
  using O = RedisBlobOptions;
  EXPECT_TRUE(refused([](O& o) { o.client.url = ""; }));
  EXPECT_TRUE(refused([](O& o) { o.key_prefix = "{a}"; }));
  EXPECT_TRUE(refused([](O& o) { o.ttl = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](O& o) { o.ttl = absl::InfiniteDuration(); }));
  EXPECT_TRUE(refused([](O& o) { o.max_tenant_bytes = 0; }));
  EXPECT_TRUE(refused([](O& o) { o.timeout = absl::ZeroDuration(); }));
  EXPECT_FALSE(refused([](O&) {}));
}

TEST(RedisBlobs, ServersShareThemAndTenantsDoNot) {
  RedisServer server;
  const auto a = Open(OptionsFor(server.url())), b = Open(OptionsFor(server.url()));
  const std::string bytes("\0any bytes\r\n{}", 14);
  ASSERT_EQ(a->Put("t", Name(1), bytes), absl::OkStatus());
  EXPECT_EQ(b->Get("t", Name(1)).value(), bytes);
  EXPECT_EQ(b->Get("u", Name(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(b->Get("t", Name(2)).status().code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(b->Erase("u", Name(1)), absl::OkStatus());
  EXPECT_TRUE(Has(*a, "t", 1));
  ASSERT_EQ(b->Erase("t", Name(1)), absl::OkStatus());
  EXPECT_FALSE(Has(*a, "t", 1));
  EXPECT_EQ(b->Erase("t", Name(1)), absl::OkStatus());
}

TEST(RedisBlobs, TheOldestMakeRoomWithinTheTenantsCap) {
  RedisServer server;
  RedisBlobOptions options = OptionsFor(server.url());
  options.max_tenant_bytes = 1000;
  const auto blobs = Open(options);
  ASSERT_EQ(blobs->Put("other", Name(9), std::string(900, 'o')), absl::OkStatus());
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(blobs->Put("t", Name(i), std::string(250, 'x')), absl::OkStatus());
  }
  // Again: it is the youngest now, and counts once.
  ASSERT_EQ(blobs->Put("t", Name(0), std::string(250, 'x')), absl::OkStatus());
  EXPECT_TRUE(Has(*blobs, "t", 1));
  ASSERT_EQ(blobs->Put("t", Name(4), std::string(300, 'x')), absl::OkStatus());
  EXPECT_FALSE(Has(*blobs, "t", 1));
  EXPECT_FALSE(Has(*blobs, "t", 2));
  EXPECT_TRUE(Has(*blobs, "t", 3));
  EXPECT_TRUE(Has(*blobs, "t", 0));
  EXPECT_TRUE(Has(*blobs, "t", 4));
  EXPECT_TRUE(Has(*blobs, "other", 9));
  // What is erased does not count any more: 250 + 250 + 300 - 300 + 500 is the cap.
  ASSERT_EQ(blobs->Erase("t", Name(4)), absl::OkStatus());
  ASSERT_EQ(blobs->Put("t", Name(5), std::string(500, 'x')), absl::OkStatus());
  EXPECT_TRUE(Has(*blobs, "t", 3));
  EXPECT_EQ(blobs->Put("t", Name(6), std::string(1001, 'x')).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Has(*blobs, "t", 5));
}

TEST(RedisBlobs, GoByThemselvesAndLeaveNothing) {
  RedisServer server;
  RedisBlobOptions options = OptionsFor(server.url());
  options.ttl = absl::Milliseconds(50);
  options.max_tenant_bytes = 1000;
  const auto blobs = Open(options);
  ASSERT_EQ(blobs->Put("t", Name(1), std::string(900, 'x')), absl::OkStatus());
  ASSERT_EQ(blobs->AddNote("t", Name(1), "note"), absl::OkStatus());
  ASSERT_TRUE(WaitUntil([&] { return !Has(*blobs, "t", 1); }));
  ASSERT_TRUE(WaitUntil([&] { return blobs->Notes("t", {Name(1)}).value().front().empty(); }));
  // Its bytes do not count any more either.
  options.ttl = absl::Hours(1);
  const auto longer = Open(options);
  ASSERT_TRUE(WaitUntil([&] {
    return longer->Put("t", Name(2), std::string(400, 'x')).ok() &&
           server.Do({"ZCARD", "reprise:1:v:{t}"}).integer == 2;  // it, and the sum
  }));
  ASSERT_EQ(longer->Put("t", Name(3), std::string(600, 'x')), absl::OkStatus());
  EXPECT_TRUE(Has(*longer, "t", 2));
  // Every key goes with time.
  for (const Reply& key : server.Do({"KEYS", "*"}).elements) {
    EXPECT_GT(server.Do({"PTTL", key.text}).integer, 0) << key.text;
  }
}

TEST(RedisBlobs, OneThatRedisDroppedIsWrittenAgain) {
  RedisServer server;
  const auto blobs = Open(OptionsFor(server.url()));
  ASSERT_EQ(blobs->Put("t", Name(1), "bytes"), absl::OkStatus());
  server.Do({"DEL", "reprise:1:p:{t:" + HexDigest(Name(1)) + "}"});
  ASSERT_EQ(blobs->Put("t", Name(1), "bytes"), absl::OkStatus());
  EXPECT_EQ(blobs->Get("t", Name(1)).value(), "bytes");
}

TEST(RedisBlobs, NotesAreFew) {
  RedisServer server;
  const auto blobs = Open(OptionsFor(server.url()));
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(blobs->AddNote("t", Name(1), "n" + std::to_string(i)), absl::OkStatus());
  }
  ASSERT_EQ(blobs->AddNote("t", Name(2), "m"), absl::OkStatus());
  ASSERT_EQ(blobs->AddNote("t", Name(2), "m"), absl::OkStatus());
  const auto notes = blobs->Notes("t", {Name(1), Name(3), Name(2)}).value();
  ASSERT_EQ(notes.size(), 3u);
  EXPECT_EQ(notes[0].size(), static_cast<size_t>(BlobStore::kMostNotes));
  EXPECT_EQ(std::count(notes[0].begin(), notes[0].end(), "n39"), 1);
  EXPECT_TRUE(notes[1].empty());
  EXPECT_EQ(notes[2], std::vector<std::string>{"m"});
  EXPECT_TRUE(blobs->Notes("u", {Name(1)}).value().front().empty());
}

TEST(RedisBlobs, AServerThatHangsOrIsGoneIsAnError) {
  RedisServer server;
  RedisBlobOptions options = OptionsFor(server.url());
  options.timeout = absl::Milliseconds(100);
  options.client.call_timeout = options.client.connect_timeout = absl::Milliseconds(100);
  const auto blobs = Open(options);
  server.Pause();
  EXPECT_FALSE(blobs->Put("t", Name(1), "bytes").ok());
  EXPECT_FALSE(absl::IsNotFound(blobs->Get("t", Name(1)).status()));
  server.Resume();
  server.Kill();
  EXPECT_FALSE(absl::IsNotFound(blobs->Get("t", Name(1)).status()));
  EXPECT_FALSE(blobs->Notes("t", {Name(1)}).ok());
}

TEST(RedisBlobs, AClusterSpreadsThem) {
  testing::RedisCluster cluster;
  RedisBlobOptions options = OptionsFor(cluster.url());
  options.max_tenant_bytes = 20 * 100;
  const auto blobs = Open(options);
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(blobs->Put("t", Name(i), std::string(100, 'x')), absl::OkStatus());
    ASSERT_EQ(blobs->AddNote("t", Name(i), "n"), absl::OkStatus());
  }
  for (int i = 0; i < 30; ++i) EXPECT_EQ(Has(*blobs, "t", i), i >= 10) << i;
  const auto notes = blobs->Notes("t", {Name(0), Name(1), Name(2)}).value();
  for (const auto& each : notes) EXPECT_EQ(each, std::vector<std::string>{"n"});
}

}  // namespace
}  // namespace reprise::state_store::redis
