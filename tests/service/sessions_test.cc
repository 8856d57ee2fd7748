// SessionService: sessions, forks, rewinds, snapshots.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using ::testing::ElementsAre;
using testing::FieldsIn;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;
using Ids = std::vector<int32_t>;

Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class SessionsTest : public ::testing::Test {
 protected:
  using Stub = v1::SessionService::Stub;

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return (server_.sessions().*method)(&context, request, response);
  }

  grpc::Status Fork(const std::string& source, const std::string& id, v1::Session* session) {
    v1::ForkSessionRequest request;
    request.set_source(source);
    request.set_session_id(id);
    return Call(&Stub::ForkSession, request, session);
  }

  v1::Snapshot Keep(const std::string& session) {
    v1::CreateSnapshotRequest request;
    request.set_session(session);
    v1::Snapshot snapshot;
    const grpc::Status status = Call(&Stub::CreateSnapshot, request, &snapshot);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return snapshot;
  }

  TestServer server_;
};

TEST_F(SessionsTest, ANewSessionIsEmptyAndSaysWhatItWasGiven) {
  v1::CreateSessionRequest request;
  request.set_session_id("chat-1");
  request.mutable_ttl()->set_seconds(3600);
  (*request.mutable_labels())["user"] = "ada";
  v1::Session session;
  ASSERT_TRUE(Call(&Stub::CreateSession, request, &session).ok());
  EXPECT_EQ(session.name(), "sessions/chat-1");
  EXPECT_EQ(session.version(), 1u);
  EXPECT_EQ(session.token_count(), 0);
  EXPECT_EQ(session.state_bytes(), 0);
  EXPECT_EQ(session.head_snapshot(), "");
  EXPECT_EQ(session.labels().at("user"), "ada");
  EXPECT_GE(session.expire_time().seconds(), session.create_time().seconds() + 3599);
  EXPECT_EQ(server_.GetSession("sessions/chat-1").labels().at("user"), "ada");

  const grpc::Status again = Call(&Stub::CreateSession, request, &session);
  EXPECT_EQ(again.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(ReasonIn(again), "SESSION_EXISTS");
}

TEST_F(SessionsTest, ATimeFarAwayIsATimestamp) {
  constexpr int64_t kYear = 31'556'952, kEndOfTime = 253'402'300'799;
  v1::CreateSessionRequest request;
  v1::Session session;
  request.mutable_ttl()->set_seconds(300 * kYear);
  ASSERT_TRUE(Call(&Stub::CreateSession, request, &session).ok());
  EXPECT_EQ(session.expire_time().seconds() - session.create_time().seconds(), 300 * kYear);
  EXPECT_EQ(session.expire_time().nanos(), session.create_time().nanos());
  request.mutable_ttl()->set_seconds(9999 * kYear);
  ASSERT_TRUE(Call(&Stub::CreateSession, request, &session).ok());
  EXPECT_EQ(session.expire_time().seconds(), kEndOfTime);
  EXPECT_EQ(session.expire_time().nanos(), 0);
}

TEST_F(SessionsTest, TheServerChoosesAnIdAndARequestIdMakesOneSession) {
  v1::CreateSessionRequest request;
  request.set_request_id("r1");
  v1::Session first, second, other;
  ASSERT_TRUE(Call(&Stub::CreateSession, request, &first).ok());
  ASSERT_TRUE(Call(&Stub::CreateSession, request, &second).ok());
  EXPECT_EQ(first.name(), second.name());
  EXPECT_FALSE(first.has_expire_time());
  request.set_request_id("r2");
  ASSERT_TRUE(Call(&Stub::CreateSession, request, &other).ok());
  EXPECT_NE(first.name(), other.name());
}

TEST_F(SessionsTest, WrongFieldsAreNamed) {
  v1::CreateSessionRequest request;
  request.set_session_id("Not An Id");
  request.mutable_ttl()->set_seconds(-1);
  request.set_request_id(std::string(129, 'x'));
  for (int i = 0; i < 33; ++i) request.mutable_labels()->insert({absl::StrCat("k", i), "v"});
  v1::Session session;
  grpc::Status status = Call(&Stub::CreateSession, request, &session);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(FieldsIn(status), ElementsAre("session_id", "ttl", "labels", "request_id"));
  for (const auto& [key, value] : std::map<std::string, std::string>{
           {"", "v"}, {std::string(64, 'k'), "v"}, {"k", std::string(256, 'v')}}) {
    v1::CreateSessionRequest labelled;
    (*labelled.mutable_labels())[key] = value;
    status = Call(&Stub::CreateSession, labelled, &session);
    EXPECT_THAT(FieldsIn(status), ElementsAre("labels")) << key.size() << " " << value.size();
  }
  v1::CreateSessionRequest brief;
  brief.mutable_ttl()->set_nanos(999);
  EXPECT_THAT(FieldsIn(Call(&Stub::CreateSession, brief, &session)), ElementsAre("ttl"));
  v1::CreateSessionRequest unknown;
  unknown.set_model("nobody");
  EXPECT_EQ(ReasonIn(Call(&Stub::CreateSession, unknown, &session)), "MODEL_NOT_FOUND");
}

TEST_F(SessionsTest, PagesHaveEachSessionOnce) {
  std::set<std::string> expected;
  for (int i = 0; i < 25; ++i) {
    expected.insert(server_.NewSession(absl::StrCat("s", i)).name());
  }
  std::set<std::string> found;
  v1::ListSessionsRequest request;
  request.set_page_size(10);
  int pages = 0;
  do {
    v1::ListSessionsResponse response;
    ASSERT_TRUE(Call(&Stub::ListSessions, request, &response).ok());
    EXPECT_LE(response.sessions_size(), 10);
    for (const auto& session : response.sessions()) {
      EXPECT_TRUE(found.insert(session.name()).second);
    }
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(found, expected);
  EXPECT_EQ(pages, 3);

  v1::ListSessionsResponse response;
  for (int32_t size : {-1, 1001}) {
    request.set_page_size(size);
    EXPECT_THAT(FieldsIn(Call(&Stub::ListSessions, request, &response)), ElementsAre("page_size"));
  }
  request.set_page_size(0);
  request.set_page_token("made up");
  EXPECT_EQ(Call(&Stub::ListSessions, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(SessionsTest, AnUpdateChangesWhatItsMaskNames) {
  server_.NewSession("chat");
  v1::UpdateSessionRequest request;
  request.set_name("sessions/chat");
  (*request.mutable_labels())["a"] = "b";
  request.mutable_ttl()->set_seconds(60);
  request.mutable_update_mask()->add_paths("labels");
  v1::Session session;
  ASSERT_TRUE(Call(&Stub::UpdateSession, request, &session).ok());
  EXPECT_EQ(session.labels().at("a"), "b");
  EXPECT_FALSE(session.has_expire_time());
  EXPECT_EQ(session.version(), 1u);
  *request.mutable_update_mask()->mutable_paths(0) = "ttl";
  ASSERT_TRUE(Call(&Stub::UpdateSession, request, &session).ok());
  EXPECT_TRUE(session.has_expire_time());
  request.clear_ttl();
  ASSERT_TRUE(Call(&Stub::UpdateSession, request, &session).ok());
  EXPECT_FALSE(session.has_expire_time());
  *request.mutable_update_mask()->mutable_paths(0) = "version";
  EXPECT_THAT(FieldsIn(Call(&Stub::UpdateSession, request, &session)), ElementsAre("update_mask"));
  request.clear_update_mask();
  EXPECT_THAT(FieldsIn(Call(&Stub::UpdateSession, request, &session)), ElementsAre("update_mask"));
}

TEST_F(SessionsTest, WhatIsNotThereIsNotFound) {
  server_.NewSession("chat");
  v1::Session session;
  v1::GetSessionRequest get;
  get.set_name("sessions/none");
  grpc::Status status = Call(&Stub::GetSession, get, &session);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(status), "SESSION_NOT_FOUND");
  get.set_name("none");
  EXPECT_THAT(FieldsIn(Call(&Stub::GetSession, get, &session)), ElementsAre("name"));

  v1::GenerateRequest turn = TokenRequest(Bytes("go"), 1);
  turn.set_session("sessions/none");
  EXPECT_EQ(ReasonIn(server_.Generate(turn).status), "SESSION_NOT_FOUND");

  v1::GetSnapshotRequest snapshot;
  snapshot.set_name("sessions/chat/snapshots/none");
  v1::Snapshot unused;
  EXPECT_EQ(ReasonIn(Call(&Stub::GetSnapshot, snapshot, &unused)), "SNAPSHOT_NOT_FOUND");
}

TEST_F(SessionsTest, AForkGoesItsOwnWay) {
  const std::string trunk = server_.NewSession("trunk").name();
  Ids tokens = Bytes("once upon");
  tokens = tokens + server_.Turn(trunk, tokens, 6).ids;
  v1::Session branch;
  ASSERT_TRUE(Fork(trunk, "branch", &branch).ok());
  const v1::Session parent = server_.GetSession(trunk);
  EXPECT_EQ(branch.token_count(), parent.token_count());
  EXPECT_EQ(branch.parent_snapshot(), parent.head_snapshot());
  EXPECT_EQ(branch.model(), "puppet");

  EXPECT_EQ(server_.Turn(branch.name(), Bytes("a"), 8).ids,
            server_.Expected(tokens + Bytes("a"), 8));
  EXPECT_EQ(server_.Turn(trunk, Bytes("b"), 8).ids, server_.Expected(tokens + Bytes("b"), 8));
  EXPECT_EQ(server_.GetSession(trunk).version(), 3u);

  // The parent's end is not the fork's.
  google::protobuf::Empty empty;
  v1::DeleteSessionRequest remove;
  remove.set_name(trunk);
  ASSERT_TRUE(Call(&Stub::DeleteSession, remove, &empty).ok());
  EXPECT_EQ(ReasonIn(Call(&Stub::DeleteSession, remove, &empty)), "SESSION_NOT_FOUND");
  server_.Turn(branch.name(), Bytes("c"), 2);
  EXPECT_TRUE(server_.store().CheckIntegrity().ok());
}

TEST_F(SessionsTest, AnEmptySessionHasNothingToForkKeepOrContinue) {
  const std::string name = server_.NewSession("empty").name();
  v1::Session branch;
  const grpc::Status status = Fork(name, "branch", &branch);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonIn(status), "EMPTY_SESSION");
  v1::CreateSnapshotRequest keep;
  keep.set_session(name);
  v1::Snapshot snapshot;
  EXPECT_EQ(ReasonIn(Call(&Stub::CreateSnapshot, keep, &snapshot)), "EMPTY_SESSION");
  v1::GenerateRequest turn = TokenRequest({}, 3);
  turn.set_session(name);
  EXPECT_EQ(ReasonIn(server_.Generate(turn).status), "EMPTY_SEQUENCE");
}

TEST_F(SessionsTest, ARewindGoesOnFromTheSnapshot) {
  const std::string name = server_.NewSession("chat").name();
  Ids tokens = Bytes("start");
  tokens = tokens + server_.Turn(name, tokens, 5).ids;
  const v1::Snapshot kept = Keep(name);
  EXPECT_TRUE(kept.retained());
  EXPECT_EQ(kept.token_count(), 10);
  EXPECT_EQ(kept.token_hash().size(), 64u);
  server_.Turn(name, Bytes("a wrong way"), 5);

  v1::RewindSessionRequest request;
  request.set_name(name);
  request.set_snapshot(kept.name());
  v1::Session session;
  request.set_session_version(1);
  grpc::Status status = Call(&Stub::RewindSession, request, &session);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonIn(status), "VERSION_MISMATCH");
  request.set_session_version(3);
  request.set_request_id("rewind-1");
  ASSERT_TRUE(Call(&Stub::RewindSession, request, &session).ok());
  EXPECT_EQ(session.version(), 4u);
  EXPECT_EQ(session.head_snapshot(), kept.name());
  ASSERT_TRUE(Call(&Stub::RewindSession, request, &session).ok());
  EXPECT_EQ(session.version(), 4u) << "a repeat is the same rewind";
  request.set_session_version(0);
  EXPECT_THAT(FieldsIn(Call(&Stub::RewindSession, request, &session)),
              ElementsAre("session_version"));
  request.clear_request_id();
  ASSERT_TRUE(Call(&Stub::RewindSession, request, &session).ok());
  EXPECT_EQ(session.version(), 5u);
  EXPECT_EQ(server_.Turn(name, Bytes("x"), 6).ids, server_.Expected(tokens + Bytes("x"), 6));

  request.set_snapshot("sessions/other/snapshots/a");
  EXPECT_THAT(FieldsIn(Call(&Stub::RewindSession, request, &session)), ElementsAre("snapshot"));
}

TEST_F(SessionsTest, AForkRewindsToItsOriginUnderItsOwnName) {
  const std::string trunk = server_.NewSession("trunk").name();
  Ids tokens = Bytes("go");
  tokens = tokens + server_.Turn(trunk, tokens, 3).ids;
  v1::Session branch;
  ASSERT_TRUE(Fork(trunk, "branch", &branch).ok());
  server_.Turn(branch.name(), Bytes("away"), 3);
  const std::string& parent = branch.parent_snapshot();
  v1::RewindSessionRequest request;
  request.set_name(branch.name());
  request.set_snapshot(absl::StrCat(branch.name(), parent.substr(parent.find("/snapshots/"))));
  v1::Session session;
  ASSERT_TRUE(Call(&Stub::RewindSession, request, &session).ok());
  EXPECT_EQ(server_.Turn(branch.name(), Bytes("x"), 4).ids,
            server_.Expected(tokens + Bytes("x"), 4));
}

TEST_F(SessionsTest, SnapshotsAreListedReadAndDeleted) {
  const std::string name = server_.NewSession("chat").name();
  std::vector<std::string> kept;
  for (int i = 0; i < 5; ++i) {
    server_.Turn(name, Bytes("go"), 2);
    kept.push_back(Keep(name).name());
  }
  server_.Turn(name, Bytes("go"), 2);
  v1::ListSnapshotsRequest list;
  list.set_session(name);
  list.set_page_size(4);
  v1::ListSnapshotsResponse page;
  ASSERT_TRUE(Call(&Stub::ListSnapshots, list, &page).ok());
  EXPECT_EQ(page.snapshots_size(), 4);
  EXPECT_EQ(page.snapshots(0).name(), kept[0]);
  list.set_page_token(page.next_page_token());
  ASSERT_TRUE(Call(&Stub::ListSnapshots, list, &page).ok());
  EXPECT_EQ(page.snapshots_size(), 2);  // one kept, and the head
  EXPECT_FALSE(page.snapshots(1).retained());

  v1::DeleteSnapshotRequest remove;
  google::protobuf::Empty empty;
  remove.set_name(server_.GetSession(name).head_snapshot());
  const grpc::Status head = Call(&Stub::DeleteSnapshot, remove, &empty);
  EXPECT_EQ(head.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonIn(head), "SNAPSHOT_IN_USE");
  remove.set_name(kept[2]);
  ASSERT_TRUE(Call(&Stub::DeleteSnapshot, remove, &empty).ok());
  v1::GetSnapshotRequest get;
  get.set_name(kept[2]);
  v1::Snapshot snapshot;
  EXPECT_EQ(ReasonIn(Call(&Stub::GetSnapshot, get, &snapshot)), "SNAPSHOT_NOT_FOUND");
  get.set_name(kept[3]);
  ASSERT_TRUE(Call(&Stub::GetSnapshot, get, &snapshot).ok());
  EXPECT_EQ(snapshot.model(), "puppet");
  EXPECT_EQ(snapshot.state_bytes(), 16 * 8);
  EXPECT_TRUE(server_.store().CheckIntegrity().ok());
}

}  // namespace
}  // namespace reprise::service
