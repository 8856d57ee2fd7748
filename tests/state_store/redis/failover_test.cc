// The client against sentinels and clusters.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "state_store/redis/client.h"
#include "state_store/redis/error.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisCluster;
using testing::RedisSentinelSetup;

const Script kOnce("once",
                   "if redis.call('HSETNX', KEYS[1], ARGV[1], '1') == 1 then "
                   "redis.call('HINCRBY', KEYS[1], 'n', 1) end "
                   "return redis.call('HGET', KEYS[1], 'n')");

Deadline Patient() { return DeadlineAfter(absl::Minutes(2)); }

std::unique_ptr<Client> MakeClient(const std::string& url) {
  auto client = Client::Create({.url = url});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

TEST(Sentinel, FollowsTheMasterUnderLoad) {
  RedisSentinelSetup setup(2);
  const auto client = MakeClient(setup.url());
  std::atomic<bool> stop = false;
  std::atomic<int> done = 0, failed = 0;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) {
      const Answer answer = client->Run(Eval(kOnce, "k", {std::to_string(i)}), Patient());
      if (answer.reply.ok()) {
        ++done;
      } else {
        ++failed;
      }
    }
  });
  EXPECT_TRUE(testing::WaitUntil([&] { return done > 50; }));
  testing::RedisServer* old = setup.master();
  ASSERT_NE(old, nullptr);
  old->Kill();
  EXPECT_TRUE(testing::WaitUntil([&] {
    testing::RedisServer* now = setup.master();
    return now != nullptr && now != old;
  }));
  const int before = done;
  EXPECT_TRUE(testing::WaitUntil([&] { return done > before + 50; }));
  // The old master comes back as a replica: nobody writes to it any more.
  old->Start();
  EXPECT_TRUE(testing::WaitUntil([&] { return old->Info("role") == "slave"; }));
  const int after = done;
  EXPECT_TRUE(testing::WaitUntil([&] { return done > after + 50; }));
  stop = true;
  writer.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(client->ConnectionCounts().second, 0);
}

TEST(Sentinel, SaysWhatIsMissing) {
  RedisSentinelSetup setup(0);
  const auto unknown = MakeClient(setup.url() + "x");
  // Long enough that a busy machine tries once.
  const auto soon = [] { return DeadlineAfter(absl::Seconds(1)); };
  const Answer answer = unknown->Run(Eval(kOnce, "k", {"1"}), soon());
  EXPECT_TRUE(absl::IsUnavailable(answer.reply.status())) << answer.reply.status();
  EXPECT_NE(std::string(answer.reply.status().message()).find("mainx"), std::string::npos);
  for (auto& sentinel : setup.sentinels()) sentinel->Kill();
  const auto client = MakeClient(setup.url());
  const Answer none = client->Run(Eval(kOnce, "k", {"1"}), soon());
  EXPECT_TRUE(absl::IsUnavailable(none.reply.status())) << none.reply.status();
  // One of three is enough.
  setup.sentinels()[2]->Start();
  EXPECT_TRUE(client->Run(Eval(kOnce, "k", {"1"}), Patient()).reply.ok());
}

TEST(Cluster, SpreadsKeysAndFollowsMovedSlots) {
  RedisCluster cluster(3);
  const auto client = MakeClient(cluster.url());
  std::vector<Command> commands;
  for (int i = 0; i < 300; ++i) commands.push_back(Eval(kOnce, "k" + std::to_string(i), {"a"}));
  for (const Answer& answer : client->Run(commands, Patient())) {
    ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  }
  for (auto& node : cluster.nodes()) EXPECT_GT(node->Do({"DBSIZE"}).integer, 50);
  const auto masters = client->Masters(Patient());
  ASSERT_TRUE(masters.ok());
  EXPECT_EQ(masters->size(), 3u);

  const uint16_t slot = KeySlot("k7");
  const int from = cluster.OwnerOf(slot), to = (from + 1) % 3;
  cluster.MoveSlot(slot, from, to, /*finish=*/false);
  // In between: ASK for what has moved and for what is new.
  Answer answer = client->Run(Eval(kOnce, "k7", {"b"}), Patient());
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(answer.reply->text, "2");
  EXPECT_TRUE(client->Run(Eval(kOnce, "new{k7}", {"b"}), Patient()).reply.ok());
  cluster.FinishMove(slot, from, to);
  answer = client->Run(Eval(kOnce, "k7", {"c"}), Patient());
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(answer.reply->text, "3");
  EXPECT_EQ(cluster.nodes()[to]->Do({"HGET", "k7", "n"}).text, "3");
}

TEST(Cluster, MovesSlotsUnderLoad) {
  RedisCluster cluster(3);
  const auto client = MakeClient(cluster.url());
  std::atomic<bool> stop = false;
  std::atomic<int> failed = 0;
  std::vector<std::thread> writers;
  std::atomic<int> counts[4] = {};
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      const std::string key = std::to_string(t) + "{moving}";
      for (int i = 0; !stop; ++i) {
        const Answer answer = client->Run(Eval(kOnce, key, {std::to_string(i)}), Patient());
        if (!answer.reply.ok()) ++failed;
        ++counts[t];
      }
    });
  }
  const uint16_t slot = KeySlot("{moving}");
  int owner = cluster.OwnerOf(slot);
  for (int round = 0; round < 10; ++round) {
    const int next = (owner + 1) % 3;
    cluster.MoveSlot(slot, owner, next, /*finish=*/true);
    EXPECT_TRUE(testing::WaitUntil([&] { return cluster.OwnerOf(slot) == next; }));
    owner = next;
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(failed, 0);
  for (int t = 0; t < 4; ++t) {
    const Answer answer =
        client->Run(Eval(kOnce, std::to_string(t) + "{moving}", {"0"}), Patient());
    ASSERT_TRUE(answer.reply.ok());
    EXPECT_EQ(answer.reply->text, std::to_string(counts[t]));  // each once
  }
}

TEST(Cluster, SurvivesAMaster) {
  RedisCluster cluster(3, 1);
  const auto client = MakeClient(cluster.url());
  const uint16_t slot = KeySlot("k");
  ASSERT_TRUE(client->Run(Eval(kOnce, "k", {"a"}), Patient()).reply.ok());
  const int owner = cluster.OwnerOf(slot);
  ASSERT_GE(owner, 0);
  cluster.nodes()[owner]->Kill();
  const Answer answer = client->Run(Eval(kOnce, "k", {"b"}), Patient());
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_NE(cluster.OwnerOf(slot), owner);
}

}  // namespace
}  // namespace reprise::state_store::redis
