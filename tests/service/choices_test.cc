// Several answers to one prompt: n, best_of, their seeds, and what a session keeps of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "service/choice.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using testing::Answer;
using testing::Bytes;
using testing::ByteTokenizer;
using ::testing::ElementsAre;
using testing::FieldsIn;
using ::testing::HasSubstr;
using testing::TestServer;
using testing::TokenRequest;

constexpr char kPrompt[] = "a prompt that is longer than one chunk of the prefill";

struct Choices {
  grpc::Status status;
  std::map<int, Answer> answers;  // by choice
  std::vector<int> events;        // the choice of each, in order
};

Choices ReadChoices(grpc::ClientReader<v1::GenerateResponse>* reader) {
  Choices all;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    const int index =
        response.has_tokens() ? response.tokens().choice() : response.finished().choice();
    SCOPED_TRACE(index);
    all.events.push_back(index);
    all.answers[index].Add(response);
  }
  all.status = reader->Finish();
  return all;
}

Choices GenerateChoices(TestServer& server, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadChoices(server.generation().Generate(&context, request).get());
}

v1::GenerateRequest Sampled(int count, uint64_t seed = 7) {
  v1::GenerateRequest request = TokenRequest(Bytes(kPrompt), count);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

// The answer of a request of its own, that shares nothing with others.
Answer Alone(TestServer& server, v1::GenerateRequest request, uint64_t seed) {
  request.clear_n();
  request.clear_best_of();
  request.set_no_prefix_cache(true);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_output()->set_logprobs(true);
  Answer answer = server.Generate(request);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  return answer;
}

double MeanLogprob(const Answer& answer) {
  double sum = 0;
  for (const v1::TokenLogprob& token : answer.logprobs) sum += token.logprob();
  return sum / static_cast<double>(answer.logprobs.size());
}

void ExpectSameLogprobs(const Answer& a, const Answer& b) {
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].logprob(), b.logprobs[i].logprob()) << i;
  }
}

TEST(ChoicesTest, SeedsAreThoseOfTheContract) {
  EXPECT_EQ(ChoiceSeed(42, 0), 42u);
  // SplitMix64 seeded with 0 gives these, as its authors' code does.
  EXPECT_EQ(ChoiceSeed(0, 1), 0xE220A8397B1DCDAFu);
  EXPECT_EQ(ChoiceSeed(0, 2), 0x6E789E6AA1B965F4u);
}

TEST(ChoicesTest, EachIsTheAnswerOfARequestOfItsOwnAndThePromptIsComputedOnce) {
  TestServer server;
  v1::GenerateRequest request = Sampled(30);
  request.set_n(6);  // more than slots
  request.mutable_output()->set_logprobs(true);
  const Choices all = GenerateChoices(server, request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  ASSERT_EQ(all.answers.size(), 6u);
  const int64_t prompt = request.tokens().ids_size();
  std::set<std::vector<int32_t>> distinct;
  int64_t computed = 0;
  for (const auto& [index, answer] : all.answers) {
    ASSERT_TRUE(answer.has_finished) << index;
    EXPECT_EQ(answer.finished.seed(), ChoiceSeed(7, index));
    const Answer alone = Alone(server, request, answer.finished.seed());
    EXPECT_EQ(answer.ids, alone.ids) << index;
    EXPECT_EQ(answer.text, alone.text) << index;
    ExpectSameLogprobs(answer, alone);
    EXPECT_EQ(answer.finished.mean_logprob(), MeanLogprob(answer));
    EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_MAX_TOKENS);
    const v1::Usage& usage = answer.finished.usage();
    EXPECT_EQ(usage.prompt_tokens(), prompt);
    EXPECT_EQ(usage.completion_tokens(), 30);
    EXPECT_EQ(usage.shared_tokens() + usage.cached_tokens() + usage.computed_tokens(), prompt + 29);
    computed += usage.computed_tokens();
    distinct.insert(answer.ids);
  }
  EXPECT_EQ(computed, (prompt - 1) + 6 * 30);
  EXPECT_EQ(distinct.size(), 6u);
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(ChoicesTest, EachEndsForItsOwnReason) {
  TestServer server;
  v1::GenerateRequest request = Sampled(40);
  const Answer first = Alone(server, request, ChoiceSeed(7, 0));
  const Answer second = Alone(server, request, ChoiceSeed(7, 1));
  // A token of the first answer that the second has not.
  const auto own = std::find_if(first.ids.begin(), first.ids.end(), [&](int32_t id) {
    return std::find(second.ids.begin(), second.ids.end(), id) == second.ids.end();
  });
  ASSERT_NE(own, first.ids.end());
  request.set_n(2);
  request.mutable_stop()->add_stop_tokens(*own);
  const Choices all = GenerateChoices(server, request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  EXPECT_EQ(all.answers.at(0).finished.reason(), v1::FINISH_REASON_STOP_TOKEN);
  EXPECT_EQ(all.answers.at(0).finished.stop_token(), *own);
  EXPECT_EQ(all.answers.at(0).ids, std::vector<int32_t>(first.ids.begin(), own + 1));
  EXPECT_EQ(all.answers.at(1).finished.reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_EQ(all.answers.at(1).ids, second.ids);
}

TEST(ChoicesTest, TheBestOfManyComeBestFirst) {
  TestServer server;
  v1::GenerateRequest request = Sampled(100);
  std::vector<std::pair<double, int>> expected;  // minus mean, number
  std::vector<Answer> alone;
  for (int i = 0; i < 7; ++i) {
    alone.push_back(Alone(server, request, ChoiceSeed(7, i)));
    expected.emplace_back(-MeanLogprob(alone.back()), i);
  }
  std::sort(expected.begin(), expected.end());
  request.set_n(3);
  request.set_best_of(7);
  const Choices all = GenerateChoices(server, request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  ASSERT_EQ(all.answers.size(), 3u);
  for (int rank = 0; rank < 3; ++rank) {
    const Answer& answer = all.answers.at(rank);
    const auto [mean, number] = expected[rank];
    EXPECT_EQ(answer.ids, alone[number].ids) << rank;
    EXPECT_EQ(answer.finished.seed(), ChoiceSeed(7, number));
    EXPECT_EQ(answer.finished.mean_logprob(), -mean);
    EXPECT_TRUE(answer.logprobs.empty()) << "nobody asked for them";
    EXPECT_EQ(answer.finished.usage().discarded_tokens(), rank == 0 ? 4 * 100 : 0);
  }
  EXPECT_TRUE(std::is_sorted(all.events.begin(), all.events.end())) << "one after the other";
  // 100 tokens wait in events of 64.
  EXPECT_EQ(std::count(all.events.begin(), all.events.end(), 0), 3);
}

TEST(ChoicesTest, OfASessionTheFirstIsCommitted) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = Sampled(20);
  request.set_session(session);
  request.set_n(3);
  const Choices all = GenerateChoices(server, request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  const v1::Finished& first = all.answers.at(0).finished;
  EXPECT_EQ(first.commit().version(), 2u);
  EXPECT_EQ(first.commit().committed_tokens(), request.tokens().ids_size() + 20);
  EXPECT_FALSE(all.answers.at(1).finished.has_commit());
  EXPECT_FALSE(all.answers.at(2).finished.has_commit());
  std::vector<int32_t> tokens = Bytes(kPrompt);
  tokens.insert(tokens.end(), all.answers.at(0).ids.begin(), all.answers.at(0).ids.end());
  EXPECT_EQ(server.Turn(session, {}, 5).ids, server.Expected(tokens, 5));
  EXPECT_TRUE(server.AwaitIdle());
}

TEST(ChoicesTest, OfASessionTheBestIsCommitted) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = Sampled(20);
  request.set_session(session);
  request.set_request_id("turn");
  request.set_best_of(5);
  const Choices all = GenerateChoices(server, request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  ASSERT_EQ(all.answers.size(), 1u);
  EXPECT_EQ(all.answers.at(0).finished.commit().version(), 2u);
  std::vector<int32_t> tokens = Bytes(kPrompt);
  tokens.insert(tokens.end(), all.answers.at(0).ids.begin(), all.answers.at(0).ids.end());
  EXPECT_EQ(server.Turn(session, {}, 5).ids, server.Expected(tokens, 5));
  // The repeat is answered with the commit alone.
  const Choices repeat = GenerateChoices(server, request);
  ASSERT_TRUE(repeat.status.ok()) << repeat.status.error_message();
  ASSERT_EQ(repeat.answers.size(), 1u);
  EXPECT_TRUE(repeat.answers.at(0).finished.commit().already_committed());
}

TEST(ChoicesTest, OneThatFailsFailsTheCall) {
  auto options = TestServer::SmallOptions();
  options.nan_token = ByteTokenizer::Id('!');
  TestServer server(options);
  const std::string session = server.NewSession("chat").name();
  v1::GenerateRequest request = Sampled(1 << 20);
  (*request.mutable_sampling()->mutable_logit_bias())[ByteTokenizer::Id('!')] = 2;
  request.set_session(session);
  for (const bool ranked : {false, true}) {
    request.set_n(ranked ? 1 : 4);
    request.set_best_of(ranked ? 4 : 0);
    request.mutable_stop()->set_max_tokens(ranked ? 50000 : 1 << 20);
    const Choices all = GenerateChoices(server, request);
    EXPECT_EQ(testing::ReasonIn(all.status), "NON_FINITE") << all.status.error_message();
    for (const auto& [index, answer] : all.answers) EXPECT_FALSE(answer.has_finished);
    ASSERT_TRUE(server.AwaitIdle());
  }
}

TEST(ChoicesTest, OfEqualsTheFirstComesFirst) {
  TestServer server;
  v1::GenerateRequest request = Sampled(10);
  request.mutable_sampling()->set_temperature(0);  // one answer, four times
  request.set_n(3);
  request.set_best_of(4);
  const Choices all = GenerateChoices(server, request);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(all.answers.at(rank).finished.seed(), ChoiceSeed(7, rank)) << rank;
  }
}

TEST(ChoicesTest, CancelEndsAllOfThem) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  for (const int best_of : {0, 6}) {
    const uint64_t version = server.GetSession(session).version();
    v1::GenerateRequest request = Sampled(best_of > 0 ? 40000 : 1 << 20);
    request.set_session(session);
    request.set_n(best_of > 0 ? 2 : 6);
    request.set_best_of(best_of);
    grpc::ClientContext context;
    auto reader = server.generation().Generate(&context, request);
    if (best_of == 0) {
      v1::GenerateResponse response;
      ASSERT_TRUE(reader->Read(&response));
    } else {
      const int64_t steps = server.gate().steps();
      const absl::Time limit = absl::Now() + testing::kPatience;
      while (server.gate().steps() < steps + 20 && absl::Now() < limit) {
        absl::SleepFor(absl::Milliseconds(1));
      }
    }
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    ASSERT_TRUE(server.AwaitIdle());
    // Of a ranking that did not end, nothing is committed.
    const uint64_t now = server.GetSession(session).version();
    if (best_of > 0) {
      EXPECT_EQ(now, version);
    }
  }
  EXPECT_EQ(server.Generate(TokenRequest(Bytes("go"), 5)).ids, server.Expected(Bytes("go"), 5));
}

TEST(ChoicesTest, AReaderThatDoesNotReadPausesAllAndLosesNothing) {
  TestServer server;
  v1::GenerateRequest request = Sampled(1500);
  request.set_n(4);
  request.mutable_output()->set_top_logprobs(20);
  grpc::ClientContext context;
  auto slow = server.generation().Generate(&context, request);
  EXPECT_LT(server.gate().AwaitStill(), 1450) << "the sequences were not paused";
  const Choices all = ReadChoices(slow.get());
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  for (const auto& [index, answer] : all.answers) {
    EXPECT_EQ(answer.ids, Alone(server, request, ChoiceSeed(7, index)).ids) << index;
  }
}

TEST(ChoicesTest, ScoresOfThePromptComeOnce) {
  TestServer server;
  v1::GenerateRequest request = Sampled(3);
  request.set_n(3);
  request.mutable_output()->set_prompt_logprobs(true);
  for (const int best_of : {0, 4}) {
    request.set_best_of(best_of);
    const Choices all = GenerateChoices(server, request);
    ASSERT_TRUE(all.status.ok()) << all.status.error_message();
    EXPECT_EQ(all.answers.at(0).finished.prompt_logprobs_size(), request.tokens().ids_size() - 1);
    EXPECT_EQ(all.answers.at(1).finished.prompt_logprobs_size(), 0);
    EXPECT_EQ(all.answers.at(2).finished.prompt_logprobs_size(), 0);
  }
}

TEST(ChoicesTest, WhatMakesNoSenseIsRefused) {
  TestServer server;
  const std::string session = server.NewSession("chat").name();
  const auto refused = [&](auto change) {
    v1::GenerateRequest request = Sampled(100);
    change(&request);
    const Answer answer = server.Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return FieldsIn(answer.status);
  };
  EXPECT_THAT(refused([](auto* r) { r->set_n(129); }), ElementsAre("n"));
  EXPECT_THAT(refused([](auto* r) { r->set_n(-1); }), ElementsAre("n"));
  EXPECT_THAT(refused([](auto* r) { r->set_n(3), r->set_best_of(2); }), ElementsAre("best_of"));
  EXPECT_THAT(refused([](auto* r) { r->set_best_of(129); }), ElementsAre("best_of"));
  EXPECT_THAT(refused([](auto* r) { r->set_best_of(-1); }), ElementsAre("best_of"));
  EXPECT_THAT(refused([](auto* r) { r->set_n(2), r->mutable_stop()->set_max_tokens(0); }),
              ElementsAre("n"));
  EXPECT_THAT(refused([](auto* r) {
                r->set_best_of(128);
                r->mutable_stop()->set_max_tokens(2049);
              }),
              ElementsAre("best_of"));
  EXPECT_THAT(refused([](auto* r) {
                r->set_best_of(2);
                r->mutable_stop()->set_max_tokens(100000);
                r->mutable_output()->set_top_logprobs(1);
              }),
              ElementsAre("best_of"));
  EXPECT_THAT(refused([&](auto* r) {
                r->set_n(2);
                r->set_session(session);
                r->set_request_id("r");
                r->set_durability(v1::DURABILITY_EVERY_N_TOKENS);
              }),
              ElementsAre("n"));
  EXPECT_THAT(refused([](auto* r) { r->set_priority(static_cast<v1::Priority>(9)); }),
              ElementsAre("priority"));
  v1::GenerateRequest most = Sampled(1);
  most.set_n(128);
  EXPECT_EQ(GenerateChoices(server, most).answers.size(), 128u);
}

}  // namespace
}  // namespace reprise::service
