// SentencePiece's text normalization: character rules, whitespace, the dummy prefix.
#ifndef REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_NORMALIZER_H_
#define REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_NORMALIZER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "models/tokenizer/byte_trie.h"
#include "models/tokenizer/sentencepiece_model.h"

namespace reprise::models {

inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581, a written space

// The rules of a model file: a double-array trie (Darts) from byte strings to offsets into a
// blob of NUL-terminated replacements. Every step of a search is checked against the bounds.
class CharsMap {
 public:
  static absl::StatusOr<CharsMap> Parse(std::string_view blob);  // empty blob: no rules

  // Length of the longest key that begins `text` (0: none) and what replaces it.
  size_t Longest(std::string_view text, std::string_view* replacement) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;
};

class SentencePieceNormalizer {
 public:
  static absl::StatusOr<SentencePieceNormalizer> Create(const SentencePieceModel& model);

  // `text` must be valid UTF-8. `dummy_prefix` false: no space before the text even where the
  // model wants one (what follows a special token).
  std::string Normalize(std::string_view text, bool dummy_prefix) const;

  // User-defined pieces, which no rule and no segmentation may break up.
  const ByteTrie& user_defined() const { return user_defined_; }

 private:
  // What `text` begins with: consumed bytes and what they become.
  struct Step {
    std::string_view out;
    size_t consumed;
  };
  Step NextStep(std::string_view text) const;

  CharsMap charsmap_;
  ByteTrie user_defined_;
  bool add_dummy_prefix_ = true;
  bool remove_extra_whitespaces_ = true;
  bool escape_whitespaces_ = true;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_NORMALIZER_H_
