#include "models/tokenizer/hf_added_tokens.h"

#include <algorithm>
#include <utility>

#include "models/tokenizer/unicode.h"

namespace reprise::models {

AddedTokenMatcher::AddedTokenMatcher(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  std::vector<std::pair<std::string_view, int32_t>> keys;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    keys.emplace_back(tokens_[i].pattern, static_cast<int32_t>(i));
  }
  trie_ = ByteTrie(std::move(keys));
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::Split(std::string_view text,
                                                              bool parse_special) const {
  std::vector<Part> parts;
  size_t done = 0;
  size_t i = trie_.empty() ? text.size() : 0;
  while (i < text.size()) {
    const ByteTrie::Match match = trie_.Longest(text.substr(i));
    if (match.length == 0) {
      ++i;
      continue;
    }
    const Token& token = tokens_[match.value];
    size_t begin = i;
    size_t end = i + match.length;
    // A match that is not taken hides all others inside it, as in the reference.
    i = end;
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (begin < done) continue;  // rstrip of the token before took its beginning
    if (token.lstrip) begin = std::max(done, begin - TrailingWhitespace(text.substr(0, begin)));
    if (token.rstrip) end += LeadingWhitespace(text.substr(end));
    if (begin > done) parts.push_back({text.substr(done, begin - done), kText});
    parts.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), kText});
  return parts;
}

}  // namespace reprise::models
