// Exports and imports, whole and tampered with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Bytes;
using testing::ByteTokenizer;
using testing::ErrorInfoIn;
using testing::FieldsIn;
using testing::ReasonIn;
using testing::TestServer;
using Ids = std::vector<int32_t>;

grpc::Status Export(TestServer& server, const std::string& name, std::string* file) {
  grpc::ClientContext context;
  v1::ExportSnapshotRequest request;
  request.set_name(name);
  auto reader = server.sessions().ExportSnapshot(&context, request);
  v1::ExportSnapshotResponse response;
  file->clear();
  while (reader->Read(&response)) file->append(response.data());
  return reader->Finish();
}

grpc::Status Import(TestServer& server, const std::string& file, const std::string& id,
                    v1::Session* session, size_t piece = 100'000, const std::string& model = "") {
  grpc::ClientContext context;
  auto writer = server.sessions().ImportSnapshot(&context, session);
  v1::ImportSnapshotRequest request;
  request.mutable_session()->set_session_id(id);
  request.mutable_session()->set_model(model);
  writer->Write(request);
  for (size_t at = 0; at < file.size(); at += piece) {
    request.set_data(file.substr(at, piece));
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

// A session of several pieces, with the tokens it has.
Ids MakeSession(TestServer& server, const std::string& id) {
  const std::string name = server.NewSession(id).name();
  Ids tokens = Bytes("move me");
  const Ids answer = server.Turn(name, tokens, 9).ids;
  tokens.insert(tokens.end(), answer.begin(), answer.end());
  return tokens;
}

TestServer::Options Large() {
  auto options = TestServer::SmallOptions();
  options.state_words = 200'000;  // 1.6 MB: several messages each way
  return options;
}

TEST(TransferTest, ASessionMovesToAnotherServerAndGoesOnExactly) {
  TestServer from(Large()), to(Large());
  Ids tokens = MakeSession(from, "chat");
  std::string file;
  grpc::Status status = Export(from, "sessions/chat", &file);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(file.size(), 1'000'000u);
  v1::Session session;
  status = Import(to, file, "moved", &session);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(session.name(), "sessions/moved");
  EXPECT_EQ(session.token_count(), static_cast<int64_t>(tokens.size()));
  tokens.push_back(ByteTokenizer::Id('?'));
  EXPECT_EQ(to.Turn("sessions/moved", Bytes("?"), 12).ids, to.Expected(tokens, 12));
  EXPECT_TRUE(to.store().CheckIntegrity().ok());
}

TEST(TransferTest, ASlowReaderOfAnExportHoldsNothingUp) {
  TestServer server(Large());
  MakeSession(server, "chat");
  grpc::ClientContext context;
  v1::ExportSnapshotRequest request;
  request.set_name("sessions/chat");
  auto reader = server.sessions().ExportSnapshot(&context, request);
  // Nobody reads yet, and the session goes on.
  server.Turn("sessions/chat", Bytes("on"), 3);
  v1::ExportSnapshotResponse response;
  size_t bytes = 0;
  while (reader->Read(&response)) bytes += response.data().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_GT(bytes, 1'000'000u);
}

TEST(TransferTest, ATamperedFileIsRefusedAndLeavesNothing) {
  TestServer server;
  MakeSession(server, "chat");
  std::string file;
  ASSERT_TRUE(Export(server, "sessions/chat", &file).ok());
  v1::Session session;
  for (size_t at = 0; at < file.size(); at += 1 + file.size() / 97) {
    std::string bad = file;
    bad[at] = static_cast<char>(bad[at] ^ 0x20);
    const grpc::Status status = Import(server, bad, "bad", &session);
    ASSERT_FALSE(status.ok()) << "byte " << at;
    EXPECT_THAT(ReasonIn(status), ::testing::AnyOf("CORRUPT_SNAPSHOT", "UNSUPPORTED_FORMAT"))
        << "byte " << at << ": " << status.error_message();
  }
  for (size_t size : {size_t{0}, size_t{1}, file.size() / 2, file.size() - 1}) {
    const grpc::Status status = Import(server, file.substr(0, size), "bad", &session);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS) << size;
  }
  EXPECT_EQ(Import(server, file + "x", "bad", &session).error_code(), grpc::StatusCode::DATA_LOSS);
  grpc::ClientContext context;
  v1::ListSessionsResponse list;
  ASSERT_TRUE(server.sessions().ListSessions(&context, {}, &list).ok());
  EXPECT_EQ(list.sessions_size(), 1);
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
}

TEST(TransferTest, AnotherModelsFileIsRefused) {
  TestServer from;
  auto options = TestServer::SmallOptions();
  options.weights_fingerprint = std::string(64, 'd');
  TestServer to(options);
  MakeSession(from, "chat");
  std::string file;
  ASSERT_TRUE(Export(from, "sessions/chat", &file).ok());
  v1::Session session;
  grpc::Status status = Import(to, file, "moved", &session);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonIn(status), "FINGERPRINT_MISMATCH");
  EXPECT_EQ(ErrorInfoIn(status).metadata().at("field"), "weights_fingerprint");
  status = Import(from, file, "moved", &session, 1000, "unknown");
  EXPECT_EQ(ReasonIn(status), "MODEL_NOT_FOUND");
}

TEST(TransferTest, WhatIsNotThereCannotBeExported) {
  TestServer server;
  server.NewSession("empty");
  std::string file;
  EXPECT_EQ(ReasonIn(Export(server, "sessions/none", &file)), "SESSION_NOT_FOUND");
  EXPECT_EQ(ReasonIn(Export(server, "sessions/empty", &file)), "EMPTY_SESSION");
  EXPECT_THAT(FieldsIn(Export(server, "none", &file)), ::testing::ElementsAre("name"));
}

TEST(TransferTest, AnImportMustKeepToItsForm) {
  TestServer server;
  MakeSession(server, "chat");
  std::string file;
  ASSERT_TRUE(Export(server, "sessions/chat", &file).ok());
  v1::Session session;
  v1::ImportSnapshotRequest first, data;
  first.mutable_session()->set_session_id("moved");
  data.set_data(file);
  const auto send = [&](const std::vector<v1::ImportSnapshotRequest>& messages) {
    grpc::ClientContext context;
    auto writer = server.sessions().ImportSnapshot(&context, &session);
    for (const auto& message : messages) {
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  };
  EXPECT_THAT(FieldsIn(send({})), ::testing::ElementsAre("session"));
  EXPECT_THAT(FieldsIn(send({data})), ::testing::ElementsAre("session"));
  EXPECT_THAT(FieldsIn(send({first, first})), ::testing::ElementsAre("session"));
  v1::ImportSnapshotRequest piece;
  piece.set_data(std::string((1 << 20) + 1, 'x'));
  EXPECT_THAT(FieldsIn(send({first, piece})), ::testing::ElementsAre("data"));
  // More than any state here can have.
  piece.set_data(std::string(1 << 20, 'x'));
  std::vector<v1::ImportSnapshotRequest> endless(18, piece);
  endless.insert(endless.begin(), first);
  EXPECT_THAT(FieldsIn(send(endless)), ::testing::ElementsAre("data"));
  EXPECT_TRUE(send({first, data}).ok());
  EXPECT_EQ(ReasonIn(send({first, data})), "SESSION_EXISTS");
}

TEST(TransferTest, AnImportThatIsBrokenOffLeavesNothing) {
  TestServer server;
  MakeSession(server, "chat");
  std::string file;
  ASSERT_TRUE(Export(server, "sessions/chat", &file).ok());
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    v1::Session session;
    auto writer = server.sessions().ImportSnapshot(&context, &session);
    v1::ImportSnapshotRequest message;
    message.mutable_session()->set_session_id("moved");
    writer->Write(message);
    message.set_data(file.substr(0, file.size() / 2));
    writer->Write(message);
    context.TryCancel();
    EXPECT_FALSE(writer->Finish().ok());
  }
  // Permits were given back: more rounds than there are of them.
  const absl::Time limit = absl::Now() + testing::kPatience;
  grpc::Status status;
  do {  // the last cancels may still be on their way
    status = Export(server, "sessions/chat", &file);
  } while (ReasonIn(status) == "QUEUE_FULL" && absl::Now() < limit);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(server.store().Stats("default")->sessions, 1u);
  EXPECT_TRUE(server.store().CheckIntegrity().ok());
}

TEST(TransferTest, OnlySoManyAreInProgressAtOnce) {
  TestServer server;
  MakeSession(server, "chat");
  std::string file;
  const auto exported = [&] { return ReasonIn(Export(server, "sessions/chat", &file)); };
  ASSERT_EQ(exported(), "");
  // Files whose senders take their time.
  struct Slow {
    grpc::ClientContext context;
    v1::Session session;
    std::unique_ptr<grpc::ClientWriter<v1::ImportSnapshotRequest>> writer;
  };
  std::vector<std::unique_ptr<Slow>> slow;
  v1::ImportSnapshotRequest first;
  first.mutable_session()->set_session_id("slow");
  while (exported() == "" && slow.size() < 1000) {
    slow.push_back(std::make_unique<Slow>());
    slow.back()->writer =
        server.sessions().ImportSnapshot(&slow.back()->context, &slow.back()->session);
    ASSERT_TRUE(slow.back()->writer->Write(first));
  }
  ASSERT_LT(slow.size(), 1000u);
  EXPECT_EQ(exported(), "QUEUE_FULL");
  // One that ends gives its place back. The last may have been refused themselves, when they came
  // beside those that took the last places, and have none.
  bool free = false;
  while (!free && !slow.empty()) {
    slow.back()->context.TryCancel();
    EXPECT_FALSE(slow.back()->writer->Finish().ok());
    slow.pop_back();
    for (int i = 0; i < 100 && !free; ++i) {
      free = exported() == "";
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  EXPECT_TRUE(free);
  for (const auto& one : slow) one->context.TryCancel();
  for (const auto& one : slow) EXPECT_FALSE(one->writer->Finish().ok());
}

}  // namespace
}  // namespace reprise::service
