#include "clients/cli/score.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "clients/cli/table.h"

namespace reprise::cli {

Score ScoreOf(const v1::Finished& finished) {
  Score score;
  double nats = 0;
  for (const v1::TokenLogprob& token : finished.prompt_logprobs()) {
    nats -= token.logprob();
    ++score.tokens;
    score.bytes += static_cast<int64_t>(token.token().size());
  }
  score.bits = nats / std::log(2.0);
  return score;
}

std::string ScoreText(const Score& score) {
  return KeyValues({{"tokens scored", std::to_string(score.tokens)},
                    {"bytes scored", std::to_string(score.bytes)},
                    {"bits per token", absl::StrFormat("%.4f", score.bits_per_token())},
                    {"bits per byte", absl::StrFormat("%.4f", score.bits_per_byte())},
                    {"perplexity", absl::StrFormat("%.3f", std::exp2(score.bits_per_token()))}});
}

Json ScoreJson(const Score& score) {
  return {{"tokens", score.tokens},
          {"bytes", score.bytes},
          {"bits", score.bits},
          {"bits_per_token", score.bits_per_token()},
          {"bits_per_byte", score.bits_per_byte()},
          {"perplexity", std::exp2(score.bits_per_token())}};
}

}  // namespace reprise::cli
