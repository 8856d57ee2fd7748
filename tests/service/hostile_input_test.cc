// Requests that no honest client sends: each is answered, with a reason, and the server lives on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "tests/service/testing/raw_call.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::ByteTokenizer;
using testing::ErrorInfoIn;
using testing::FieldsIn;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;

constexpr char kGenerate[] = "/reprise.v1.GenerationService/Generate";

grpc::Status SendRaw(TestServer& server, const std::string& method, const std::string& bytes) {
  return testing::RawCall(server.channel(), method, bytes).status;
}

TEST(HostileInputTest, TokenIdsOutsideTheVocabularyAreNamed) {
  TestServer server;
  for (int32_t id : {-1, ByteTokenizer::kVocabulary, std::numeric_limits<int32_t>::min(),
                     std::numeric_limits<int32_t>::max()}) {
    Answer answer = server.Generate(TokenRequest({5, id}, 3));
    EXPECT_THAT(FieldsIn(answer.status), ::testing::ElementsAre("tokens.ids[1]"));
    v1::GenerateRequest request = TokenRequest({5}, 3);
    request.mutable_stop()->add_stop_tokens(id);
    EXPECT_THAT(FieldsIn(server.Generate(request).status),
                ::testing::ElementsAre("stop.stop_tokens[0]"));
    request = TokenRequest({5}, 3);
    (*request.mutable_sampling()->mutable_logit_bias())[id] = 1;
    EXPECT_THAT(FieldsIn(server.Generate(request).status),
                ::testing::ElementsAre("sampling.logit_bias[" + std::to_string(id) + "]"));
  }
  v1::GenerateRequest request = TokenRequest({5}, 3);
  request.mutable_sampling()->set_top_k(ByteTokenizer::kVocabulary + 1);
  EXPECT_THAT(FieldsIn(server.Generate(request).status), ::testing::ElementsAre("sampling.top_k"));
}

TEST(HostileInputTest, NothingToContinueFrom) {
  TestServer server;
  for (v1::GenerateRequest request : {v1::GenerateRequest(), TokenRequest({}, 3)}) {
    EXPECT_EQ(ReasonIn(server.Generate(request).status), "EMPTY_SEQUENCE");
  }
  v1::GenerateRequest request;
  request.set_text("");
  EXPECT_EQ(ReasonIn(server.Generate(request).status), "EMPTY_SEQUENCE");
  request.set_add_bos(true);
  request.mutable_stop()->set_max_tokens(2);
  EXPECT_TRUE(server.Generate(request).status.ok());
}

TEST(HostileInputTest, APromptThatIsTooLongSaysHowLong) {
  auto options = TestServer::SmallOptions();
  options.server.limits.max_prompt_tokens = 100;
  TestServer server(options);
  const Answer answer = server.Generate(TokenRequest(std::vector<int32_t>(101, 5), 3));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(answer.status), "PROMPT_TOO_LONG");
  EXPECT_EQ(ErrorInfoIn(answer.status).metadata().at("tokens"), "101");
  EXPECT_EQ(ErrorInfoIn(answer.status).metadata().at("limit"), "100");
  EXPECT_TRUE(server.Generate(TokenRequest(std::vector<int32_t>(100, 5), 3)).status.ok());
}

TEST(HostileInputTest, PromptLogprobsHaveALimit) {
  auto options = TestServer::SmallOptions();
  options.server.wire.max_message_bytes = 16 << 20;
  TestServer server(options);
  v1::GenerateRequest request = TokenRequest(std::vector<int32_t>(4000, 5), 0);
  request.mutable_output()->set_prompt_logprobs(true);
  request.mutable_output()->set_top_logprobs(20);
  EXPECT_THAT(FieldsIn(server.Generate(request).status),
              ::testing::ElementsAre("output.prompt_logprobs"));
}

TEST(HostileInputTest, AMessageThatIsTooLargeIsRefused) {
  auto options = TestServer::SmallOptions();
  options.server.wire.max_message_bytes = 1 << 16;
  TestServer server(options);
  v1::GenerateRequest request;
  request.set_text(std::string(1 << 17, 'x'));
  EXPECT_EQ(server.Generate(request).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(server.Generate(TokenRequest({5}, 3)).status.ok());
}

TEST(HostileInputTest, TextThatIsNotUtf8IsFoundWhereverItIs) {
  TestServer server;
  const auto expect = [](const grpc::Status& status, const std::string& field,
                         const std::string& offset) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ReasonIn(status), "INVALID_UTF8");
    EXPECT_EQ(ErrorInfoIn(status).metadata().at("field"), field);
    EXPECT_EQ(ErrorInfoIn(status).metadata().at("offset"), offset);
  };
  // Field 2 of a GenerateRequest is the text, field 9 the stop conditions, whose field 2 is
  // repeated.
  expect(SendRaw(server, kGenerate, "\x12\x04hi\xC3\x28"), "text", "2");
  expect(SendRaw(server, kGenerate, "\x4A\x06\x12\x01x\x12\x01\xFF"), "stop.stop_strings[1]", "0");
  expect(SendRaw(server, "/reprise.v1.ModelService/Tokenize", "\x12\x01\xFF"), "text", "0");
}

TEST(HostileInputTest, BytesThatAreNoMessage) {
  TestServer server;
  for (const std::string& bytes :
       {std::string("\xFF\xFF\xFF"), std::string("\x12\x7F", 2), std::string(1000, '\xFF')}) {
    for (const std::string& method :
         {std::string(kGenerate), std::string("/reprise.v1.SessionService/CreateSession"),
          std::string("/reprise.v1.SessionService/ExportSnapshot"),
          std::string("/reprise.v1.ModelService/Tokenize")}) {
      const grpc::Status status = SendRaw(server, method, bytes);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
          << method << ": " << status.error_message();
      EXPECT_EQ(ReasonIn(status), "INVALID_FIELD") << method;
    }
  }
}

TEST(HostileInputTest, RandomBytesAreAnswered) {
  auto options = TestServer::SmallOptions();
  options.server.limits.default_max_tokens = 3;
  options.server.limits.max_tokens = 100;
  TestServer server(options);
  v1::GenerateRequest request = TokenRequest({5, 6, 7}, 3);
  request.set_session("sessions/a");
  request.mutable_sampling()->set_temperature(1);
  request.mutable_stop()->add_stop_strings("x");
  const std::string honest = request.SerializeAsString();
  std::mt19937 random(11);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = honest;
    for (int flips = 1 + random() % 4; flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    const grpc::Status status = SendRaw(server, kGenerate, bytes);
    EXPECT_NE(status.error_code(), grpc::StatusCode::UNKNOWN) << status.error_message();
    EXPECT_NE(status.error_code(), grpc::StatusCode::INTERNAL) << status.error_message();
    EXPECT_NE(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  }
  EXPECT_TRUE(server.AwaitIdle());
  EXPECT_TRUE(server.Generate(TokenRequest({5}, 3)).status.ok());
}

TEST(HostileInputTest, UnknownMethodsAreUnimplemented) {
  TestServer server;
  EXPECT_EQ(SendRaw(server, "/reprise.v1.GenerationService/Nothing", "").error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(HostileInputTest, TextNeedsATokenizer) {
  auto options = TestServer::SmallOptions();
  options.tokenizer = false;
  TestServer server(options);
  v1::GenerateRequest request;
  request.set_text("hello");
  EXPECT_THAT(FieldsIn(server.Generate(request).status), ::testing::ElementsAre("text"));
  request = TokenRequest({5}, 3);
  request.mutable_stop()->add_stop_strings("x");
  EXPECT_THAT(FieldsIn(server.Generate(request).status),
              ::testing::ElementsAre("stop.stop_strings"));
  EXPECT_EQ(server.Generate(TokenRequest({5}, 3)).ids, server.Expected({5}, 3));
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  EXPECT_THAT(FieldsIn(server.models().Tokenize(&context, {}, &response)),
              ::testing::ElementsAre("model"));
}

}  // namespace
}  // namespace reprise::service
