#include "models/tokenizer/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <utility>

#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The last character of a valid, non-empty text; `*begin` is its offset.
char32_t LastCodePoint(std::string_view text, size_t* begin) {
  *begin = text.size() - 1;
  while (*begin > 0 && (static_cast<unsigned char>(text[*begin]) & 0xC0) == 0x80) --*begin;
  size_t offset = *begin;
  return NextCodePoint(text, &offset);
}

// Characters up to a version of Unicode; a pattern of icu::UnicodeSet.
const icu::UnicodeSet* MakeSet(const char* pattern) {
  UErrorCode error = U_ZERO_ERROR;
  auto* set = new icu::UnicodeSet(icu::UnicodeString::fromUTF8(pattern), error);
  set->freeze();
  return set;
}

// The reference's normal forms are those of Unicode 9: it leaves younger characters alone, and
// they part what stands on their two sides.
const icu::UnicodeSet& FormCharacters() {
  static const icu::UnicodeSet& characters = *MakeSet("[:age=9.0:]");
  return characters;
}

// Marks as of Unicode 9 too; three characters have changed their category since.
const icu::UnicodeSet& MarkCharacters() {
  static const icu::UnicodeSet& characters =
      *MakeSet("[[[:M:]&[:age=9.0:]-[\\U000111C9]]\\u1CF2\\u1CF3]");
  return characters;
}

// Its punctuation is that of Unicode 8, when two characters were in the category that have left
// it since.
const icu::UnicodeSet& PunctuationCharacters() {
  static const icu::UnicodeSet& characters =
      *MakeSet("[[[:P:]&[:age=8.0:]]\\u166D\\U000111C9\\u0024+<=>\\u005E`|~]");
  return characters;
}

uint32_t CategoryMask(char32_t c) { return U_GET_GC_MASK(static_cast<UChar32>(c)); }

}  // namespace

bool IsWhitespace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

bool IsWordCharacter(char32_t c) {
  return u_isUAlphabetic(static_cast<UChar32>(c)) ||
         (CategoryMask(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_JOIN_CONTROL);
}

bool IsNumeric(char32_t c) { return (CategoryMask(c) & U_GC_N_MASK) != 0; }

bool IsPunctuation(char32_t c) { return PunctuationCharacters().contains(static_cast<UChar32>(c)); }

bool IsMark(char32_t c) { return MarkCharacters().contains(static_cast<UChar32>(c)); }

size_t LeadingWhitespace(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    size_t next = offset;
    if (!IsWhitespace(NextCodePoint(text, &next))) break;
    offset = next;
  }
  return offset;
}

size_t TrailingWhitespace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin;
    if (!IsWhitespace(LastCodePoint(text.substr(0, end), &begin))) break;
    end = begin;
  }
  return text.size() - end;
}

bool StartsWithWord(std::string_view text) {
  size_t offset = 0;
  return !text.empty() && IsWordCharacter(NextCodePoint(text, &offset));
}

bool EndsWithWord(std::string_view text) {
  size_t begin;
  return !text.empty() && IsWordCharacter(LastCodePoint(text, &begin));
}

absl::Status NormalizeUnicode(UnicodeForm form, std::string* text) {
  if (IsAscii(*text)) return absl::OkStatus();  // in every form already
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case UnicodeForm::kNfc:
      normalizer = icu::Normalizer2::getNFCInstance(error);
      break;
    case UnicodeForm::kNfd:
      normalizer = icu::Normalizer2::getNFDInstance(error);
      break;
    case UnicodeForm::kNfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(error);
      break;
    case UnicodeForm::kNfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(error);
      break;
  }
  if (U_SUCCESS(error)) {
    std::string out;
    icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text->size()));
    const icu::FilteredNormalizer2 filtered(*normalizer, FormCharacters());
    filtered.normalizeUTF8(0, icu::StringPiece(text->data(), static_cast<int32_t>(text->size())),
                           sink, nullptr, error);
    if (U_SUCCESS(error)) {
      *text = std::move(out);
      return absl::OkStatus();
    }
  }
  return absl::InternalError(Cat("Unicode normalization: ", u_errorName(error)));
}

void LowercaseUnicode(std::string* text) {
  std::string out;
  out.reserve(text->size());
  for (size_t offset = 0; offset < text->size();) {
    const char32_t c = NextCodePoint(*text, &offset);
    if (c == 0x130) {
      out += "i\xCC\x87";  // the one character whose lower case is two
    } else {
      AppendUtf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), &out);
    }
  }
  *text = std::move(out);
}

}  // namespace reprise::models
