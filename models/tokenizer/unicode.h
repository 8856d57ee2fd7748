// Questions about single characters, answered as the reference's Rust libraries do.
#ifndef REPRISE_MODELS_TOKENIZER_UNICODE_H_
#define REPRISE_MODELS_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace reprise::models {

bool IsWhitespace(char32_t c);     // White_Space
bool IsWordCharacter(char32_t c);  // \w: letters, marks, digits, connectors, joiners
bool IsNumeric(char32_t c);        // categories Nd, Nl, No
bool IsPunctuation(char32_t c);    // category P as of Unicode 8, and ASCII's symbols
bool IsMark(char32_t c);           // category M

// Length of the whitespace at the beginning and at the end of a valid text.
size_t LeadingWhitespace(std::string_view text);
size_t TrailingWhitespace(std::string_view text);
// Whether a valid text begins or ends with a word character.
bool StartsWithWord(std::string_view text);
bool EndsWithWord(std::string_view text);

// The forms as of Unicode 9, the version that the reference's normalizers know.
enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };
absl::Status NormalizeUnicode(UnicodeForm form, std::string* text);
// Character by character, without context.
void LowercaseUnicode(std::string* text);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_UNICODE_H_
