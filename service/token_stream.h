// From sampled tokens to the events of a stream: text out of tokens, stop strings,
// log-probabilities.
#ifndef REPRISE_SERVICE_TOKEN_STREAM_H_
#define REPRISE_SERVICE_TOKEN_STREAM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sampling.h"
#include "models/tokenizer/detokenizer.h"
#include "models/tokenizer/tokenizer.h"
#include "reprise/v1/generation.pb.h"
#include "service/stop_matcher.h"

namespace reprise::service {

// Not thread-safe; the tokenizer must outlive it. Without a tokenizer all texts are empty.
class TokenStream {
 public:
  struct Options {
    std::vector<std::string> stop_strings{};
    std::vector<int32_t> silent_tokens{};  // stop tokens: they add no text
    bool logprobs = false;
    bool omit_text = false;
  };
  TokenStream(const models::Tokenizer* tokenizer, Options options);

  // Goes on in the middle of a character, where the session's last answer stopped.
  absl::Status Resume(const std::string& detokenizer_state);

  // Appends the token, its text and what was asked for to `event`. True when a stop string is
  // complete.
  bool Append(const kernels::SampledToken& token, v1::Tokens* event);
  // The text that is left at the end: none after a stop string.
  std::string Finish();
  // Of the detokenizer, as it was before Finish.
  const std::string& state() const { return state_; }
  // After Append returned true.
  const std::string& stop_string() const { return matcher_.stop(); }

 private:
  const models::Tokenizer* tokenizer_;
  const Options options_;
  std::optional<models::Detokenizer> detokenizer_;
  StopMatcher matcher_;
  std::string state_;
};

// `token` with the bytes of each id, which are empty without a tokenizer.
v1::TokenLogprob DescribeToken(const kernels::SampledToken& token,
                               const models::Tokenizer* tokenizer);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TOKEN_STREAM_H_
