// What a server says of itself on its second port, and what its calls leave in the metrics.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <thread>

#include "state_store/memory_store.h"
#include "state_store/testing/faulty_store.h"
#include "tests/service/metrics/exposition.h"
#include "tests/service/testing/raw_call.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Await;
using testing::Bytes;
using ::testing::HasSubstr;
using testing::RawCall;
using testing::ReadSamples;
using testing::TestServer;
using testing::TokenRequest;

std::string Calls(const std::string& method, const std::string& code) {
  return "reprise_rpc_requests_total{code=\"" + code + "\",method=\"" + method + "\"}";
}

constexpr char kGenerate[] = "reprise.v1.GenerationService/Generate";

TestServer::Options WithProbes() {
  TestServer::Options options = TestServer::SmallOptions();
  options.server.telemetry.listen = "127.0.0.1:0";
  return options;
}

httplib::Result Get(TestServer& server, const char* page) {
  httplib::Client client("127.0.0.1", server.server().metrics_port());
  return client.Get(page);
}

TEST(ServerMetricsTest, CallsAreCountedByMethodAndCode) {
  TestServer server;
  EXPECT_TRUE(server.Generate(TokenRequest(Bytes("ab"), 3)).status.ok());
  EXPECT_TRUE(server.Generate(TokenRequest(Bytes("ab"), 3)).status.ok());
  server.NewSession("s");
  v1::GenerateRequest bad = TokenRequest(Bytes("ab"), -1);
  EXPECT_EQ(server.Generate(bad).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::GenerateRequest nowhere = TokenRequest(Bytes("ab"), 3);
  nowhere.set_session("sessions/none");
  EXPECT_EQ(server.Generate(nowhere).status.error_code(), grpc::StatusCode::NOT_FOUND);
  // A method that is not there never gets a label of its own.
  RawCall(server.channel(), "/reprise.v1.GenerationService/Nothing", "");
  const auto samples = ReadSamples(server.MetricsText());
  EXPECT_EQ(samples.at(Calls(kGenerate, "OK")), 2);
  EXPECT_EQ(samples.at(Calls(kGenerate, "INVALID_ARGUMENT")), 1);
  EXPECT_EQ(samples.at(Calls(kGenerate, "NOT_FOUND")), 1);
  EXPECT_EQ(samples.at(Calls("reprise.v1.SessionService/CreateSession", "OK")), 1);
  EXPECT_EQ(samples.at(R"(reprise_rpc_errors_total{reason="INVALID_FIELD"})"), 1);
  EXPECT_EQ(samples.at(R"(reprise_rpc_errors_total{reason="SESSION_NOT_FOUND"})"), 1);
  EXPECT_EQ(samples.at("reprise_rpc_seconds_count{method=\"" + std::string(kGenerate) + "\"}"), 4);
  EXPECT_THAT(server.MetricsText(), ::testing::Not(HasSubstr("Nothing")));
}

TEST(ServerMetricsTest, ACallIsInFlightUntilItEnds) {
  TestServer server;
  server.gate().Hold();
  Answer answer;
  std::thread caller([&] { answer = server.Generate(TokenRequest(Bytes("ab"), 2)); });
  EXPECT_TRUE(server.gate().AwaitHeld());
  EXPECT_EQ(ReadSamples(server.MetricsText()).at("reprise_rpc_in_flight"), 1);
  server.gate().Open();
  caller.join();
  EXPECT_TRUE(answer.status.ok());
  // The interceptor goes a moment after the client has heard.
  EXPECT_TRUE(
      Await([&] { return ReadSamples(server.MetricsText()).at("reprise_rpc_in_flight") == 0; }));
}

TEST(ServerMetricsTest, TokensGoByWhereTheyCameFrom) {
  TestServer server(WithProbes());
  server.NewSession("s");
  server.Turn("sessions/s", Bytes("hello"), 4);
  server.Turn("sessions/s", Bytes("world"), 4);
  EXPECT_TRUE(server.AwaitIdle());
  const auto samples = ReadSamples(server.MetricsText());
  const std::string model = R"({model_name="puppet"})";
  EXPECT_EQ(samples.at("reprise_generation_tokens_total" + model), 8);
  EXPECT_EQ(samples.at("reprise_time_to_first_token_seconds_count" + model), 2);
  EXPECT_EQ(samples.at("reprise_inter_token_latency_seconds_count" + model), 6);
  EXPECT_EQ(samples.at("reprise_e2e_request_latency_seconds_count" + model), 2);
  EXPECT_EQ(samples.at("reprise_request_commit_time_seconds_count" + model), 2);
  // The first turn's state had consumed its 5 tokens and 3 of the answer; the fourth was pending.
  EXPECT_EQ(samples.at("reprise_restored_tokens_total" + model), 8);
  EXPECT_EQ(samples.at(R"(reprise_prompt_tokens_total{model_name="puppet",source="computed"})"),
            5 + 1 + 5);
  EXPECT_EQ(
      samples.at(
          R"(reprise_requests_finished_total{finished_reason="max_tokens",model_name="puppet"})"),
      2);
  EXPECT_EQ(samples.at("reprise_slots" + model), 4);
  EXPECT_EQ(samples.at("reprise_slots_free" + model), 4);
  EXPECT_EQ(samples.at("reprise_requests_running" + model), 0);
  // Two commits, one load; the same between slot and host.
  EXPECT_EQ(samples.at(R"(reprise_state_transfer_seconds_count{direction="save",tier="store"})"),
            2);
  EXPECT_EQ(samples.at(R"(reprise_state_transfer_seconds_count{direction="load",tier="store"})"),
            1);
  EXPECT_EQ(
      samples.at(
          R"(reprise_state_transfer_seconds_count{direction="load",model_name="puppet",tier="device"})"),
      1);
}

TEST(ServerMetricsTest, RunningAndWaitingRequestsShowWhileTheyDo) {
  TestServer server(WithProbes());
  server.gate().Hold();
  std::vector<std::thread> callers;
  for (int i = 0; i < 6; ++i) {  // two more than there are slots
    callers.emplace_back(
        [&] { EXPECT_TRUE(server.Generate(TokenRequest(Bytes("ab"), 1000)).status.ok()); });
  }
  const std::string model = R"({model_name="puppet"})";
  std::map<std::string, double> samples;
  do {  // gauges are those of the last step; steps go by until all six have come
    EXPECT_TRUE(server.gate().AwaitHeld());
    server.gate().Allow(1);
    EXPECT_TRUE(server.gate().AwaitHeld());
    samples = ReadSamples(server.MetricsText());
  } while (samples.at("reprise_requests_running" + model) +
               samples.at("reprise_requests_waiting" + model) <
           6);
  server.gate().Open();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(samples.at("reprise_requests_running" + model), 4);
  EXPECT_EQ(samples.at("reprise_requests_waiting" + model), 2);
  EXPECT_EQ(samples.at("reprise_slots_free" + model), 0);
}

TEST(ServerMetricsTest, ProbesFollowTheDrain) {
  TestServer server(WithProbes());
  EXPECT_EQ(Get(server, "/readyz")->status, 200);
  EXPECT_EQ(Get(server, "/healthz")->status, 200);
  EXPECT_THAT(Get(server, "/metrics")->body, HasSubstr("\nreprise_draining 0\n"));
  server.gate().Hold();
  Answer answer;
  std::thread caller([&] { answer = server.Generate(TokenRequest(Bytes("ab"), 2)); });
  EXPECT_TRUE(server.gate().AwaitHeld());
  std::thread drain([&] { server.server().Drain(); });
  EXPECT_TRUE(Await([&] { return Get(server, "/readyz")->status != 200; }));
  // The call goes on, and so does the second port.
  EXPECT_EQ(Get(server, "/readyz")->status, 503);
  EXPECT_EQ(Get(server, "/readyz")->body, "draining\n");
  EXPECT_EQ(Get(server, "/healthz")->status, 200);
  EXPECT_THAT(Get(server, "/metrics")->body, HasSubstr("\nreprise_draining 1\n"));
  server.gate().Open();
  caller.join();
  drain.join();
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(Get(server, "/healthz")->status, 200);
  EXPECT_EQ(Get(server, "/readyz")->status, 503);
}

TEST(ServerMetricsTest, AStoreThatDoesNotAnswerIsSaidButDoesNotCount) {
  bool answers = true;
  TestServer::Options options = WithProbes();
  options.store_answers = [&] { return answers; };
  TestServer server(options);
  EXPECT_EQ(Get(server, "/readyz")->body, "ready\n");
  answers = false;
  EXPECT_EQ(Get(server, "/readyz")->status, 200);
  EXPECT_THAT(Get(server, "/readyz")->body, HasSubstr("the store does not answer"));
}

TEST(ServerMetricsTest, NoSecondPortUnlessItIsAskedFor) {
  TestServer server;
  EXPECT_EQ(server.server().metrics_port(), 0);
}

}  // namespace
}  // namespace reprise::service
