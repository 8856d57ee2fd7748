// Generate without a session: what comes out, and why it ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/tokenizer/utf8.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using testing::ByteTokenizer;
using testing::ReasonIn;
using testing::TestServer;
using testing::TokenRequest;

// Makes the model write lower-case letters only.
void OnlyLetters(v1::GenerateRequest* request) {
  auto& bias = *request->mutable_sampling()->mutable_logit_bias();
  for (char letter = 'a'; letter <= 'z'; ++letter) bias[ByteTokenizer::Id(letter)] = 100;
}

TEST(GenerationTest, GreedyIsWhatTheModelSaysAndTheSameEachTime) {
  TestServer server;
  const auto prompt = Bytes("a prompt that is longer than one chunk of the prefill");
  const v1::GenerateRequest request = TokenRequest(prompt, 50);
  const Answer answer = server.Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids, server.Expected(prompt, 50));
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_EQ(answer.finished.usage().prompt_tokens(), static_cast<int>(prompt.size()));
  EXPECT_EQ(answer.finished.usage().completion_tokens(), 50);
  EXPECT_EQ(answer.finished.usage().restored_tokens(), 0);
  EXPECT_EQ(answer.finished.usage().computed_tokens(), static_cast<int>(prompt.size()) + 49);
  EXPECT_FALSE(answer.finished.has_commit());
  EXPECT_GT(answer.finished.timeline().time_to_first_token_seconds(), 0);
  EXPECT_EQ(server.Generate(request).ids, answer.ids);
}

TEST(GenerationTest, TextGetsTheBeginningTokenAndComesBackAsWholeCharacters) {
  TestServer server;
  v1::GenerateRequest request;
  request.set_text("caf\xC3\xA9");
  request.mutable_stop()->set_max_tokens(200);
  request.mutable_stop()->set_ignore_eos(true);
  const Answer answer = server.Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  std::vector<int32_t> prompt = Bytes("caf\xC3\xA9");
  EXPECT_EQ(answer.finished.usage().prompt_tokens(), 6);
  prompt.insert(prompt.begin(), ByteTokenizer::kBos);
  EXPECT_EQ(answer.ids, server.Expected(prompt, 200));
  EXPECT_TRUE(models::IsValidUtf8(answer.text));
  ByteTokenizer tokenizer;
  EXPECT_EQ(answer.text, tokenizer.Decode(answer.ids).value());

  request.set_add_bos(false);
  EXPECT_EQ(server.Generate(request).ids, server.Expected(Bytes("caf\xC3\xA9"), 200));
}

TEST(GenerationTest, AStopStringEndsTheTextBeforeIt) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 60);
  OnlyLetters(&request);
  const Answer whole = server.Generate(request);
  ASSERT_EQ(whole.text.size(), 60u);
  const std::string stop = whole.text.substr(20, 3);
  const size_t first = whole.text.find(stop);
  request.mutable_stop()->add_stop_strings("not in there");
  request.mutable_stop()->add_stop_strings(stop);
  const Answer answer = server.Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, whole.text.substr(0, first));
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(answer.finished.stop_string(), stop);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), static_cast<int>(first + 3));
}

TEST(GenerationTest, TextThatWasHeldBackForNothingComesAtTheEnd) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 30);
  OnlyLetters(&request);
  const Answer whole = server.Generate(request);
  request.mutable_stop()->add_stop_strings(whole.text.substr(28, 2) + "!");
  const Answer answer = server.Generate(request);
  EXPECT_EQ(answer.text, whole.text);
  EXPECT_FALSE(answer.finished.text().empty());
}

TEST(GenerationTest, StopTokensAndTheEndOfSequenceToken) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 60);
  OnlyLetters(&request);
  const Answer whole = server.Generate(request);
  const int32_t stop = whole.ids[10];
  const size_t first = std::find(whole.ids.begin(), whole.ids.end(), stop) - whole.ids.begin();
  request.mutable_stop()->add_stop_tokens(stop);
  Answer answer = server.Generate(request);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_STOP_TOKEN);
  EXPECT_EQ(answer.finished.stop_token(), stop);
  EXPECT_EQ(answer.text, whole.text.substr(0, first));

  // Nothing but the end-of-sequence token can be drawn.
  request = TokenRequest(Bytes("go"), 5);
  (*request.mutable_sampling()->mutable_logit_bias())[ByteTokenizer::kEos] = 500;
  EXPECT_EQ(server.Generate(request).finished.usage().completion_tokens(), 5);
  request.mutable_stop()->set_ignore_eos(false);
  answer = server.Generate(request);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), 1);
  EXPECT_EQ(answer.text, "");
}

TEST(GenerationTest, OneSeedGivesOneAnswerAndADrawnSeedIsReported) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 40);
  request.mutable_sampling()->set_temperature(1);
  const Answer first = server.Generate(request);
  const Answer second = server.Generate(request);
  EXPECT_NE(first.finished.seed(), second.finished.seed());
  EXPECT_NE(first.ids, second.ids);
  request.mutable_sampling()->set_seed(first.finished.seed());
  EXPECT_EQ(server.Generate(request).ids, first.ids);
}

TEST(GenerationTest, LogprobsComeWithTheirTokens) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 8);
  request.mutable_output()->set_top_logprobs(3);
  const Answer answer = server.Generate(request);
  ASSERT_EQ(answer.logprobs.size(), 8u);
  for (int i = 0; i < 8; ++i) {
    const v1::TokenLogprob& logprob = answer.logprobs[i];
    EXPECT_EQ(logprob.id(), answer.ids[i]);
    ASSERT_EQ(logprob.top_size(), 3);
    EXPECT_EQ(logprob.top(0).id(), answer.ids[i]) << "greedy takes the most probable";
    EXPECT_EQ(logprob.top(0).logprob(), logprob.logprob());
    EXPECT_GE(logprob.top(0).logprob(), logprob.top(1).logprob());
    EXPECT_LT(logprob.logprob(), 0);
  }
  request.mutable_output()->set_top_logprobs(0);
  EXPECT_TRUE(server.Generate(request).logprobs.empty());
}

TEST(GenerationTest, APromptIsScoredWithoutGenerating) {
  TestServer server;
  const auto prompt = Bytes("score this text, which has more tokens than a chunk");
  v1::GenerateRequest request = TokenRequest(prompt, 0);
  request.mutable_output()->set_prompt_logprobs(true);
  const Answer answer = server.Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(answer.ids.empty());
  EXPECT_EQ(answer.finished.usage().completion_tokens(), 0);
  ASSERT_EQ(answer.finished.prompt_logprobs_size(), static_cast<int>(prompt.size()) - 1);
  for (size_t i = 1; i < prompt.size(); ++i) {
    EXPECT_EQ(answer.finished.prompt_logprobs(i - 1).id(), prompt[i]);
    EXPECT_TRUE(std::isfinite(answer.finished.prompt_logprobs(i - 1).logprob()));
  }
}

TEST(GenerationTest, TextCanBeLeftOut) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 8);
  request.mutable_output()->set_omit_text(true);
  const Answer answer = server.Generate(request);
  EXPECT_EQ(answer.text, "");
  EXPECT_EQ(answer.ids, server.Expected(Bytes("go"), 8));
}

TEST(GenerationTest, NumbersThatAreNoneEndTheCall) {
  auto options = TestServer::SmallOptions();
  options.nan_token = ByteTokenizer::Id('!');
  TestServer server(options);
  const Answer answer = server.Generate(TokenRequest(Bytes("a!"), 8));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(ReasonIn(answer.status), "NON_FINITE");
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(GenerationTest, TheModelMustBeNamedOnlyWhenThereAreSeveral) {
  auto options = TestServer::SmallOptions();
  options.models = {"one", "two"};
  TestServer server(options);
  v1::GenerateRequest request = TokenRequest(Bytes("go"), 4);
  Answer answer = server.Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_model("two");
  EXPECT_TRUE(server.Generate(request).status.ok());
  request.set_model("three");
  answer = server.Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(answer.status), "MODEL_NOT_FOUND");
}

TEST(GenerationTest, ManyCallsAtOnceGetEachTheirOwnAnswer) {
  TestServer server;
  std::vector<std::thread> threads;
  for (int i = 0; i < 12; ++i) {
    threads.emplace_back([&server, i] {
      const auto prompt = Bytes("prompt number " + std::to_string(i));
      const Answer answer = server.Generate(TokenRequest(prompt, 20 + i));
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      EXPECT_EQ(answer.ids, server.Expected(prompt, 20 + i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(ModelServiceTest, SaysWhatIsServed) {
  TestServer server;
  grpc::ClientContext list_context, get_context, unknown_context;
  v1::ListModelsResponse list;
  ASSERT_TRUE(server.models().ListModels(&list_context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  v1::Model model;
  ASSERT_TRUE(server.models().GetModel(&get_context, {}, &model).ok());
  EXPECT_EQ(model.name(), "puppet");
  EXPECT_EQ(model.vocab_size(), ByteTokenizer::kVocabulary);
  EXPECT_EQ(model.state_bytes(), 16 * 8);
  EXPECT_EQ(model.bos_token(), ByteTokenizer::kBos);
  EXPECT_EQ(model.eos_token(), ByteTokenizer::kEos);
  EXPECT_EQ(model.device(), "cpu");
  EXPECT_EQ(model.state_tensors_size(), 1);
  EXPECT_FALSE(model.layout_digest().empty());
  v1::GetModelRequest unknown;
  unknown.set_name("other");
  const grpc::Status status = server.models().GetModel(&unknown_context, unknown, &model);
  EXPECT_EQ(ReasonIn(status), "MODEL_NOT_FOUND");
}

TEST(ModelServiceTest, TokenizesBothWays) {
  TestServer server;
  grpc::ClientContext context, back_context, bad_context;
  v1::TokenizeRequest request;
  request.set_text("h\xC3\xA9");
  request.set_add_bos(true);
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(server.models().Tokenize(&context, request, &tokens).ok());
  EXPECT_EQ(tokens.ids_size(), 4);
  EXPECT_EQ(tokens.tokens(2), "\xC3");
  v1::DetokenizeRequest back;
  *back.mutable_ids() = tokens.ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(server.models().Detokenize(&back_context, back, &text).ok());
  EXPECT_EQ(text.text(), "h\xC3\xA9");
  back.add_ids(ByteTokenizer::kVocabulary);
  const grpc::Status status = server.models().Detokenize(&bad_context, back, &text);
  EXPECT_THAT(testing::FieldsIn(status), ::testing::ElementsAre("ids[4]"));
}

}  // namespace
}  // namespace reprise::service
