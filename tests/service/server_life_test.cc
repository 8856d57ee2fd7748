// Start, health, reflection, expiry, drain.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "service/served_model.h"
#include "state_store/memory_store.h"
#include "tests/service/testing/raw_call.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::RawAnswer;
using testing::RawCall;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

// Field 1 of a HealthCheckResponse: 1 = SERVING, 2 = NOT_SERVING.
enum class Health { kUnknown, kServing, kNotServing };

Health CheckHealth(TestServer& server, const std::string& service) {
  // Field 1 of a HealthCheckRequest is the service.
  std::string request;
  if (!service.empty()) {
    request = std::string("\x0A") + static_cast<char>(service.size()) + service;
  }
  const RawAnswer answer = RawCall(server.channel(), "/grpc.health.v1.Health/Check", request);
  if (!answer.status.ok() || answer.bytes.size() != 2) return Health::kUnknown;
  return answer.bytes[1] == 1 ? Health::kServing : Health::kNotServing;
}

TEST(ServerLifeTest, EachServiceIsHealthyUnderItsName) {
  TestServer server;
  for (const std::string name : {"", "reprise.v1.GenerationService", "reprise.v1.SessionService",
                                 "reprise.v1.ModelService"}) {
    EXPECT_EQ(CheckHealth(server, name), Health::kServing) << name;
  }
  EXPECT_EQ(CheckHealth(server, "other.Service"), Health::kUnknown);
}

// A ServerReflectionRequest with list_services (field 7) = "*".
constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
constexpr char kListServices[] = "\x3A\x01*";

TEST(ServerLifeTest, ReflectionListsTheServicesUnlessItIsOff) {
  {
    TestServer server;
    const RawAnswer answer = RawCall(server.channel(), kReflection, kListServices);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_THAT(answer.bytes, HasSubstr("reprise.v1.GenerationService"));
    EXPECT_THAT(answer.bytes, HasSubstr("reprise.v1.SessionService"));
    EXPECT_THAT(answer.bytes, HasSubstr("grpc.health.v1.Health"));
  }
  auto options = TestServer::SmallOptions();
  options.server.wire.reflection = false;
  TestServer server(options);
  EXPECT_EQ(RawCall(server.channel(), kReflection, kListServices).status.error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

constexpr char kListModels[] = "/reprise.v1.ModelService/ListModels";

TEST(ServerLifeTest, HeadersHaveTheLimitThatIsSet) {
  const auto with_header = [](TestServer& server, size_t bytes) {
    return RawCall(server.channel(), kListModels, "", {{"x-pad", std::string(bytes, 'x')}})
        .status.error_code();
  };
  TestServer server;
  EXPECT_EQ(with_header(server, 8000), grpc::StatusCode::OK);
  EXPECT_EQ(with_header(server, 40000), grpc::StatusCode::RESOURCE_EXHAUSTED);
  auto options = TestServer::SmallOptions();
  options.server.wire.max_metadata_bytes = 65536;
  TestServer generous(options);
  EXPECT_EQ(with_header(generous, 40000), grpc::StatusCode::OK);
  options.server.wire.max_metadata_bytes = 1024;
  TestServer strict(options);
  EXPECT_EQ(with_header(strict, 8000), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(ServerLifeTest, AConnectionHasSoManyCallsAtOnceAndNoMore) {
  auto options = TestServer::SmallOptions();
  options.server.wire.max_concurrent_streams = 2;
  TestServer server(options);
  const auto list = [&](absl::Duration patience) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + patience));
    v1::ListModelsResponse response;
    return server.models().ListModels(&context, {}, &response).error_code();
  };
  // The first call hears of the limit.
  EXPECT_EQ(list(testing::kPatience), grpc::StatusCode::OK);
  server.gate().Hold();
  grpc::ClientContext one, two;
  const auto first = server.generation().Generate(&one, TokenRequest({1}, 2));
  const auto second = server.generation().Generate(&two, TokenRequest({2}, 2));
  ASSERT_TRUE(server.gate().AwaitHeld());
  ASSERT_TRUE(server.AwaitCalls(2));
  // It stays with the client, whatever time it has.
  EXPECT_EQ(list(absl::Milliseconds(300)), grpc::StatusCode::DEADLINE_EXCEEDED);
  server.gate().Open();
  EXPECT_TRUE(testing::ReadAll(first.get()).status.ok());
  EXPECT_TRUE(testing::ReadAll(second.get()).status.ok());
  EXPECT_EQ(list(testing::kPatience), grpc::StatusCode::OK);
}

// Whether the server ends a connection that has nothing wrong with it; waits for it to happen.
bool EndsConnections(const TestServer::Options& options) {
  TestServer server(options);
  EXPECT_TRUE(RawCall(server.channel(), kListModels, "").status.ok());
  const auto deadline = std::chrono::system_clock::now() +
                        std::chrono::seconds(absl::ToInt64Seconds(testing::kPatience));
  return server.channel()->WaitForStateChange(GRPC_CHANNEL_READY, deadline);
}

TEST(ServerLifeTest, ConnectionsEndByAgeAndWhenTheyAreIdle) {
  auto old = TestServer::SmallOptions();
  old.server.wire.max_connection_age = absl::Milliseconds(200);
  EXPECT_TRUE(EndsConnections(old));
  auto idle = TestServer::SmallOptions();
  idle.server.wire.max_connection_idle = absl::Milliseconds(200);
  EXPECT_TRUE(EndsConnections(idle));
}

TEST(ServerLifeTest, ACallOutlivesItsConnectionsAgeUnlessTheGraceIsOver) {
  for (const bool grace_ends : {false, true}) {
    auto options = TestServer::SmallOptions();
    options.server.wire.max_connection_age = absl::Milliseconds(200);
    if (grace_ends) options.server.wire.max_connection_age_grace = absl::Milliseconds(200);
    TestServer server(options);
    server.gate().Hold();
    grpc::ClientContext context;
    const auto reader = server.generation().Generate(&context, TokenRequest({1, 2}, 3));
    ASSERT_TRUE(server.gate().AwaitHeld());
    const auto deadline = std::chrono::system_clock::now() +
                          std::chrono::seconds(absl::ToInt64Seconds(testing::kPatience));
    ASSERT_TRUE(server.channel()->WaitForStateChange(GRPC_CHANNEL_READY, deadline));
    // The call that is held is still there, or its end has been forced.
    if (!grace_ends) server.gate().Open();
    const Answer answer = testing::ReadAll(reader.get());
    EXPECT_EQ(answer.status.ok(), !grace_ends) << answer.status.error_message();
    server.gate().Open();
  }
}

TEST(ServerLifeTest, ThePortIsWrittenOnceTheServerAcceptsCalls) {
  auto options = TestServer::SmallOptions();
  options.server.wire.port_file = ::testing::TempDir() + "reprise-port-" + std::to_string(getpid());
  TestServer server(options);
  int port = 0;
  std::ifstream(options.server.wire.port_file) >> port;
  EXPECT_EQ(port, server.server().port());
  unlink(options.server.wire.port_file.c_str());
}

TEST(ServerLifeTest, APortThatIsTakenIsAnError) {
  TestServer server;
  ServerOptions options = TestServer::SmallOptions().server;
  options.wire.listen = "127.0.0.1:" + std::to_string(server.server().port());
  ServerParts parts;
  parts.store = state_store::CreateMemoryStore({}).value();
  RealClock clock;
  const auto second = Server::Start(options, std::move(parts), &clock);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--listen"));
}

TEST(ServerLifeTest, ExpiredSessionsAreSwept) {
  auto options = TestServer::SmallOptions();
  options.server.store.sweep_interval = absl::Milliseconds(20);
  TestServer server(options);
  grpc::ClientContext context;
  v1::CreateSessionRequest request;
  request.set_session_id("brief");
  request.mutable_ttl()->set_nanos(1'000'000);
  v1::Session session;
  ASSERT_TRUE(server.sessions().CreateSession(&context, request, &session).ok());
  server.NewSession("lasting");
  const absl::Time limit = absl::Now() + testing::kPatience;
  while (server.store().Stats("default")->sessions > 1 && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(server.store().Stats("default")->sessions, 1u);
  EXPECT_EQ(server.GetSession("sessions/lasting").version(), 1u);
}

TEST(ServerLifeTest, TheDefaultTimeToLiveIsTheServers) {
  auto options = TestServer::SmallOptions();
  options.server.limits.default_session_ttl = absl::Seconds(1000);
  TestServer server(options);
  const v1::Session session = server.NewSession("chat");
  EXPECT_NEAR(session.expire_time().seconds() - session.create_time().seconds(), 1000, 2);
}

TEST(ServerLifeTest, ADrainLetsRunningCallsEndAndNoNewOnesIn) {
  auto options = TestServer::SmallOptions();
  options.server.wire.drain = absl::Seconds(60);
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  server.gate().Hold();
  grpc::ClientContext context;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 20);
  request.set_session(session);
  auto running = server.generation().Generate(&context, request);
  ASSERT_TRUE(server.gate().AwaitHeld());
  std::thread drain([&] { server.server().Drain(); });
  const absl::Time limit = absl::Now() + testing::kPatience;
  while (CheckHealth(server, "reprise.v1.GenerationService") != Health::kNotServing &&
         absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_EQ(CheckHealth(server, ""), Health::kNotServing);
  // The gate closes right after; the first calls may still slip in.
  Answer refused;
  do {
    grpc::ClientContext late;
    v1::Session unused;
    v1::GetSessionRequest get;
    get.set_name(session);
    refused.status = server.sessions().GetSession(&late, get, &unused);
  } while (refused.status.ok() && absl::Now() < limit);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(refused.status), "DRAINING");
  EXPECT_TRUE(testing::HasRetryInfo(refused.status));
  server.gate().Open();
  const Answer answer = testing::ReadAll(running.get());
  drain.join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids, server.Expected(Bytes("go"), 20));
  EXPECT_EQ(answer.finished.commit().version(), 2u);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_MAX_TOKENS);
}

TEST(ServerLifeTest, ADrainsEndCommitsWhatRunsAndTellsTheClient) {
  auto options = TestServer::SmallOptions();
  options.server.wire.drain = absl::ZeroDuration();
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  grpc::ClientContext context;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 1 << 20);
  request.set_session(session);
  auto running = server.generation().Generate(&context, request);
  v1::GenerateResponse first;
  ASSERT_TRUE(running->Read(&first));
  std::thread drain([&] { server.server().Drain(); });
  const Answer answer = testing::ReadAll(running.get());
  drain.join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_DRAINED);
  EXPECT_EQ(answer.finished.commit().version(), 2u);
  const auto stored = server.store().GetSession("default", "chat");
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(static_cast<int64_t>(stored->token_count),
            2 + answer.finished.usage().completion_tokens());
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
}

TEST(ServerLifeTest, ADrainDoesNotWaitForAReaderThatDoesNotRead) {
  auto options = TestServer::SmallOptions();
  options.server.wire.drain = absl::ZeroDuration();
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  grpc::ClientContext context;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 1 << 20);
  request.set_session(session);
  request.mutable_output()->set_top_logprobs(20);
  auto running = server.generation().Generate(&context, request);
  v1::GenerateResponse first;
  ASSERT_TRUE(running->Read(&first));
  server.server().Drain();  // a hang here is the failure
  EXPECT_EQ(server.store().GetSession("default", "chat")->version, 2u);
}

}  // namespace
}  // namespace reprise::service
