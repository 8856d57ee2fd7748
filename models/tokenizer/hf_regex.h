// The regular expressions of tokenizer.json, run by PCRE2.
//
// They are written for Oniguruma, which differs from PCRE2 in what \s and \w mean, in anchors and
// in possessive counts. Only what means the same in both, or can be rewritten so that it does, is
// accepted; the rest is UNIMPLEMENTED. The categories are those of Unicode 14, which PCRE2 10.42
// knows; the reference's are younger, so that the two part at letters that came later. Patterns are
// hostile input: their size and the work of a match are limited.
#ifndef REPRISE_MODELS_TOKENIZER_HF_REGEX_H_
#define REPRISE_MODELS_TOKENIZER_HF_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/tokenizer/hf_json.h"

namespace reprise::models {

// A part of a text, and whether the pattern matched it.
struct Span {
  size_t begin, end;
  bool match;
};

// An Oniguruma pattern in PCRE2's language.
absl::StatusOr<std::string> TranslatePattern(std::string_view oniguruma);

// Thread-safe after construction.
class Pattern {
 public:
  static absl::StatusOr<Pattern> Regex(std::string_view oniguruma);
  static Pattern Literal(std::string text);
  // {"Regex": "..."} or {"String": "..."}.
  static absl::StatusOr<Pattern> FromJson(const JsonRef& json);

  // Cuts `text` into its matches and what lies between them; a match may be empty.
  // RESOURCE_EXHAUSTED if a match takes more work than is allowed.
  absl::Status Cut(std::string_view text, std::vector<Span>* spans) const;

  // The text of a literal pattern, nullptr for a regular expression.
  const std::string* literal() const { return code_ ? nullptr : &literal_; }

 private:
  absl::Status CutRegex(std::string_view text, std::vector<Span>* spans) const;

  std::shared_ptr<const void> code_;  // a compiled pcre2_code, or null: a literal
  std::string literal_;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_REGEX_H_
