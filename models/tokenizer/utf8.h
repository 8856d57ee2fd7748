// UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#ifndef REPRISE_MODELS_TOKENIZER_UTF8_H_
#define REPRISE_MODELS_TOKENIZER_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace reprise::models {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What a non-empty byte string begins with.
struct Utf8Prefix {
  enum Kind {
    kCharacter,   // `length` bytes form one character
    kIncomplete,  // all bytes are the beginning of a character (length = their number)
    kInvalid,     // the first `length` bytes can start no character: one U+FFFD stands for them
  };
  Kind kind;
  size_t length;
};
Utf8Prefix ClassifyUtf8(std::string_view bytes);

// Offset of the first byte that is not part of a whole character, or npos.
size_t FindInvalidUtf8(std::string_view text);
inline bool IsValidUtf8(std::string_view text) {
  return FindInvalidUtf8(text) == std::string_view::npos;
}

// The character at `*offset` of a valid text; moves the offset behind it.
char32_t NextCodePoint(std::string_view text, size_t* offset);
// The length in bytes of the character that begins with `lead` in a valid text.
size_t Utf8Length(char lead);

void AppendUtf8(char32_t code_point, std::string* out);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_UTF8_H_
