// What one tenant can learn of another: nothing. Every call of every service, found through their
// descriptors, is made with names of what another tenant has and with names of what nobody has; the
// answers must be the same to the last byte but for the name that the caller itself has sent.
#include <gmock/gmock.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/field_mask.pb.h>
#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "tests/service/testing/tenant_server.h"

namespace reprise::service {
namespace {

namespace pb = google::protobuf;
using testing::AllMethods;
using testing::Answer;
using testing::Bytes;
using ::testing::HasSubstr;
using testing::PathOf;
using testing::RawAnswer;
using testing::RawCall;
using testing::ReasonIn;
using testing::TenantServer;
using testing::TestServer;
using testing::TokenRequest;

// What a request asks about.
struct Target {
  std::string session, snapshot, request_id;

  std::string session_name() const { return "sessions/" + session; }
  std::string snapshot_name() const { return session_name() + "/snapshots/" + snapshot; }
};

// A field that may be of a session or of a snapshot is tried as either; some calls want more with a
// request id, and are tried without one too.
enum class Form { kSession, kSnapshot, kWithoutRequestId };
constexpr Form kForms[] = {Form::kSession, Form::kSnapshot, Form::kWithoutRequestId};

// Puts the target's names wherever a field's name says that they belong. True if there was one.
bool Fill(pb::Message* message, const Target& target, Form form) {
  bool named = false;
  const pb::Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const pb::FieldDescriptor* field = message->GetDescriptor()->field(i);
    const std::string name(field->name());
    if (field->is_repeated()) continue;
    if (name == "update_mask") {
      static_cast<pb::FieldMask*>(reflection.MutableMessage(message, field))->add_paths("labels");
    } else if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      // Of an import: its first message. Prompts, options and times name nothing.
      if (name == "session") named |= Fill(reflection.MutableMessage(message, field), target, form);
    } else if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING) {
      std::string text;
      if (name == "session") text = target.session_name();
      if (name == "snapshot") text = target.snapshot_name();
      if (name == "name" || name == "source") {
        text = form == Form::kSnapshot ? target.snapshot_name() : target.session_name();
      }
      if (name == "session_id") text = target.session;
      if (name == "request_id" && form != Form::kWithoutRequestId) text = target.request_id;
      if (text.empty()) continue;
      reflection.SetString(message, field, text);
      named = true;
    }
  }
  return named;
}

// Times differ from call to call.
void ClearTimes(pb::Message* message) {
  const pb::Reflection& reflection = *message->GetReflection();
  std::vector<const pb::FieldDescriptor*> set;
  reflection.ListFields(*message, &set);
  for (const pb::FieldDescriptor* field : set) {
    if (field->cpp_type() != pb::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string type(field->message_type()->full_name());
    if (type == "google.protobuf.Timestamp" || type == "reprise.v1.Timeline") {
      reflection.ClearField(message, field);
    } else if (!field->is_repeated()) {
      ClearTimes(reflection.MutableMessage(message, field));
    }
  }
}

class TenantSeparationTest : public ::testing::Test {
 protected:
  TenantSeparationTest() : server_({"victim", "attacker"}) {
    EXPECT_TRUE(server_.Create("victim", "real").ok());
    v1::GenerateRequest turn = TokenRequest({1, 2, 3, 4, 5}, 4);
    turn.set_session("sessions/real");
    turn.set_request_id("turn-of-victim");
    const Answer answer = server_.Generate("victim", turn);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    const auto context = server_.Context("victim");
    v1::CreateSnapshotRequest keep;
    keep.set_session("sessions/real");
    v1::Snapshot snapshot;
    EXPECT_TRUE(server_->sessions().CreateSnapshot(context.get(), keep, &snapshot).ok());
    real_ = {"real", snapshot.name().substr(snapshot.name().rfind('/') + 1), "turn-of-victim"};
    none_ = {"none", std::string(real_.snapshot.size(), '7'), "turn-of-nobody"};
  }

  // The whole answer as text, with the names that the caller sent replaced by placeholders.
  std::string Ask(const std::string& tenant, const pb::MethodDescriptor& method,
                  const Target& target, Form form) {
    std::unique_ptr<pb::Message> request(
        pb::MessageFactory::generated_factory()->GetPrototype(method.input_type())->New());
    Fill(request.get(), target, form);
    const RawAnswer raw = RawCall(server_->channel(), PathOf(method), request->SerializeAsString(),
                                  server_.Metadata(tenant));
    std::string body = raw.bytes;
    std::unique_ptr<pb::Message> response(
        pb::MessageFactory::generated_factory()->GetPrototype(method.output_type())->New());
    if (!method.server_streaming() && response->ParseFromString(raw.bytes)) {
      ClearTimes(response.get());
      body = response->ShortDebugString();
    }
    const std::string text = std::to_string(raw.status.error_code()) + "|" +
                             raw.status.error_message() + "|" + raw.status.error_details() + "|" +
                             body;
    return absl::StrReplaceAll(
        text, {{target.session, "SESS"}, {target.snapshot, "SNAP"}, {target.request_id, "TURN"}});
  }

  // What the attacker makes by asking would answer the next question.
  void ForgetWhatTheAttackerMade() {
    for (const char* id : {"real", "none"}) server_.Delete("attacker", id);
  }

  std::string VictimsView() {
    std::string view;
    for (const pb::MethodDescriptor* method : AllMethods()) {
      const std::string name(method->name());
      if (name == "GetSession" || name == "ListSessions" || name == "ListSnapshots") {
        view += Ask("victim", *method, real_, Form::kSession);
      }
    }
    return view;
  }

  // Asks everything about what is there and what is not. Returns the methods whose answers to the
  // victim show that it is there, so that a test can see that the questions were good ones.
  std::set<std::string> CompareAll(bool ask_victim) {
    std::set<std::string> telling;
    for (const pb::MethodDescriptor* method : AllMethods()) {
      for (const Form form : kForms) {
        const std::string of_real = Ask("attacker", *method, real_, form);
        ForgetWhatTheAttackerMade();
        const std::string of_none = Ask("attacker", *method, none_, form);
        ForgetWhatTheAttackerMade();
        EXPECT_EQ(of_real, of_none) << method->full_name();
        const bool destroys = method->name() == "DeleteSession";
        if (ask_victim && !destroys && Ask("victim", *method, real_, form) != of_none) {
          telling.insert(std::string(method->name()));
        }
      }
    }
    return telling;
  }

  TenantServer server_;
  Target real_, none_;
};

TEST_F(TenantSeparationTest, TheListOfMethodsIsWhole) {
  TestServer open;
  const RawAnswer services =
      RawCall(open.channel(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
              "\x3A\x01*");
  std::set<std::string> known;
  for (const pb::MethodDescriptor* method : AllMethods()) {
    known.insert(std::string(method->service()->full_name()));
  }
  size_t found = 0;
  for (size_t at = services.bytes.find("reprise."); at != std::string::npos;
       at = services.bytes.find("reprise.", at + 1)) {
    ++found;
  }
  EXPECT_EQ(found, known.size()) << "a service that AllMethods does not know";
  for (const std::string& name : known) EXPECT_THAT(services.bytes, HasSubstr(name));
}

TEST_F(TenantSeparationTest, NobodyLearnsWhetherAnothersSessionExists) {
  const std::string before = VictimsView();
  CompareAll(false);
  EXPECT_EQ(VictimsView(), before) << "the attacker has changed something";
  const std::set<std::string> telling = CompareAll(true);
  for (const char* method :
       {"Generate", "CreateSession", "GetSession", "ListSessions", "UpdateSession", "ForkSession",
        "RewindSession", "GetCommit", "CreateSnapshot", "GetSnapshot", "ListSnapshots",
        "DeleteSnapshot", "ExportSnapshot"}) {
    EXPECT_EQ(telling.count(method), 1u) << method << " would not have noticed";
  }
}

TEST_F(TenantSeparationTest, NorWhetherItIsBusy) {
  server_->gate().Hold();
  const auto context = server_.Context("victim");
  v1::GenerateRequest turn = TokenRequest({6, 7}, 50);
  turn.set_session("sessions/real");
  const auto reader = server_->generation().Generate(context.get(), turn);
  ASSERT_TRUE(server_->gate().AwaitHeld());
  for (const pb::MethodDescriptor* method : AllMethods()) {
    EXPECT_EQ(Ask("attacker", *method, real_, Form::kSession),
              Ask("attacker", *method, none_, Form::kSession))
        << method->full_name();
    ForgetWhatTheAttackerMade();
  }
  // A turn of its own session of that name is not kept waiting by the other's lock.
  EXPECT_TRUE(server_.Create("attacker", "real").ok());
  server_->gate().Open();
  v1::GenerateRequest own = TokenRequest({6, 7}, 1);
  own.set_session("sessions/real");
  EXPECT_TRUE(server_.Generate("attacker", own).status.ok());
  EXPECT_TRUE(testing::ReadAll(reader.get()).status.ok());
}

TEST_F(TenantSeparationTest, TheSameNameIsAnotherSessionForEach) {
  ASSERT_TRUE(server_.Create("attacker", "real").ok());
  v1::GenerateRequest turn = TokenRequest({9}, 3);
  turn.set_session("sessions/real");
  turn.set_request_id("turn-of-victim");
  const Answer answer = server_.Generate("attacker", turn);
  ASSERT_TRUE(answer.status.ok());
  EXPECT_FALSE(answer.finished.commit().already_committed());
  EXPECT_EQ(answer.ids, server_->Expected({9}, 3));
  const std::string before = VictimsView();
  EXPECT_TRUE(server_.Delete("attacker", "real").ok());
  EXPECT_EQ(VictimsView(), before);
}

TEST_F(TenantSeparationTest, ThePrefixCacheKnowsNothingOfOthersPrompts) {
  const std::string secret = "The combination of the safe is one two three. ";
  const std::vector<int32_t> first = Bytes(secret), prompt = Bytes(secret + "So?");
  const std::vector<int32_t> other = Bytes("Nobody has ever asked anything of this kind here.");
  ASSERT_EQ(prompt.size(), other.size());
  ASSERT_TRUE(server_.Generate("victim", TokenRequest(first, 2)).status.ok());
  ASSERT_GT(server_.Generate("victim", TokenRequest(prompt, 2)).finished.usage().cached_tokens(), 0)
      << "the cache is not at work";
  const v1::Usage seen = server_.Generate("attacker", TokenRequest(prompt, 2)).finished.usage();
  const v1::Usage fresh = server_.Generate("attacker", TokenRequest(other, 2)).finished.usage();
  EXPECT_EQ(seen.cached_tokens(), 0);
  EXPECT_EQ(seen.SerializeAsString(), fresh.SerializeAsString());
}

// Nor by a field of a field.
void ExpectNoTenantIn(const pb::Descriptor* message, std::set<const pb::Descriptor*>* seen) {
  if (!seen->insert(message).second) return;
  for (int i = 0; i < message->field_count(); ++i) {
    const std::string name(message->field(i)->name());
    for (const char* word : {"tenant", "owner", "account", "user"}) {
      EXPECT_EQ(name.find(word), std::string::npos) << message->full_name() << "." << name;
    }
    if (message->field(i)->message_type() != nullptr) {
      ExpectNoTenantIn(message->field(i)->message_type(), seen);
    }
  }
}

TEST_F(TenantSeparationTest, NoRequestHasAFieldThatNamesATenant) {
  std::set<const pb::Descriptor*> seen;
  for (const pb::MethodDescriptor* method : AllMethods()) {
    ExpectNoTenantIn(method->input_type(), &seen);
  }
  EXPECT_GT(seen.size(), AllMethods().size());
}

TEST_F(TenantSeparationTest, EveryMethodWantsToKnowWhoCalls) {
  for (const pb::MethodDescriptor* method : AllMethods()) {
    for (const std::string& bearer : {std::string(), std::string("Bearer x"),
                                      server_.Bearer("victim") + "x", std::string("Basic eDp5")}) {
      testing::RawMetadata metadata;
      if (!bearer.empty()) metadata.emplace_back("authorization", bearer);
      const RawAnswer answer = RawCall(server_->channel(), PathOf(*method), "", metadata);
      EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAUTHENTICATED)
          << method->full_name() << " " << answer.status.error_message();
      EXPECT_EQ(ReasonIn(answer.status), "UNAUTHENTICATED") << method->full_name();
      EXPECT_EQ(answer.bytes, "");
    }
  }
}

}  // namespace
}  // namespace reprise::service
