#include "kernels/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

namespace reprise::kernels {
namespace {

using ::testing::HasSubstr;

std::vector<float> RandomLogits(int vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The definition, by full sort and in double: probabilities after bias, penalties, temperature and
// cuts.
std::map<int32_t, double> ReferenceDistribution(std::vector<float> logits_in,
                                                const SamplingParams& params,
                                                const std::vector<TokenCount>& counts) {
  std::vector<double> logits(logits_in.begin(), logits_in.end());
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  for (const TokenCount& count : counts) {
    double& logit = logits[count.id];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count.in_answer > 0) {
      logit -= params.presence_penalty + params.frequency_penalty * count.in_answer;
    }
  }
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0) order.resize(std::min<size_t>(order.size(), params.top_k));
  std::vector<double> weights;
  double total = 0;
  for (int32_t id : order) {
    weights.push_back(std::exp((logits[id] - logits[order[0]]) / params.temperature));
    total += weights.back();
  }
  std::map<int32_t, double> kept;
  double mass = 0, kept_mass = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && mass >= params.top_p * total && params.top_p < 1) break;
    mass += weights[i];
    if (weights[i] >= params.min_p) {
      kept[order[i]] = weights[i];
      kept_mass += weights[i];
    }
  }
  for (auto& [id, weight] : kept) weight /= kept_mass;
  return kept;
}

SampledToken MustSample(const std::vector<float>& logits, const SamplingParams& params,
                        uint64_t index, const std::vector<TokenCount>& counts = {}, int top = 0) {
  SampleRequest request;
  request.params = &params;
  request.counts = counts;
  request.index = index;
  request.top_logprobs = top;
  absl::StatusOr<SampledToken> token = Sample(logits, request);
  EXPECT_TRUE(token.ok()) << token.status();
  return *token;
}

// Known answers of Philox4x32-10 from its authors' test vectors.
TEST(PhiloxTest, GivesTheKnownAnswers) {
  EXPECT_EQ(PhiloxDraw(0, 0, 0), 0xe169c58d6627e8d5ULL);
  EXPECT_EQ(PhiloxDraw(~0ULL, ~0ULL, ~0ULL), 0x41c83b0e408f276dULL);
}

TEST(SamplingTest, GreedyTakesTheHighestAndTheLowestIdAmongEquals) {
  SamplingParams greedy;
  EXPECT_EQ(MustSample({1, 5, 2, 5}, greedy, 0).id, 1);
  EXPECT_EQ(MustSample({-4, -3, -9}, greedy, 7).id, 1);
}

TEST(SamplingTest, ADrawIsAFunctionOfSeedAndIndexOnly) {
  SamplingParams params;
  params.temperature = 1.0f;
  params.seed = 11;
  const std::vector<float> logits = RandomLogits(500, 1);
  std::map<int32_t, int> seen;
  for (uint64_t index = 0; index < 50; ++index) {
    const int32_t id = MustSample(logits, params, index).id;
    EXPECT_EQ(id, MustSample(logits, params, index).id);
    ++seen[id];
  }
  EXPECT_GT(seen.size(), 5u);
}

struct Case {
  const char* name;
  SamplingParams params;
  std::vector<TokenCount> counts;
};

SamplingParams Params(float temperature, int top_k = 0, float top_p = 1, float min_p = 0) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  return params;
}

class SamplingDistributionTest : public ::testing::TestWithParam<Case> {};

// Draws often and compares frequencies with the definition: the statistic is chi-square, with a
// bound that a right sampler passes with probability 1 - 1e-6; the draws are fixed by their seed.
TEST_P(SamplingDistributionTest, FollowsTheDefinition) {
  const Case& test = GetParam();
  const std::vector<float> logits = RandomLogits(40, 3);
  const std::map<int32_t, double> expected =
      ReferenceDistribution(logits, test.params, test.counts);
  constexpr int kDraws = 20000;
  std::map<int32_t, int> seen;
  for (int i = 0; i < kDraws; ++i) ++seen[MustSample(logits, test.params, i, test.counts).id];
  for (const auto& [id, count] : seen) EXPECT_TRUE(expected.contains(id)) << "token " << id;
  double statistic = 0, rare_expected = 0, rare_seen = 0;
  int cells = 0;
  for (const auto& [id, probability] : expected) {
    const double e = probability * kDraws, s = seen.contains(id) ? seen.at(id) : 0;
    if (e < 10) {
      rare_expected += e;
      rare_seen += s;
      continue;
    }
    statistic += (s - e) * (s - e) / e;
    ++cells;
  }
  if (rare_expected >= 10) {
    statistic += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
    ++cells;
  }
  const double freedom = std::max(1, cells - 1);
  EXPECT_LT(statistic, freedom + 4.8 * std::sqrt(2 * freedom) + 25) << cells << " cells";
}

INSTANTIATE_TEST_SUITE_P(
    Table, SamplingDistributionTest,
    ::testing::Values(Case{"Base", Params(1.0f), {}}, Case{"Cold", Params(0.3f), {}},
                      Case{"Hot", Params(2.5f), {}}, Case{"TopK1", Params(1.0f, 1), {}},
                      Case{"TopK7", Params(1.0f, 7), {}}, Case{"TopKAll", Params(1.0f, 40), {}},
                      Case{"TopP", Params(1.0f, 0, 0.8f), {}},
                      Case{"TopPTiny", Params(1.0f, 0, 1e-6f), {}},
                      Case{"MinP", Params(1.0f, 0, 1.0f, 0.1f), {}},
                      Case{"MinPOne", Params(1.0f, 0, 1, 1.0f), {}},
                      Case{"AllCuts", Params(1.5f, 20, 0.9f, 0.02f), {}},
                      Case{"Penalties",
                           [] {
                             SamplingParams params = Params(1.0f);
                             params.repetition_penalty = 1.7f;
                             params.presence_penalty = 0.5f;
                             params.frequency_penalty = 0.25f;
                             return params;
                           }(),
                           {{3, 0}, {5, 2}, {8, 1}, {20, 7}}},
                      Case{"Bias",
                           [] {
                             SamplingParams params = Params(1.0f, 0, 0.95f);
                             params.logit_bias = {{1, 6.0f}, {2, -100.0f}};
                             return params;
                           }(),
                           {}}),
    [](const auto& info) { return info.param.name; });

// Ranks only a prefix of a long vocabulary: the cuts must be those of a full sort.
TEST(SamplingTest, CutsOfALongVocabularyAreThoseOfAFullSort) {
  const std::vector<float> logits = RandomLogits(20000, 9);
  for (const SamplingParams& params :
       {Params(1.0f, 0, 0.99f), Params(3.0f, 3000, 0.7f), Params(2.0f, 0, 1.0f, 1e-4f)}) {
    const std::map<int32_t, double> expected = ReferenceDistribution(logits, params, {});
    for (int i = 0; i < 300; ++i) {
      EXPECT_TRUE(expected.contains(MustSample(logits, params, i).id));
    }
  }
}

TEST(SamplingTest, LogprobsAreOfTheModelsOwnDistribution) {
  const std::vector<float> logits = RandomLogits(100, 5);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  SamplingParams params = Params(0.2f, 3);
  params.logit_bias = {{4, 50.0f}};
  const SampledToken token = MustSample(logits, params, 1, {}, 5);
  EXPECT_EQ(token.id, 4);
  EXPECT_NEAR(token.logprob, logits[4] - std::log(sum), 1e-5);
  ASSERT_EQ(token.top.size(), 5u);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(token.top[i].logprob, sorted[i] - std::log(sum), 1e-5);
  const absl::StatusOr<SampledToken> score = Score(logits, 17, 2);
  ASSERT_TRUE(score.ok());
  EXPECT_EQ(score->id, 17);
  EXPECT_NEAR(score->logprob, logits[17] - std::log(sum), 1e-5);
  EXPECT_EQ(score->top.size(), 2u);
  EXPECT_FALSE(Score(logits, 100, 0).ok());
  EXPECT_FALSE(Score(logits, -1, 0).ok());
}

TEST(SamplingTest, ARowThatCannotBeTrustedIsAnError) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  SamplingParams params = Params(1.0f);
  SampleRequest request;
  request.params = &params;
  for (const std::vector<float>& logits :
       {std::vector<float>{1, NAN, 2}, {kInf, 0}, {-kInf, -kInf}, {NAN}}) {
    EXPECT_EQ(Sample(logits, request).status().code(), absl::StatusCode::kInternal);
    EXPECT_EQ(Score(logits, 0, 0).status().code(), absl::StatusCode::kInternal);
  }
  const absl::StatusOr<SampledToken> masked = Sample(std::vector<float>{-kInf, 3, -kInf}, request);
  ASSERT_TRUE(masked.ok());
  EXPECT_EQ(masked->id, 1);
}

TEST(ValidateSamplingTest, NamesTheFieldOutOfRange) {
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const absl::Status status = ValidateSampling(params, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_TRUE(ValidateSampling(SamplingParams(), 10).ok());
  EXPECT_THAT(message([](auto& p) { p.temperature = -0.1f; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](auto& p) { p.temperature = NAN; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](auto& p) { p.top_k = 11; }), HasSubstr("top_k"));
  EXPECT_THAT(message([](auto& p) { p.top_k = -1; }), HasSubstr("top_k"));
  EXPECT_THAT(message([](auto& p) { p.top_p = 0; }), HasSubstr("top_p"));
  EXPECT_THAT(message([](auto& p) { p.min_p = 1.1f; }), HasSubstr("min_p"));
  EXPECT_THAT(message([](auto& p) { p.repetition_penalty = 0; }), HasSubstr("repetition_penalty"));
  EXPECT_THAT(message([](auto& p) { p.presence_penalty = 11; }), HasSubstr("presence_penalty"));
  EXPECT_THAT(message([](auto& p) { p.frequency_penalty = -11; }), HasSubstr("frequency_penalty"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias = {{10, 1.0f}}; }), HasSubstr("logit_bias"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias = {{1, 1.0f}, {1, 2.0f}}; }), HasSubstr("twice"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias = {{1, NAN}}; }), HasSubstr("logit_bias"));
}

}  // namespace
}  // namespace reprise::kernels
