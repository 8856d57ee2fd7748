#include "state_store/redis/client.h"

#include <gtest/gtest.h>

#include <string>

#include "state_store/redis/error.h"
#include "state_store/store_error.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
using testing::RedisServer;

const Script kAppend("append", "return redis.call('APPEND', KEYS[1], ARGV[1])");
// Runs twice without harm: the token says that it has been here.
const Script kOnce("once",
                   "if redis.call('HSETNX', KEYS[1], ARGV[1], '1') == 1 then "
                   "redis.call('HINCRBY', KEYS[1], 'n', 1) end "
                   "return redis.call('HGET', KEYS[1], 'n')");

Deadline Patient() { return DeadlineAfter(absl::Minutes(1)); }
// For calls that are to fail; long enough that a busy machine tries once.
Deadline Soon() { return DeadlineAfter(absl::Seconds(1)); }

std::unique_ptr<Client> MakeClient(const std::string& url, ClientOptions options = {}) {
  options.url = url;
  auto client = Client::Create(options);
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

TEST(Client, RefusesBadOptions) {
  for (const ClientOptions& options :
       {ClientOptions{}, ClientOptions{.url = "redis://h:0"},
        ClientOptions{.url = "redis://h", .connect_timeout = absl::ZeroDuration()},
        ClientOptions{.url = "redis://h", .call_timeout = absl::ZeroDuration()},
        ClientOptions{.url = "redis://h", .min_retry_delay = absl::ZeroDuration()},
        ClientOptions{.url = "redis://h", .max_retry_delay = absl::ZeroDuration()},
        ClientOptions{.url = "redis://h", .max_reply_bytes = 0},
        ClientOptions{.url = "redis://h", .pool = {.max_connections = 0}},
        ClientOptions{.url = "rediss://h", .tls = {.ca_file = "/nonexistent"}}}) {
    EXPECT_EQ(Client::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Client, LoadsScriptsAndLoadsThemAgain) {
  RedisServer server;
  const auto client = MakeClient(server.url());
  for (int round = 0; round < 3; ++round) {
    const Answer answer = client->Run(Eval(kAppend, "k", {"ab"}), Patient());
    ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
    EXPECT_EQ(answer.reply->integer, 2 * (round + 1));
    EXPECT_FALSE(answer.unsure);
    server.Do({"SCRIPT", "FLUSH"});
  }
}

TEST(Client, AScriptThatIsMissingFailsNobodyElseInThePipeline) {
  RedisServer server;
  const auto client = MakeClient(server.url());
  const auto answers =
      client->Run(std::vector<Command>{{.arguments = {"SET", "a", "1"}, .key = "a"},
                                       Eval(kAppend, "k", {}, "tail"),
                                       {.arguments = {"HGET", "a", "x"}, .key = "a"},
                                       {.arguments = {"GET", "a"}, .key = "a"}},
                  Patient());
  EXPECT_TRUE(answers[0].reply.ok());
  ASSERT_TRUE(answers[1].reply.ok()) << answers[1].reply.status();
  EXPECT_EQ(answers[1].reply->integer, 4);
  EXPECT_EQ(answers[2].reply.status().code(), absl::StatusCode::kInternal);  // WRONGTYPE
  EXPECT_EQ(answers[3].reply->text, "1");
}

TEST(Client, TriesAgainAfterALostAnswerAndSaysSo) {
  RedisServer server;
  FaultProxy proxy(server.port());
  const auto client = MakeClient(proxy.url());
  ASSERT_TRUE(client->Run(Eval(kOnce, "k", {"first"}), Patient()).reply.ok());
  proxy.CutAfterToClient(1);
  const Answer answer = client->Run(Eval(kOnce, "k", {"second"}), Patient());
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(proxy.cuts(), 1);
  EXPECT_TRUE(answer.unsure);
  EXPECT_EQ(answer.reply->text, "2");  // not 3
}

TEST(Client, WhatIsMadeOnTheWayIsCarriedOutOnceWhateverIsCut) {
  RedisServer server;
  FaultProxy proxy(server.port());
  const auto client = MakeClient(proxy.url());
  ASSERT_TRUE(client->Run(Eval(kOnce, "warm", {"x"}), Patient()).reply.ok());
  const std::string value(40'000, 'v');
  int unsure = 0;
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(round);
    server.Do({"FLUSHDB"});
    if (round % 8 == 3) server.Do({"SCRIPT", "FLUSH"});
    const int64_t at = 1 + round * 12'007 % 260'000;
    if (round % 2 == 0) proxy.CutAfterToServer(at);
    if (round % 2 == 1) proxy.CutAfterToClient(1 + round % 50);
    int made = 0;
    std::vector<Command> commands;
    const auto answers = client->RunMade(
        "k",
        [&](std::vector<Command>& more) {
          const std::string name = std::to_string(made);
          more.push_back({.arguments = {"HSETNX", "k", name}, .tail = value, .key = "k"});
          more.push_back(Eval(kOnce, "counter", {name}));
          return ++made < 6;
        },
        commands, Patient());
    proxy.CutAfterToServer(-1);
    proxy.CutAfterToClient(-1);
    EXPECT_EQ(made, 6) << "all are made, once";
    ASSERT_EQ(answers.size(), 12u);
    for (const Answer& answer : answers) {
      ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
      unsure += answer.unsure;
    }
    EXPECT_EQ(server.Do({"HLEN", "k"}).integer, 6);
  }
  EXPECT_GT(proxy.cuts(), 20);
  EXPECT_GT(unsure, 20);
  // Without a server all are made too, and each says that nothing was done.
  server.Kill();
  std::vector<Command> commands;
  int made = 0;
  const auto none = MakeClient(server.url())
                        ->RunMade(
                            "k",
                            [&](std::vector<Command>& more) {
                              more.push_back(Eval(kOnce, "k", {"x"}));
                              return ++made < 3;
                            },
                            commands, Soon());
  ASSERT_EQ(none.size(), 3u);
  EXPECT_EQ(commands.size(), 3u);
  for (const Answer& answer : none) {
    EXPECT_TRUE(absl::IsUnavailable(answer.reply.status())) << answer.reply.status();
    EXPECT_EQ(GetOutcome(answer.reply.status()), Outcome::kNotDone);
  }
}

TEST(Client, WaitsForAServerThatComesBack) {
  RedisServer server;
  const auto client = MakeClient(server.url());
  ASSERT_TRUE(client->Run(Eval(kAppend, "k", {"x"}), Patient()).reply.ok());
  server.Kill();
  const Answer none = client->Run(Eval(kAppend, "k", {"x"}), Soon());
  EXPECT_EQ(none.reply.status().code(), absl::StatusCode::kUnavailable) << none.reply.status();
  EXPECT_EQ(GetStoreError(none.reply.status()), StoreError::kIoError);
  Answer answer;
  std::thread caller([&] { answer = client->Run(Eval(kAppend, "k", {"x"}), Patient()); });
  server.Start();
  caller.join();
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(answer.reply->integer, 1);  // it kept nothing
}

TEST(Client, AfterTheLastTryTheStatusRemembersTheDoubt) {
  RedisServer server;
  FaultProxy proxy(server.port());
  const auto client = MakeClient(proxy.url());
  ASSERT_TRUE(client->Run(Eval(kOnce, "k", {"1"}), Patient()).reply.ok());
  proxy.CutAfterToClient(1);
  proxy.Refuse(true);
  const Answer answer = client->Run(Eval(kOnce, "k", {"2"}), Soon());
  ASSERT_FALSE(answer.reply.ok());
  EXPECT_TRUE(answer.unsure);
  EXPECT_EQ(GetOutcome(answer.reply.status()), Outcome::kUnknown);
  EXPECT_EQ(server.Do({"HGET", "k", "n"}).text, "2");
}

TEST(Client, ATryThatTheDeadlineCutsOffDoesNotHideWhatStoppedTheOthers) {
  RedisServer server;
  server.Do({"REPLICAOF", "127.0.0.1", "1"});
  FaultProxy proxy(server.port());
  const auto client = MakeClient(proxy.url());
  ASSERT_TRUE(client->Run({.arguments = {"GET", "k"}, .key = "k"}, Patient()).reply.ok());
  const auto vanish_before = [](FaultProxy& vanishing, int nth) {
    vanishing.Before("EVALSHA", nth, [&vanishing] {
      vanishing.BlackHole(true);
      return true;
    });
  };
  // The first finds no script, the second is READONLY, the third is never answered.
  vanish_before(proxy, 3);
  const Answer answer = client->Run(Eval(kOnce, "k", {"1"}), Soon());
  EXPECT_EQ(GetRedisError(answer.reply.status()), RedisError::kUnready) << answer.reply.status();
  EXPECT_TRUE(answer.unsure);
  EXPECT_EQ(GetOutcome(answer.reply.status()), Outcome::kUnknown);
  // With nothing else known it is a timeout.
  const Answer silent = client->Run(Eval(kOnce, "k", {"1"}), Soon());
  EXPECT_EQ(GetRedisError(silent.reply.status()), RedisError::kTimeout) << silent.reply.status();
  // So it is after a script that was missing, for that did not stop it.
  RedisServer second;
  FaultProxy other(second.port());
  const auto late = MakeClient(other.url());
  ASSERT_TRUE(late->Run({.arguments = {"GET", "k"}, .key = "k"}, Patient()).reply.ok());
  vanish_before(other, 2);
  const Answer missing = late->Run(Eval(kOnce, "k", {"1"}), Soon());
  EXPECT_EQ(GetRedisError(missing.reply.status()), RedisError::kTimeout) << missing.reply.status();
}

TEST(Client, AHalfOpenConnectionIsReplacedWithinTheCall) {
  RedisServer server;
  FaultProxy proxy(server.port());
  const auto client = MakeClient(proxy.url(), {.call_timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(client->Run(Eval(kAppend, "k", {"x"}), Patient()).reply.ok());
  proxy.BlackHole(true);
  const Answer answer = client->Run(Eval(kOnce, "h", {"1"}), DeadlineAfter(absl::Seconds(1)));
  EXPECT_EQ(answer.reply.status().code(), absl::StatusCode::kDeadlineExceeded);
  proxy.BlackHole(false);
  EXPECT_TRUE(client->Run(Eval(kOnce, "h", {"1"}), Patient()).reply.ok());
  EXPECT_EQ(server.Do({"HGET", "h", "n"}).text, "1");
}

TEST(Client, DoesNotRepeatWhatCannotSucceed) {
  RedisServer server({.arguments = {"--maxmemory", "1", "--maxmemory-policy", "noeviction"}});
  const auto client = MakeClient(server.url());
  const Answer full = client->Run(Eval(kAppend, "k", {"x"}), Patient());
  EXPECT_EQ(full.reply.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetStoreError(full.reply.status()), StoreError::kStoreFull);
  RedisServer locked({.arguments = {"--requirepass", "pw"}, .password = "pw"});
  EXPECT_EQ(
      MakeClient(locked.url())->Run(Eval(kAppend, "k", {"x"}), Patient()).reply.status().code(),
      absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(MakeClient("redis://:pw@127.0.0.1:" + std::to_string(locked.port()))
                  ->Run(Eval(kAppend, "k", {"x"}), Patient())
                  .reply.ok());
}

TEST(Client, ABusyServerIsUnavailable) {
  RedisServer server({.arguments = {"--busy-reply-threshold", "10"}});
  const auto client = MakeClient(server.url());
  std::thread spinner([&] { server.Do({"EVAL", "while redis.call('PING') do end", "0"}); });
  EXPECT_TRUE(testing::WaitUntil([&] {
    return server.Do({"GET", "k"}).text.find("BUSY") != std::string::npos;
  }));
  const Answer busy = client->Run(Eval(kAppend, "k", {"x"}), Soon());
  EXPECT_TRUE(absl::IsUnavailable(busy.reply.status())) << busy.reply.status();
  server.Do({"SCRIPT", "KILL"});
  spinner.join();
  EXPECT_TRUE(client->Run(Eval(kAppend, "k", {"x"}), Patient()).reply.ok());
}

TEST(Client, CountsReplicas) {
  RedisServer master;
  const auto client = MakeClient(master.url());
  Replication wanted{.replicas = 1, .timeout = absl::Milliseconds(50)};
  ASSERT_TRUE(client->Run(Eval(kAppend, "k", {"x"}), Patient(), &wanted).reply.ok());
  EXPECT_EQ(wanted.reached, 0);
  RedisServer replica({.arguments = {"--replicaof", "127.0.0.1 " + std::to_string(master.port())}});
  EXPECT_TRUE(testing::WaitUntil([&] { return replica.Info("master_link_status") == "up"; }));
  wanted.timeout = absl::Minutes(1);
  ASSERT_TRUE(client->Run(Eval(kAppend, "k", {"y"}), Patient(), &wanted).reply.ok());
  EXPECT_EQ(wanted.reached, 1);
  EXPECT_EQ(replica.Do({"GET", "k"}).text, "xy");
  // A write sent to a replica by mistake is refused as one that may go elsewhere.
  const auto wrong = MakeClient(replica.url());
  const Answer answer = wrong->Run(Eval(kAppend, "k", {"z"}), Soon());
  EXPECT_EQ(GetRedisError(answer.reply.status()), RedisError::kUnready) << answer.reply.status();
}

}  // namespace
}  // namespace reprise::state_store::redis
