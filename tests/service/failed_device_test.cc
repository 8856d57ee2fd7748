// A server whose device fails: what it says of itself, what becomes of calls and sessions.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/device_health.h"
#include "state_store/testing/faulty_store.h"
#include "tests/service/testing/raw_call.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Await;
using testing::Bytes;
using ::testing::HasSubstr;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

constexpr char kServing = 1, kNotServing = 2;
const char* const kServices[] = {"", "reprise.v1.GenerationService", "reprise.v1.SessionService",
                                 "reprise.v1.ModelService"};

// A HealthCheckRequest; field 1 is the service.
std::string HealthRequest(const std::string& service) {
  if (service.empty()) return "";
  return std::string("\x0A") + static_cast<char>(service.size()) + service;
}

// Of a HealthCheckResponse; 0 when there is no answer.
char Health(TestServer& server, const std::string& service) {
  const testing::RawAnswer answer =
      testing::RawCall(server.channel(), "/grpc.health.v1.Health/Check", HealthRequest(service));
  return answer.status.ok() && answer.bytes.size() == 2 ? answer.bytes[1] : 0;
}

// A Watch of the health of one service.
class HealthWatch {
 public:
  HealthWatch(TestServer& server, const std::string& service) : stub_(server.channel()) {
    call_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    call_->StartCall(nullptr);
    Wait();
    grpc::Slice slice(HealthRequest(service));
    call_->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    Wait();
  }
  ~HealthWatch() {
    context_.TryCancel();
    grpc::Status status;
    call_->Finish(&status, nullptr);
    Wait();
  }
  // The next that the server says.
  char Next() {
    grpc::ByteBuffer buffer;
    call_->Read(&buffer, nullptr);
    if (!Wait()) return 0;
    std::vector<grpc::Slice> slices;
    buffer.Dump(&slices);
    return slices.empty() ? 0 : static_cast<char>(slices.back().begin()[slices.back().size() - 1]);
  }

 private:
  bool Wait() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

struct Page {
  int code = 0;
  std::string body;
};

struct FailingServer {
  explicit FailingServer(TestServer::Options options = TestServer::SmallOptions()) {
    options.server.telemetry.listen = "127.0.0.1:0";
    options.health.push_back(health);
    options.wrap_store = [this](std::unique_ptr<state_store::SessionStore> inner) {
      auto faulty = std::make_unique<state_store::FaultyStore>(std::move(inner));
      faulty->SetBefore([this](std::string_view method) {
        ++calls;
        commits += method == "PutAndCommit";
        return absl::OkStatus();
      });
      return faulty;
    };
    server.emplace(options);
  }
  TestServer& operator*() { return *server; }
  TestServer* operator->() { return &*server; }

  void Fail() { health->Fail(absl::InternalError("MatMul[rows 8]: an illegal address")); }
  Page Get(const std::string& path) const {
    httplib::Client client("127.0.0.1", server->server().metrics_port());
    const auto response = client.Get(path);
    return response == nullptr ? Page() : Page{response->status, response->body};
  }

  std::shared_ptr<kernels::DeviceHealth> health = std::make_shared<kernels::DeviceHealth>();
  std::atomic<int> calls = 0, commits = 0;  // of the store
  mutable std::optional<TestServer> server;
};

void ExpectDeviceFailed(const grpc::Status& status) {
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(ReasonIn(status), "DEVICE_FAILED");
  EXPECT_TRUE(testing::HasRetryInfo(status));
  EXPECT_THAT(status.error_message(), ::testing::Not(HasSubstr("illegal"))) << "for the log only";
}

TEST(FailedDeviceTest, TheServerSaysSoEverywhere) {
  FailingServer server;
  for (const std::string name : kServices) EXPECT_EQ(Health(*server, name), kServing) << name;
  EXPECT_EQ(Health(*server, "reprise.v1.GenerationService/puppet"), kServing);
  HealthWatch all(*server, ""), one(*server, "reprise.v1.GenerationService/puppet");
  EXPECT_EQ(all.Next(), kServing);
  EXPECT_EQ(one.Next(), kServing);
  EXPECT_EQ(server.Get("/healthz").code, 200);
  EXPECT_EQ(server.Get("/readyz").code, 200);
  EXPECT_THAT(server->MetricsText(), HasSubstr("reprise_device_failed{model_name=\"puppet\"} 0"));
  EXPECT_FALSE(server->server().device_failed());

  server.Fail();
  EXPECT_EQ(all.Next(), kNotServing);
  EXPECT_EQ(one.Next(), kNotServing);
  for (const std::string name : kServices) EXPECT_EQ(Health(*server, name), kNotServing) << name;
  EXPECT_EQ(Health(*server, "reprise.v1.GenerationService/puppet"), kNotServing);
  for (const std::string path : {"/healthz", "/readyz"}) {
    const Page page = server.Get(path);
    EXPECT_EQ(page.code, 503) << path;
    EXPECT_THAT(page.body, HasSubstr("the device of model puppet has failed")) << path;
  }
  EXPECT_THAT(server->MetricsText(), HasSubstr("reprise_device_failed{model_name=\"puppet\"} 1"));
  EXPECT_TRUE(server->server().device_failed());
}

TEST(FailedDeviceTest, RunningCallsEndAndNewOnesAreRefused) {
  FailingServer server;
  const std::string session = server->NewSession("chat").name();
  const Ids first = server->Turn(session, Bytes("hello"), 6).ids;
  const int commits = server.commits;
  server->gate().Hold();
  std::vector<std::thread> clients;
  std::vector<Answer> answers(6);
  for (size_t i = 0; i < answers.size(); ++i) {  // more than there are slots
    v1::GenerateRequest request = TokenRequest(Bytes("go"), 1 << 20);
    if (i == 0) request.set_session(session);
    if (i == 1) request.set_n(3);
    clients.emplace_back([&, i, request] { answers[i] = server->Generate(request); });
  }
  ASSERT_TRUE(server->gate().AwaitHeld());
  // The count is that of the last step, and some may come late.
  ASSERT_TRUE(Await([&] {
    server->gate().Allow(1);
    return server->Waiting() > 0;
  }));
  ASSERT_TRUE(server->gate().AwaitHeld());
  server.Fail();  // while a step runs: what it gives is not to be trusted
  server->gate().Open();
  for (std::thread& client : clients) client.join();
  for (const Answer& answer : answers) {
    ExpectDeviceFailed(answer.status);
  }
  ExpectDeviceFailed(server->Generate(TokenRequest(Bytes("x"), 3)).status);
  v1::GenerateRequest turn = TokenRequest({}, 3);
  turn.set_session(session);
  const int calls = server.calls;
  ExpectDeviceFailed(server->Generate(turn).status);
  EXPECT_EQ(server.calls, calls) << "it held a session that is another server's now";
  EXPECT_TRUE(server->AwaitIdle());
  // Nothing of that was stored, and what needs no device is answered.
  EXPECT_EQ(server.commits, commits);
  EXPECT_EQ(server->GetSession(session).version(), 2u);
  EXPECT_TRUE(server->store().CheckIntegrity().ok());
  EXPECT_THAT(server->MetricsText(), HasSubstr("reason=\"DEVICE_FAILED\""));
}

TEST(FailedDeviceTest, NoCheckpointIsStoredAfterIt) {
  FailingServer server;
  const std::string session = server->NewSession("chat").name();
  v1::GenerateRequest request = TokenRequest(Bytes("hello"), 50000);
  request.set_session(session);
  request.set_request_id("r");
  request.set_durability(v1::DURABILITY_EVERY_N_TOKENS);
  request.set_checkpoint_tokens(10);
  Answer answer;
  std::thread client([&] { answer = server->Generate(request); });
  ASSERT_TRUE(Await([&] { return server->GetSession(session).version() >= 4; }));
  server->gate().Hold();
  ASSERT_TRUE(server->gate().AwaitHeld());
  server.Fail();
  server->gate().Open();
  client.join();
  ExpectDeviceFailed(answer.status);
  // It stands at a checkpoint, and is free: another process goes on from there to the same text.
  const auto stored = server->store().GetSession("default", "chat");
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_GE(stored->version, 4u);
  EXPECT_LT(stored->token_count, 50000u);
  server->server().Drain();
  EXPECT_EQ(server->store().GetSession("default", "chat")->version, stored->version);
  EXPECT_TRUE(server->store().CheckIntegrity().ok());
}

TEST(FailedDeviceTest, AnotherProcessGoesOnFromTheLastCommit) {
  const std::string folder = ::testing::TempDir() + "device-failure-" + std::to_string(getpid());
  const Ids all = TestServer().Expected(Bytes("hello"), 6 + 9);
  v1::GenerateRequest turn = TokenRequest({}, 9);
  turn.set_session("sessions/chat");
  turn.set_request_id("second");
  {
    auto options = TestServer::SmallOptions();
    options.disk = folder;
    FailingServer server(options);
    const Ids first = server->Turn(server->NewSession("chat").name(), Bytes("hello"), 6).ids;
    EXPECT_EQ(first, Ids(all.begin(), all.begin() + 6));
    server->gate().Hold();
    Answer answer;
    std::thread client([&] { answer = server->Generate(turn); });
    ASSERT_TRUE(server->gate().AwaitHeld());
    server.Fail();
    server->gate().Open();
    client.join();
    ExpectDeviceFailed(answer.status);
    server->server().Drain();
  }
  auto options = TestServer::SmallOptions();
  options.disk = folder;
  TestServer other(options);
  const Answer answer = other.Generate(turn);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids, Ids(all.begin() + 6, all.end()));
  EXPECT_EQ(answer.finished.commit().version(), 3u);
}

TEST(FailedDeviceTest, ModelsOnOtherDevicesGoOn) {
  auto options = TestServer::SmallOptions();
  options.models = {"gpu", "gpu-too", "cpu"};
  const auto shared = std::make_shared<kernels::DeviceHealth>();
  options.health = {shared, shared};
  options.server.telemetry.listen = "127.0.0.1:0";
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest on_gpu = TokenRequest(Bytes("x"), 3), on_cpu = on_gpu;
  on_gpu.set_model("gpu");
  on_cpu.set_model("cpu");
  on_cpu.set_session(session);
  EXPECT_TRUE(server.Generate(on_gpu).status.ok());
  // One that runs there goes on over the failure.
  server.gate().Hold();
  Answer running;
  std::thread client([&] { running = server.Generate(on_cpu); });
  ASSERT_TRUE(server.gate().AwaitHeld());
  shared->Fail(absl::InternalError("an illegal address"));
  server.gate().Open();
  client.join();
  EXPECT_TRUE(running.status.ok()) << running.status.error_message();
  EXPECT_EQ(running.ids, server.Expected(Bytes("x"), 3));
  ExpectDeviceFailed(server.Generate(on_gpu).status);
  on_gpu.set_model("gpu-too");
  ExpectDeviceFailed(server.Generate(on_gpu).status);
  EXPECT_TRUE(server.Generate(on_cpu).status.ok());
  for (const std::string name : kServices) EXPECT_EQ(Health(server, name), kNotServing) << name;
  EXPECT_EQ(Health(server, "reprise.v1.GenerationService/gpu"), kNotServing);
  EXPECT_EQ(Health(server, "reprise.v1.GenerationService/gpu-too"), kNotServing);
  EXPECT_EQ(Health(server, "reprise.v1.GenerationService/cpu"), kServing);
  EXPECT_THAT(server.MetricsText(), HasSubstr("reprise_device_failed{model_name=\"cpu\"} 0"));
  EXPECT_THAT(server.MetricsText(), HasSubstr("reprise_device_failed{model_name=\"gpu-too\"} 1"));
}

TEST(FailedDeviceTest, ADrainHasNothingToWaitFor) {
  auto options = TestServer::SmallOptions();
  options.server.wire.drain = absl::Seconds(600);
  FailingServer server(options);
  grpc::ClientContext context;
  auto running = server->generation().Generate(&context, TokenRequest(Bytes("go"), 1 << 20));
  v1::GenerateResponse first;
  ASSERT_TRUE(running->Read(&first));
  server.Fail();
  server->server().Drain();  // a hang here is the failure
  while (running->Read(&first)) {
  }
  ExpectDeviceFailed(running->Finish());
}

}  // namespace
}  // namespace reprise::service
