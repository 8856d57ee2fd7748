#include "clients/cli/score.h"

#include <gtest/gtest.h>

#include <cmath>

namespace reprise::cli {
namespace {

TEST(Score, BitsPerTokenAndByte) {
  v1::Finished finished;
  for (const auto& [probability, text] :
       {std::pair(0.5, "ab"), std::pair(0.25, "c"), std::pair(0.125, "d")}) {
    v1::TokenLogprob& token = *finished.add_prompt_logprobs();
    token.set_logprob(static_cast<float>(std::log(probability)));
    token.set_token(text);
  }
  const Score score = ScoreOf(finished);
  EXPECT_EQ(score.tokens, 3);
  EXPECT_EQ(score.bytes, 4);
  EXPECT_NEAR(score.bits_per_token(), 2.0, 1e-6);
  EXPECT_NEAR(score.bits_per_byte(), 1.5, 1e-6);
  EXPECT_NEAR(ScoreJson(score)["perplexity"].get<double>(), 4.0, 1e-5);
  EXPECT_NE(ScoreText(score).find("bits per byte:   1.5000\n"), std::string::npos);
}

TEST(Score, NothingScoredIsZero) {
  const Score score = ScoreOf(v1::Finished());
  EXPECT_EQ(score.bits_per_token(), 0);
  EXPECT_EQ(score.bits_per_byte(), 0);
}

}  // namespace
}  // namespace reprise::cli
