#include "state_store/redis/connection_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "state_store/redis/error.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisServer;

Deadline Patient() { return DeadlineAfter(absl::Minutes(1)); }

ConnectionOptions PatientOptions() {
  ConnectionOptions options;
  options.connect_timeout = absl::Minutes(1);
  return options;
}

std::shared_ptr<ConnectionPool> PoolOf(const RedisServer& server, PoolOptions options = {}) {
  return ConnectionPool::Create({.host = "127.0.0.1", .port = server.port()}, PatientOptions(),
                                options);
}

std::string ClientId(PooledConnection& connection) {
  const auto reply = connection->Call({"CLIENT", "ID"}, Patient());
  return reply.ok() ? std::to_string(reply->integer) : std::string(reply.status().message());
}

TEST(ConnectionPool, ReusesAndBoundsConnections) {
  RedisServer server;
  const auto pool = PoolOf(server, {.max_connections = 2});
  std::string first;
  {
    auto a = pool->Acquire(Patient());
    ASSERT_TRUE(a.ok()) << a.status();
    first = ClientId(*a);
    auto b = pool->Acquire(Patient());
    ASSERT_TRUE(b.ok());
    EXPECT_EQ(pool->Counts(), std::make_pair(2, 2));
    const auto none = pool->Acquire(DeadlineAfter(absl::Milliseconds(20)));
    EXPECT_EQ(none.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(GetOutcome(none.status()), Outcome::kNotDone);
    // One that comes back goes to whoever waits.
    std::thread giver([&] { *b = PooledConnection(); });
    EXPECT_TRUE(pool->Acquire(Patient()).ok());
    giver.join();
  }
  EXPECT_EQ(pool->Counts(), std::make_pair(2, 0));
  auto again = pool->Acquire(Patient());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(ClientId(*again), first);
}

TEST(ConnectionPool, GuardsMoveAndNeverLeak) {
  RedisServer server;
  const auto pool = PoolOf(server);
  auto a = pool->Acquire(Patient());
  auto b = pool->Acquire(Patient());
  ASSERT_TRUE(a.ok() && b.ok());
  PooledConnection moved = *std::move(a);
  moved = *std::move(b);  // gives the first one back
  EXPECT_EQ(pool->Counts(), std::make_pair(2, 1));
  PooledConnection& self = moved;
  moved = std::move(self);
  EXPECT_EQ(pool->Counts(), std::make_pair(2, 1));
  moved = PooledConnection();
  EXPECT_EQ(pool->Counts(), std::make_pair(2, 0));
  pool->Clear();
  EXPECT_EQ(pool->Counts(), std::make_pair(0, 0));
}

TEST(ConnectionPool, DropsBrokenAndClosedOnes) {
  RedisServer server;
  const auto pool = PoolOf(server);
  {
    auto connection = pool->Acquire(Patient());
    ASSERT_TRUE(connection.ok());
    server.Pause();
    EXPECT_FALSE((*connection)->Call({"PING"}, DeadlineAfter(absl::Milliseconds(20))).ok());
    server.Resume();
  }
  EXPECT_EQ(pool->Counts(), std::make_pair(0, 0));
  { ASSERT_TRUE(pool->Acquire(Patient()).ok()); }
  EXPECT_EQ(pool->Counts(), std::make_pair(1, 0));
  server.Kill();
  server.Start();
  // The idle one is dead, which is found out before it is handed out.
  auto connection = pool->Acquire(Patient());
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_TRUE((*connection)->Call({"PING"}, Patient()).ok());
}

TEST(ConnectionPool, PingsWhatWasIdleForLong) {
  RedisServer server;
  const auto pool = PoolOf(server, {.ping_after = absl::ZeroDuration()});
  { ASSERT_TRUE(pool->Acquire(Patient()).ok()); }
  auto connection = pool->Acquire(Patient());
  ASSERT_TRUE(connection.ok());
  EXPECT_TRUE((*connection)->Call({"PING"}, Patient()).ok());
  EXPECT_EQ(pool->Counts(), std::make_pair(1, 1));
}

TEST(ConnectionPool, ComesBackWithTheServer) {
  RedisServer server;
  const auto pool = PoolOf(server);
  server.Kill();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(GetRedisError(pool->Acquire(Patient()).status()), RedisError::kRefused);
  }
  EXPECT_EQ(pool->Counts(), std::make_pair(0, 0));
  server.Start();
  EXPECT_TRUE(pool->Acquire(Patient()).ok());
}

TEST(ConnectionPool, ServesManyThreads) {
  RedisServer server;
  const auto pool = PoolOf(server, {.max_connections = 3});
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        auto connection = pool->Acquire(Patient());
        if (!connection.ok() || !(*connection)->Call({"INCR", "n"}, Patient()).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(server.Do({"GET", "n"}).text, "800");
  EXPECT_EQ(pool->Counts().second, 0);
  EXPECT_LE(pool->Counts().first, 3);
}

}  // namespace
}  // namespace reprise::state_store::redis
