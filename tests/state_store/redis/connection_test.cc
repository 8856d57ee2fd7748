#include "state_store/redis/connection.h"

#include <gtest/gtest.h>

#include <deque>
#include <string>

#include "state_store/redis/error.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
using testing::PickFreePort;
using testing::RedisServer;

// Long enough for any machine: only calls that are meant to run into a deadline get a short one.
Deadline Patient() { return DeadlineAfter(absl::Minutes(1)); }

ConnectionOptions PatientOptions() {
  ConnectionOptions options;
  options.connect_timeout = absl::Minutes(1);
  return options;
}

Endpoint At(uint16_t port) { return {.host = "127.0.0.1", .port = port}; }

TEST(Connection, CarriesCommandsOfAnySizeInOnePipeline) {
  RedisServer server({.unix_socket = true});
  for (const Endpoint& endpoint : {At(server.port()), Endpoint{.unix_path = server.unix_path()}}) {
    auto connection = Connection::Connect(endpoint, PatientOptions(), Patient());
    ASSERT_TRUE(connection.ok()) << connection.status();
    std::string big(5 << 20, 'x');
    big[17] = '\0';
    std::vector<Arguments> commands = {{"SET", "big", big}, {"LPUSH", "big", "1"}};
    for (int i = 0; i < 40; ++i) commands.push_back({"GET", "big"});
    const auto replies = (*connection)->Pipeline(commands, Patient());
    ASSERT_TRUE(replies[0].ok()) << replies[0].status();
    // An error reply is one command's failure; the pipeline goes on.
    EXPECT_EQ(GetRedisError(replies[1].status()), RedisError::kServer);
    for (size_t i = 2; i < replies.size(); ++i) {
      ASSERT_TRUE(replies[i].ok()) << replies[i].status();
      ASSERT_TRUE(replies[i]->text == big);
    }
    EXPECT_FALSE((*connection)->broken());
    EXPECT_TRUE((*connection)->LooksAlive());
  }
}

TEST(Connection, CommandsAreMadeWhileOthersAreOnTheirWay) {
  RedisServer server({.unix_socket = true});
  for (const Endpoint& endpoint : {At(server.port()), Endpoint{.unix_path = server.unix_path()}}) {
    auto connection = Connection::Connect(endpoint, PatientOptions(), Patient());
    ASSERT_TRUE(connection.ok()) << connection.status();
    server.Do({"FLUSHALL"});
    // Batches of none, one and several commands; large ones that no buffer on the way holds.
    std::deque<std::string> owned;
    int batches = 0, seen_early = 0;
    const auto make = [&](std::vector<Arguments>& batch) {
      // What was made before is there, or on its way, before the next is asked for.
      if (batches > 0 && server.Do({"EXISTS", "key0"}).integer == 1) ++seen_early;
      for (int i = 0; i < batches % 3; ++i) {
        const std::string& key = owned.emplace_back("key" + std::to_string(owned.size() / 2));
        const std::string& value = owned.emplace_back(batches == 4 ? 3 << 20 : 70'000, 'v');
        batch.push_back({"SET", key, value});
      }
      return ++batches < 12;
    };
    const auto replies = (*connection)->Pipeline(ArgumentsMaker(make), Patient());
    EXPECT_EQ(replies.size(), 12u);
    for (const auto& reply : replies) EXPECT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(server.Do({"DBSIZE"}).integer, 12);
    EXPECT_GT(seen_early, 0);
    EXPECT_TRUE((*connection)->LooksAlive());
    const auto nothing =
        (*connection)
            ->Pipeline(ArgumentsMaker([](std::vector<Arguments>&) { return false; }), Patient());
    EXPECT_TRUE(nothing.empty());
    EXPECT_TRUE((*connection)->LooksAlive());
  }
}

TEST(Connection, RefusedIsUnavailableAndNotDone) {
  const auto connection = Connection::Connect(At(PickFreePort()), PatientOptions(), Patient());
  EXPECT_EQ(GetRedisError(connection.status()), RedisError::kRefused);
  EXPECT_EQ(connection.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetOutcome(connection.status()), Outcome::kNotDone);
  const auto no_file =
      Connection::Connect({.unix_path = "/nonexistent/r.sock"}, PatientOptions(), Patient());
  EXPECT_EQ(GetRedisError(no_file.status()), RedisError::kRefused);
  const auto no_name =
      Connection::Connect({.host = "no-such-host.invalid", .port = 1}, PatientOptions(), Patient());
  EXPECT_EQ(GetRedisError(no_name.status()), RedisError::kRefused);
}

TEST(Connection, PasswordsAndAccessLists) {
  RedisServer server({.arguments = {"--requirepass", "main-secret", "--user", "writer", "on", ">pw",
                                    "~allowed:*", "+set", "+get", "+ping"},
                      .password = "main-secret"});
  const auto connect = [&](const std::string& user, const std::string& password) {
    ConnectionOptions options = PatientOptions();
    options.user = user;
    options.password = password;
    return Connection::Connect(At(server.port()), options, Patient());
  };
  EXPECT_TRUE(connect("", "main-secret").ok());
  EXPECT_EQ(connect("", "").status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(connect("", "wrong").status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(connect("writer", "wrong").status().code(), absl::StatusCode::kUnauthenticated);
  auto writer = connect("writer", "pw");
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE((*writer)->Call({"SET", "allowed:1", "x"}, Patient()).ok());
  for (const Arguments& denied : {Arguments{"SET", "other", "x"}, Arguments{"DEL", "allowed:1"}}) {
    const auto reply = (*writer)->Call(denied, Patient());
    EXPECT_EQ(reply.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(GetRedisError(reply.status()), RedisError::kDenied);
  }
}

TEST(Connection, SelectsItsDatabase) {
  RedisServer server;
  ConnectionOptions options = PatientOptions();
  options.db = 3;
  auto connection = Connection::Connect(At(server.port()), options, Patient());
  ASSERT_TRUE(connection.ok());
  ASSERT_TRUE((*connection)->Call({"SET", "k", "v"}, Patient()).ok());
  EXPECT_TRUE(server.Do({"GET", "k"}).is_nil());
  options.db = 99;
  EXPECT_EQ(Connection::Connect(At(server.port()), options, Patient()).status().code(),
            absl::StatusCode::kInternal);
}

TEST(Connection, TlsVerifiesTheServer) {
  RedisServer server({.tls = true});
  RedisServer other({.tls = true});
  const auto connect = [&](const std::string& host, TlsOptions tls) {
    ConnectionOptions options = PatientOptions();
    auto context = TlsContext::Create(tls);
    EXPECT_TRUE(context.ok()) << context.status();
    options.tls = *context;
    return Connection::Connect({.host = host, .port = server.port()}, options, Patient());
  };
  for (const auto* host : {"127.0.0.1", "localhost"}) {
    auto connection = connect(host, {.ca_file = server.ca_file()});
    ASSERT_TRUE(connection.ok()) << connection.status();
    const std::string big(3 << 20, 'y');
    std::vector<Arguments> commands = {{"SET", "k", big}};
    for (int i = 0; i < 10; ++i) commands.push_back({"GET", "k"});
    const auto replies = (*connection)->Pipeline(commands, Patient());
    for (size_t i = 1; i < replies.size(); ++i) {
      ASSERT_TRUE(replies[i].ok()) << replies[i].status();
      ASSERT_TRUE(replies[i]->text == big);
    }
    EXPECT_TRUE((*connection)->LooksAlive());
    ASSERT_TRUE((*connection)->Call({"PING"}, Patient()).ok());
  }
  // Another authority, no authority that knows it, and another name.
  for (const TlsOptions& tls :
       {TlsOptions{.ca_file = other.ca_file()}, TlsOptions{},
        TlsOptions{.ca_file = server.ca_file(), .server_name = "redis.example"}}) {
    const auto refused = connect("127.0.0.1", tls);
    EXPECT_EQ(GetRedisError(refused.status()), RedisError::kTls) << refused.status();
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_TRUE(connect("127.0.0.1", {.ca_file = server.ca_file(), .server_name = "localhost"}).ok());
  EXPECT_EQ(TlsContext::Create({.ca_file = "/nonexistent.pem"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TlsContext::Create({.cert_file = server.ca_file()}).status().code(),
            absl::StatusCode::kInvalidArgument);
  // Plain bytes to a TLS port: it hangs up.
  EXPECT_FALSE(Connection::Connect(At(server.port()), PatientOptions(), Patient()).ok());
}

TEST(Connection, TlsToAPlainServerFails) {
  RedisServer plain;
  RedisServer tls({.tls = true});
  ConnectionOptions options = PatientOptions();
  options.tls = *TlsContext::Create({.ca_file = tls.ca_file()});
  // It waits for the end of what it takes for a line.
  options.connect_timeout = absl::Milliseconds(200);
  const auto refused = Connection::Connect(At(plain.port()), options, Patient());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kDeadlineExceeded) << refused.status();
}

TEST(Connection, ADeadlineEndsACallToAStoppedServer) {
  RedisServer server;
  auto connection = Connection::Connect(At(server.port()), PatientOptions(), Patient());
  ASSERT_TRUE(connection.ok());
  server.Pause();
  const auto reply = (*connection)->Call({"SET", "k", "v"}, DeadlineAfter(absl::Milliseconds(50)));
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(GetOutcome(reply.status()), Outcome::kUnknown);
  EXPECT_TRUE((*connection)->broken());
  // A late answer must not be taken for that of the next command.
  const auto next = (*connection)->Call({"GET", "other"}, Patient());
  EXPECT_EQ(GetOutcome(next.status()), Outcome::kNotDone);
  EXPECT_EQ(GetRedisError(next.status()), RedisError::kClosed);
  server.Resume();
  // It did land.
  EXPECT_TRUE(testing::WaitUntil([&] { return server.Do({"GET", "k"}).text == "v"; }));
}

TEST(Connection, ADeadlineHoldsThroughADripOfBytes) {
  RedisServer server;
  FaultProxy proxy(server.port());
  auto connection = Connection::Connect(At(proxy.port()), PatientOptions(), Patient());
  ASSERT_TRUE(connection.ok());
  server.Do({"SET", "k", std::string(4096, 'x')});
  proxy.Drip(true);
  // 4 KiB at 100 bytes per second: bytes keep coming, the answer does not.
  const auto reply = (*connection)->Call({"GET", "k"}, DeadlineAfter(absl::Milliseconds(300)));
  EXPECT_EQ(GetRedisError(reply.status()), RedisError::kTimeout);
}

TEST(Connection, AHalfOpenConnectionTimesOut) {
  RedisServer server;
  FaultProxy proxy(server.port());
  auto connection = Connection::Connect(At(proxy.port()), PatientOptions(), Patient());
  ASSERT_TRUE(connection.ok());
  proxy.BlackHole(true);
  const auto reply = (*connection)->Call({"PING"}, DeadlineAfter(absl::Milliseconds(100)));
  EXPECT_EQ(GetRedisError(reply.status()), RedisError::kTimeout);
  // And so does a connect whose handshake is never answered.
  ConnectionOptions options;
  options.connect_timeout = absl::Milliseconds(100);
  EXPECT_EQ(Connection::Connect(At(proxy.port()), options, Patient()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(Connection, ACutSaysWhichCommandsMayHaveLanded) {
  RedisServer server;
  FaultProxy proxy(server.port());
  auto connection = Connection::Connect(At(proxy.port()), PatientOptions(), Patient());
  ASSERT_TRUE(connection.ok());
  // Four commands of 16 MiB: far more than the buffers on the way hold, so the last one cannot have
  // been sent when the connection breaks in the second.
  const std::string big(16 << 20, 'x');
  proxy.CutAfterToServer(24 << 20);
  const auto replies =
      (*connection)
          ->Pipeline({{"SET", "1", big}, {"SET", "2", big}, {"SET", "3", big}, {"SET", "4", big}},
                     Patient());
  EXPECT_EQ(proxy.cuts(), 1);
  EXPECT_EQ(GetRedisError(replies[3].status()), RedisError::kClosed);
  EXPECT_EQ(GetOutcome(replies[3].status()), Outcome::kNotDone);
  // The first got through, whether or not we heard of it.
  EXPECT_TRUE(replies[0].ok() || GetOutcome(replies[0].status()) == Outcome::kUnknown);
  EXPECT_TRUE(testing::WaitUntil([&] { return server.Do({"STRLEN", "1"}).integer == 16 << 20; }));
  for (const auto* key : {"2", "3", "4"}) EXPECT_TRUE(server.Do({"GET", key}).is_nil());
}

TEST(Connection, ALostAnswerIsUnknown) {
  RedisServer server;
  FaultProxy proxy(server.port());
  auto connection = Connection::Connect(At(proxy.port()), PatientOptions(), Patient());
  ASSERT_TRUE(connection.ok());
  proxy.CutAfterToClient(1);
  const auto reply = (*connection)->Call({"INCR", "n"}, Patient());
  EXPECT_EQ(GetRedisError(reply.status()), RedisError::kClosed);
  EXPECT_EQ(GetOutcome(reply.status()), Outcome::kUnknown);
  EXPECT_EQ(server.Do({"GET", "n"}).text, "1");
}

TEST(Connection, AReplyPastTheBoundIsAProtocolError) {
  RedisServer server;
  ConnectionOptions small = PatientOptions();
  small.max_reply_bytes = 1000;
  server.Do({"SET", "k", std::string(100'000, 'x')});
  auto limited = Connection::Connect(At(server.port()), small, Patient());
  ASSERT_TRUE(limited.ok());
  const auto reply = (*limited)->Call({"GET", "k"}, Patient());
  EXPECT_EQ(GetRedisError(reply.status()), RedisError::kProtocol);
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE((*limited)->broken());
}

TEST(Connection, NoticesThatAnIdleConnectionWasClosed) {
  RedisServer server;
  auto connection = Connection::Connect(At(server.port()), PatientOptions(), Patient());
  ASSERT_TRUE(connection.ok());
  EXPECT_TRUE((*connection)->LooksAlive());
  server.Kill();
  EXPECT_TRUE(testing::WaitUntil([&] { return !(*connection)->LooksAlive(); }));
}

}  // namespace
}  // namespace reprise::state_store::redis
