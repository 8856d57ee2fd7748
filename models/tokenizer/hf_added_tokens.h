// Finds added tokens ("<|endoftext|>", runs of spaces) in a text before BPE sees it.
#ifndef REPRISE_MODELS_TOKENIZER_HF_ADDED_TOKENS_H_
#define REPRISE_MODELS_TOKENIZER_HF_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/byte_trie.h"

namespace reprise::models {

// Thread-safe after construction.
class AddedTokenMatcher {
 public:
  struct Token {
    std::string pattern;
    int32_t id = 0;
    bool special = false, lstrip = false, rstrip = false, single_word = false;
  };
  struct Part {
    std::string_view text;
    int32_t id;  // kText: no added token
  };
  static constexpr int32_t kText = -1;

  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<Token> tokens);

  // The non-empty parts of `text`, from left to right; the longest token wins at each place.
  // Without `parse_special` special tokens are text.
  std::vector<Part> Split(std::string_view text, bool parse_special) const;

 private:
  std::vector<Token> tokens_;
  ByteTrie trie_;  // values index tokens_
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_ADDED_TOKENS_H_
