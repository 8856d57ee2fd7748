#include "state_store/redis/redis_blobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
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

// The members of a list, and that its sum is theirs.
std::vector<std::string> Members(RedisServer& server, const std::string& list) {
  std::vector<std::string> members;
  int64_t bytes = 0, sum = 0;
  for (const Reply& member : server.Do({"ZRANGE", list, "0", "-1"}).elements) {
    if (member.text.empty()) continue;
    int64_t each = 0;
    EXPECT_TRUE(absl::SimpleAtoi(member.text.substr(member.text.rfind(':') + 1), &each));
    bytes += each;
    members.push_back(member.text);
  }
  const std::string score = server.Do({"ZSCORE", list, ""}).text;
  EXPECT_TRUE(score.empty() || absl::SimpleAtoi(score, &sum)) << score;
  EXPECT_EQ(bytes, -sum) << list;
  return members;
}

// While nobody writes: every blob is in its tenant's list and in that of all, which keep to the
// caps.
void ExpectCounted(RedisServer& server, const RedisBlobOptions& options) {
  const std::vector<std::string> all = Members(server, "reprise:1:blobs");
  const std::string front = "reprise:1:p:{";
  std::map<std::string, int64_t> bytes;
  int64_t total = 0;
  for (const Reply& key : server.Do({"KEYS", front + "*"}).elements) {
    const std::string inner = key.text.substr(front.size(), key.text.size() - front.size() - 1);
    const std::string tenant = inner.substr(0, inner.find(':'));
    const int64_t length = server.Do({"STRLEN", key.text}).integer;
    bytes[tenant] += length;
    total += length;
    EXPECT_EQ(std::count(all.begin(), all.end(), inner + ":" + std::to_string(length)), 1) << inner;
    const auto own = Members(server, "reprise:1:v:{" + tenant + "}");
    const std::string member = inner.substr(tenant.size() + 1) + ":" + std::to_string(length);
    EXPECT_EQ(std::count(own.begin(), own.end(), member), 1) << inner;
  }
  EXPECT_LE(total, options.max_total_bytes);
  for (const auto& [tenant, each] : bytes) EXPECT_LE(each, options.max_tenant_bytes) << tenant;
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
  EXPECT_TRUE(refused([](O& o) { o.max_total_bytes = 0; }));
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

TEST(RedisBlobs, TheOldestOfAllTenantsMakeRoomWithinTheTotal) {
  RedisServer server;
  RedisBlobOptions options = OptionsFor(server.url());
  options.max_tenant_bytes = 600;
  options.max_total_bytes = 1000;
  const auto blobs = Open(options), another = Open(options);
  const auto put = [&](BlobStore& by, const std::string& tenant, int i, size_t bytes) {
    ASSERT_EQ(by.Put(tenant, Name(i), std::string(bytes, 'x')), absl::OkStatus());
    ExpectCounted(server, options);
  };
  put(*blobs, "a:{1}", 1, 300);
  put(*another, "u", 2, 300);
  put(*blobs, "u", 3, 300);
  EXPECT_EQ(blobs->stats().bytes, 900);
  // Beyond both caps: what goes of its own makes room in all.
  put(*blobs, "u", 4, 200);
  EXPECT_FALSE(Has(*blobs, "u", 2));
  EXPECT_TRUE(Has(*blobs, "a:{1}", 1));
  EXPECT_EQ(blobs->stats().bytes, 800);
  EXPECT_EQ(blobs->stats().tenant_evictions, 1);
  EXPECT_EQ(blobs->stats().total_evictions, 0);
  // Again: the youngest now, though it was the oldest, and counted once.
  put(*another, "a:{1}", 1, 300);
  EXPECT_EQ(another->stats().bytes, 800);
  put(*another, "w", 5, 400);
  EXPECT_FALSE(Has(*blobs, "u", 3));
  EXPECT_TRUE(Has(*blobs, "u", 4));
  EXPECT_TRUE(Has(*blobs, "a:{1}", 1));
  EXPECT_EQ(another->stats().bytes, 900);
  EXPECT_EQ(another->stats().total_evictions, 1);
  EXPECT_EQ(another->stats().tenant_evictions, 0);
  // The cap to the byte, and one more.
  put(*blobs, "w", 6, 100);
  EXPECT_EQ(blobs->stats().total_evictions, 0);
  put(*blobs, "u", 7, 1);
  EXPECT_FALSE(Has(*blobs, "u", 4));
  EXPECT_EQ(blobs->stats().total_evictions, 1);
  // What is erased does not count any more.
  ASSERT_EQ(another->Erase("w", Name(5)), absl::OkStatus());
  put(*blobs, "u", 8, 599);
  EXPECT_TRUE(Has(*blobs, "a:{1}", 1));
  EXPECT_TRUE(Has(*blobs, "w", 6));
  EXPECT_TRUE(Has(*blobs, "u", 7));
  EXPECT_EQ(blobs->stats().bytes, 1000);
  // Of whatever name.
  put(*blobs, "x", 10, 600);
  EXPECT_FALSE(Has(*blobs, "a:{1}", 1));
  options.max_total_bytes = 500;
  EXPECT_EQ(Open(options)->Put("t", Name(9), std::string(501, 'x')).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(RedisBlobs, ServersOfDifferentTimesToLive) {
  RedisServer server;
  RedisBlobOptions options = OptionsFor(server.url());
  options.max_total_bytes = 1000;
  const auto hours = Open(options);
  options.ttl = absl::Hours(2);
  const auto longer = Open(options);
  options.ttl = absl::Minutes(1);
  const auto minutes = Open(options);
  ASSERT_EQ(hours->Put("t", Name(1), std::string(500, 'x')), absl::OkStatus());
  const std::string key = "reprise:1:p:{t:" + HexDigest(Name(1)) + "}";
  ASSERT_EQ(longer->Put("t", Name(1), std::string(500, 'x')), absl::OkStatus());
  EXPECT_GT(server.Do({"PTTL", key}).integer, 3600 * 1000);  // another Put, another life
  EXPECT_LE(server.Do({"PTTL", key}).integer, 2 * 3600 * 1000);
  ASSERT_EQ(longer->Put("t", Name(2), std::string(500, 'x')), absl::OkStatus());
  // It is the first to go by its time, but not for its own sake; the lists outlive all.
  ASSERT_EQ(minutes->Put("t", Name(3), std::string(400, 'x')), absl::OkStatus());
  EXPECT_TRUE(Has(*hours, "t", 3));
  EXPECT_FALSE(Has(*hours, "t", 1));
  for (const char* list : {"reprise:1:v:{t}", "reprise:1:blobs"}) {
    EXPECT_GT(server.Do({"PTTL", list}).integer, 2 * 3600 * 1000) << list;
  }
  ExpectCounted(server, options);
}

TEST(RedisBlobs, ASmallerCapIsKeptFromTheNextPutOn) {
  RedisServer server;
  RedisBlobOptions options = OptionsFor(server.url());
  const auto blobs = Open(options);
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(blobs->Put(i % 2 == 0 ? "t" : "u", Name(i), "12345"), absl::OkStatus());
  }
  options.max_total_bytes = 20;
  const auto smaller = Open(options);
  ASSERT_EQ(smaller->Put("v", Name(600), "12345"), absl::OkStatus());
  ExpectCounted(server, options);
  EXPECT_EQ(smaller->stats().bytes, 20);
  EXPECT_EQ(smaller->stats().total_evictions, 597);
  for (int i = 597; i < 600; ++i) EXPECT_TRUE(Has(*blobs, i % 2 == 0 ? "t" : "u", i)) << i;
}

// Two servers, one of them held up at the worst moment.
class RedisBlobsBetween : public ::testing::Test {
 protected:
  RedisBlobsBetween() {
    options_.max_tenant_bytes = 800;
    options_.max_total_bytes = 1000;
    other_ = Open(options_);
    RedisBlobOptions through = options_;
    through.client.url = proxy_.url();
    held_up_ = Open(through);
  }
  void PutByOther(const std::string& tenant, int i, size_t bytes) {
    EXPECT_EQ(other_->Put(tenant, Name(i), std::string(bytes, 'x')), absl::OkStatus());
  }
  absl::Status PutHeldUp(const std::string& tenant, int i, size_t bytes) {
    return held_up_->Put(tenant, Name(i), std::string(bytes, 'x'));
  }

  RedisServer server_;
  FaultProxy proxy_{server_.port()};
  RedisBlobOptions options_ = OptionsFor(server_.url());
  std::unique_ptr<BlobStore> other_, held_up_;
};

TEST_F(RedisBlobsBetween, OneThatIsEvictedBeforeItIsWrittenDoesNotStay) {
  proxy_.Before("PSETEX", 1, [&] {
    PutByOther("u", 2, 700);
    return true;
  });
  EXPECT_EQ(PutHeldUp("t", 1, 400), absl::OkStatus());
  EXPECT_EQ(other_->stats().total_evictions, 1);
  EXPECT_FALSE(Has(*other_, "t", 1));
  EXPECT_TRUE(Has(*other_, "u", 2));
  ExpectCounted(server_, options_);
  // The same by the tenant's cap.
  proxy_.Before("PSETEX", 1, [&] {
    PutByOther("u", 4, 750);
    return true;
  });
  EXPECT_EQ(PutHeldUp("u", 3, 100), absl::OkStatus());
  EXPECT_FALSE(Has(*other_, "u", 3));
  EXPECT_TRUE(Has(*other_, "u", 4));
  ExpectCounted(server_, options_);
}

TEST_F(RedisBlobsBetween, OneThatIsWrittenWhileItIsEvictedDoesNotStayUncounted) {
  PutByOther("u", 1, 400);
  proxy_.Before("drop", 1, [&] {
    EXPECT_FALSE(Has(*other_, "u", 1));
    PutByOther("u", 1, 400);
    EXPECT_TRUE(Has(*other_, "u", 1));
    return true;
  });
  EXPECT_EQ(PutHeldUp("t", 2, 700), absl::OkStatus());
  ExpectCounted(server_, options_);
}

TEST_F(RedisBlobsBetween, AServerThatDiesWhileItMakesRoomLeavesNothingUncounted) {
  for (const auto& [text, nth] : {std::pair("UNLINK", 1), std::pair("drop", 1)}) {
    PutByOther("u", 1, 400);
    PutByOther("v", 2, 500);
    proxy_.Before(text, nth, [&] {
      proxy_.Refuse(true);
      return false;
    });
    options_.timeout = absl::Milliseconds(200);
    RedisBlobOptions through = options_;
    through.client.url = proxy_.url();
    EXPECT_FALSE(Open(through)->Put("t", Name(3), std::string(700, 'x')).ok());
    proxy_.Refuse(false);
    PutByOther("w", 4, 1);
    ExpectCounted(server_, options_);
    EXPECT_FALSE(Has(*other_, "u", 1)) << text;
    for (const auto& [tenant, i] : {std::pair("v", 2), std::pair("w", 4)}) {
      EXPECT_EQ(other_->Erase(tenant, Name(i)), absl::OkStatus());
    }
    server_.Do({"DEL", "reprise:1:blobs", "reprise:1:v:{t}"});
  }
}

TEST_F(RedisBlobsBetween, ServersThatWriteAndEraseAtOnceKeepToTheCaps) {
  std::vector<std::thread> servers;
  for (int each = 0; each < 4; ++each) {
    servers.emplace_back([&, each] {
      const auto blobs = Open(options_);
      std::mt19937 random(each);
      for (int i = 0; i < 250; ++i) {
        const int name = static_cast<int>(random() % 12);
        const std::string tenant(1, static_cast<char>('a' + name % 3));
        if (random() % 8 == 0) {
          EXPECT_EQ(blobs->Erase(tenant, Name(name)), absl::OkStatus());
        } else {
          EXPECT_EQ(blobs->Put(tenant, Name(name), std::string(150 + 20 * name, 'x')),
                    absl::OkStatus());
        }
      }
    });
  }
  for (std::thread& server : servers) server.join();
  ExpectCounted(server_, options_);
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
  options.max_total_bytes = 25 * 100;
  const auto blobs = Open(options);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(blobs->Put("u", Name(i), std::string(100, 'x')), absl::OkStatus());
  }
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(blobs->Put("t", Name(i), std::string(100, 'x')), absl::OkStatus());
    ASSERT_EQ(blobs->AddNote("t", Name(i), "n"), absl::OkStatus());
  }
  for (int i = 0; i < 30; ++i) EXPECT_EQ(Has(*blobs, "t", i), i >= 10) << i;
  const auto notes = blobs->Notes("t", {Name(0), Name(1), Name(2)}).value();
  for (const auto& each : notes) EXPECT_EQ(each, std::vector<std::string>{"n"});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Has(*blobs, "u", i)) << i;
  EXPECT_EQ(blobs->stats().bytes, 25 * 100);
  EXPECT_EQ(blobs->stats().tenant_evictions, 10);
  ASSERT_EQ(blobs->Put("v", Name(0), std::string(250, 'x')), absl::OkStatus());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Has(*blobs, "u", i), i >= 3) << i;
  EXPECT_EQ(blobs->stats().total_evictions, 3);
}

}  // namespace
}  // namespace reprise::state_store::redis
