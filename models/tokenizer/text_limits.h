// The checks of arguments that all tokenizers share.
#ifndef REPRISE_MODELS_TOKENIZER_TEXT_LIMITS_H_
#define REPRISE_MODELS_TOKENIZER_TEXT_LIMITS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {

// Far above any context; normalization may grow a text, and its lengths must fit 32 bits.
inline constexpr size_t kMaxTextBytes = size_t{64} << 20;

inline absl::Status CheckText(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        Cat("text has ", text.size(), " bytes, at most ", kMaxTextBytes));
  }
  const size_t bad = FindInvalidUtf8(text);
  if (bad == std::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("text is not valid UTF-8 at byte ", bad));
}

inline absl::Status CheckTokenId(int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::OutOfRangeError(Cat("token id ", id, " is outside the vocabulary of ", vocab_size));
}

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_TEXT_LIMITS_H_
