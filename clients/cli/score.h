// Perplexity of a scored prompt.
#ifndef REPRISE_CLIENTS_CLI_SCORE_H_
#define REPRISE_CLIENTS_CLI_SCORE_H_

#include <cstdint>
#include <string>

#include "clients/cli/json_output.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::cli {

// Over the tokens that have a log-probability: all but the first of a new sequence, which after a
// beginning-of-sequence token means the whole text.
struct Score {
  int64_t tokens = 0;
  int64_t bytes = 0;  // of those tokens' text
  double bits = 0;    // -log2 of their joint probability

  double bits_per_token() const { return tokens > 0 ? bits / static_cast<double>(tokens) : 0; }
  double bits_per_byte() const { return bytes > 0 ? bits / static_cast<double>(bytes) : 0; }
};

Score ScoreOf(const v1::Finished& finished);
std::string ScoreText(const Score& score);
Json ScoreJson(const Score& score);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_SCORE_H_
