// Quotas of tenants, as their calls feel them. What the limits mean over time is in
// auth/quota_book_test.cc, on a clock that stands still.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "service/auth/token_file.h"
#include "tests/service/testing/tenant_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::HasRetryInfo;
using ::testing::HasSubstr;
using testing::ReasonIn;
using testing::TenantServer;
using testing::TokenRequest;

void ExpectExceeded(const grpc::Status& status, const std::string& limit) {
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(ReasonIn(status), "QUOTA_EXCEEDED");
  EXPECT_THAT(status.error_message(), HasSubstr(limit));
  EXPECT_EQ(testing::ErrorInfoIn(status).metadata().at("quota"), limit);
}

v1::GenerateRequest TurnOf(const std::string& session, int tokens) {
  v1::GenerateRequest request = TokenRequest({1, 2, 3}, tokens);
  request.set_session("sessions/" + session);
  return request;
}

std::string Export(TenantServer& server, const std::string& tenant, const std::string& session) {
  const auto context = server.Context(tenant);
  v1::ExportSnapshotRequest request;
  request.set_name("sessions/" + session);
  const auto pieces = server->sessions().ExportSnapshot(context.get(), request);
  v1::ExportSnapshotResponse piece;
  std::string file;
  while (pieces->Read(&piece)) file += piece.data();
  EXPECT_TRUE(pieces->Finish().ok());
  return file;
}

grpc::Status Import(TenantServer& server, const std::string& tenant, const std::string& id,
                    const std::string& file) {
  const auto context = server.Context(tenant);
  v1::Session session;
  const auto writer = server->sessions().ImportSnapshot(context.get(), &session);
  v1::ImportSnapshotRequest part;
  part.mutable_session()->set_session_id(id);
  writer->Write(part);
  part.set_data(file);
  writer->Write(part);
  writer->WritesDone();
  return writer->Finish();
}

TEST(QuotaCallsTest, RequestsAreLimitedPerTenant) {
  // One more comes after 1000 seconds.
  TenantServer server({"a", "b"},
                      R"({"defaults": {"requests_per_second": 0.001, "request_burst": 3}})");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(server.Create("a", "s" + std::to_string(i)).ok());
  const grpc::Status refused = server.Create("a", "s3");
  ExpectExceeded(refused, "requests_per_second");
  EXPECT_TRUE(HasRetryInfo(refused));
  ExpectExceeded(server.Generate("a", TokenRequest({1}, 1)).status, "requests_per_second");
  EXPECT_TRUE(server.Create("b", "s0").ok());
}

TEST(QuotaCallsTest, ARunningAnswerIsACallInProgress) {
  TenantServer server({"a", "b"}, R"({"tenants": {"a": {"concurrent_requests": 1}}})");
  server->gate().Hold();
  const auto context = server.Context("a");
  const auto reader = server->generation().Generate(context.get(), TokenRequest({1}, 2));
  ASSERT_TRUE(server->gate().AwaitHeld());
  ExpectExceeded(server.Create("a", "s"), "concurrent_requests");
  ExpectExceeded(server.Generate("a", TokenRequest({1}, 1)).status, "concurrent_requests");
  EXPECT_TRUE(server.Create("b", "s").ok());
  server->gate().Open();
  EXPECT_TRUE(testing::ReadAll(reader.get()).status.ok());
  EXPECT_TRUE(server.Create("a", "s").ok());
}

// However calls end: the next one comes the moment the client has heard, and is never refused.
TEST(QuotaCallsTest, APlaceIsFreeWhenTheClientHearsOfTheEnd) {
  TenantServer server({"a"}, R"({"tenants": {"a": {"concurrent_requests": 1}}})");
  const auto call = [&](auto method, auto& stub, const auto& request, auto* response) {
    const auto context = server.Context("a");
    return (stub.*method)(context.get(), request, response);
  };
  v1::DeleteSessionRequest remove;
  google::protobuf::Empty empty;
  ASSERT_TRUE(server.Create("a", "kept").ok());
  ASSERT_TRUE(server.Generate("a", TurnOf("kept", 2)).status.ok());
  for (int i = 0; i < 100; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(server.Generate("a", TokenRequest({1}, 1)).status.ok());
    const std::string id = "s" + std::to_string(i);
    ASSERT_TRUE(server.Create("a", id).ok());
    ASSERT_EQ(server.Create("a", id).error_code(), grpc::StatusCode::ALREADY_EXISTS);
    ASSERT_TRUE(server.Generate("a", TurnOf(id, 2)).status.ok());
    ASSERT_EQ(server.Generate("a", TurnOf("none", 2)).status.error_code(),
              grpc::StatusCode::NOT_FOUND);

    // The last message says that the answer is finished; its client need not wait for the status.
    const auto context = server.Context("a");
    v1::GenerateRequest several = TokenRequest({1}, 3);
    several.set_n(1 + i % 3);
    const auto reader = server->generation().Generate(context.get(), several);
    v1::GenerateResponse message;
    for (int finished = 0; finished < several.n(); finished += message.has_finished()) {
      ASSERT_TRUE(reader->Read(&message));
    }
    remove.set_name("sessions/" + id);
    ASSERT_TRUE(
        call(&v1::SessionService::Stub::DeleteSession, server->sessions(), remove, &empty).ok());
    ASSERT_FALSE(reader->Read(&message));
    ASSERT_TRUE(reader->Finish().ok());

    const std::string file = Export(server, "a", "kept");
    const grpc::Status imported = Import(server, "a", "i" + std::to_string(i), file);
    ASSERT_TRUE(imported.ok()) << imported.error_message();
  }
}

// A server takes its time to let go of such a message, and its place is not part of that.
TEST(QuotaCallsTest, APlaceIsFreeBeforeALargeRequestIs) {
  TenantServer server({"a"}, R"({"tenants": {"a": {"concurrent_requests": 1}}})");
  v1::CreateSessionRequest large;
  for (int i = 0; i < 50'000; ++i) (*large.mutable_labels())["label-" + std::to_string(i)] = "";
  for (int i = 0; i < 4; ++i) {
    const auto context = server.Context("a");
    v1::Session session;
    ASSERT_EQ(server->sessions().CreateSession(context.get(), large, &session).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    ASSERT_TRUE(server.Create("a", "s" + std::to_string(i)).ok());
  }
}

TEST(QuotaCallsTest, TokensOfPromptsAndAnswersCount) {
  // Far more than what comes back while the test runs.
  TenantServer server({"a"}, R"({"tenants": {"a": {"tokens_per_minute": 100}}})");
  const Answer first = server.Generate("a", TokenRequest({1, 2, 3}, 2000));
  ASSERT_TRUE(first.status.ok()) << "an answer is not cut";
  EXPECT_EQ(first.ids.size(), 2000u);
  const grpc::Status refused = server.Generate("a", TokenRequest({1}, 1)).status;
  ExpectExceeded(refused, "tokens_per_minute");
  EXPECT_TRUE(HasRetryInfo(refused));
  EXPECT_TRUE(server.Create("a", "s").ok()) << "other calls need no tokens";
}

TEST(QuotaCallsTest, SessionsAreCountedWhereverTheyComeFrom) {
  TenantServer server({"a"}, R"({"tenants": {"a": {"sessions": 2}}})");
  ASSERT_TRUE(server.Create("a", "one").ok());
  ASSERT_TRUE(server.Generate("a", TurnOf("one", 2)).status.ok());
  ASSERT_TRUE(server.Create("a", "two").ok());
  const grpc::Status refused = server.Create("a", "three");
  ExpectExceeded(refused, "sessions");
  EXPECT_FALSE(HasRetryInfo(refused)) << "waiting does not help";
  const auto fork = [&] {
    const auto context = server.Context("a");
    v1::ForkSessionRequest request;
    request.set_source("sessions/one");
    v1::Session session;
    return server->sessions().ForkSession(context.get(), request, &session);
  };
  ExpectExceeded(fork(), "sessions");
  const std::string file = Export(server, "a", "one");
  ExpectExceeded(Import(server, "a", "three", file), "sessions");
  EXPECT_TRUE(server.Generate("a", TurnOf("one", 2)).status.ok()) << "what is there goes on";
  ASSERT_TRUE(server.Delete("a", "two").ok());
  EXPECT_TRUE(fork().ok());
  ExpectExceeded(Import(server, "a", "three", file), "sessions");
}

TEST(QuotaCallsTest, ATurnNeedsRoomForAState) {
  TenantServer server({"a", "b"}, R"({"tenants": {"a": {"stored_bytes": 1}}})");
  ASSERT_TRUE(server.Create("a", "one").ok());
  ASSERT_TRUE(server.Create("b", "one").ok());
  ExpectExceeded(server.Generate("a", TurnOf("one", 2)).status, "stored_bytes");
  EXPECT_TRUE(server.Generate("a", TokenRequest({1}, 2)).status.ok()) << "this stores nothing";
  EXPECT_TRUE(server.Generate("b", TurnOf("one", 2)).status.ok());
  const std::string file = Export(server, "b", "one");
  ExpectExceeded(Import(server, "a", "two", file), "stored_bytes");
  EXPECT_TRUE(Import(server, "b", "two", file).ok());
}

TEST(QuotaCallsTest, ADeletedSnapshotMakesRoomAtOnce) {
  // Room for two states and a half; the store shares what is equal, so each turn differs.
  const auto state = [] {
    TenantServer probe({"a"});
    EXPECT_TRUE(probe.Create("a", "one").ok());
    EXPECT_TRUE(probe.Generate("a", TurnOf("one", 2)).status.ok());
    return probe->store().Usage("a")->stored_bytes;
  }();
  TenantServer server(
      {"a"}, R"({"tenants": {"a": {"stored_bytes": )" + std::to_string(state * 5 / 2) + "}}}");
  ASSERT_TRUE(server.Create("a", "one").ok());
  ASSERT_TRUE(server.Generate("a", TurnOf("one", 2)).status.ok());
  const auto context = server.Context("a");
  v1::CreateSnapshotRequest keep;
  keep.set_session("sessions/one");
  v1::Snapshot kept;
  ASSERT_TRUE(server->sessions().CreateSnapshot(context.get(), keep, &kept).ok());
  ASSERT_TRUE(server.Generate("a", TurnOf("one", 3)).status.ok());
  ExpectExceeded(server.Generate("a", TurnOf("one", 4)).status, "stored_bytes");
  v1::DeleteSnapshotRequest remove;
  remove.set_name(kept.name());
  const auto removing = server.Context("a");
  google::protobuf::Empty empty;
  ASSERT_TRUE(server->sessions().DeleteSnapshot(removing.get(), remove, &empty).ok());
  EXPECT_TRUE(server.Generate("a", TurnOf("one", 4)).status.ok());
}

TEST(QuotaCallsTest, ANewFileHoldsWithoutEndingACall) {
  TenantServer server({"a"}, R"({"tenants": {"a": {}}})");
  server->gate().Hold();
  const auto context = server.Context("a");
  const auto reader = server->generation().Generate(context.get(), TokenRequest({1}, 5));
  ASSERT_TRUE(server->gate().AwaitHeld());
  server.WriteTenants(R"({"tenants": {"a": {"disabled": true}}})");
  server->server().Reload();
  const grpc::Status refused = server.Create("a", "s");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(ReasonIn(refused), "PERMISSION_DENIED");
  server.WriteTenants(R"({"tenants": {"a": {"concurrent_requests": 1}}})");
  server->server().Reload();
  ExpectExceeded(server.Create("a", "s"), "concurrent_requests");
  server.WriteTenants("broken");
  server->server().Reload();
  ExpectExceeded(server.Create("a", "s"), "concurrent_requests");
  server->gate().Open();
  EXPECT_TRUE(testing::ReadAll(reader.get()).status.ok());
}

}  // namespace
}  // namespace reprise::service
