#include "models/tokenizer/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace reprise::models {
namespace {

// Length of the character that `lead` announces (0: it can start none) and the
// range of its second byte, Table 3-7 of the Unicode standard.
struct LeadByte {
  uint8_t length, second_low, second_high;
};

LeadByte ClassifyLead(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Prefix ClassifyUtf8(std::string_view bytes) {
  if (bytes.empty()) return {Utf8Prefix::kIncomplete, 0};
  const LeadByte lead = ClassifyLead(static_cast<uint8_t>(bytes[0]));
  if (lead.length == 0) return {Utf8Prefix::kInvalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {Utf8Prefix::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? lead.second_low : 0x80;
    const uint8_t high = i == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) return {Utf8Prefix::kInvalid, i};
  }
  return {Utf8Prefix::kCharacter, lead.length};
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t word;  // eight ASCII bytes at a time
    if (i + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + i, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        i += sizeof(word);
        continue;
      }
    }
    const Utf8Prefix prefix = ClassifyUtf8(text.substr(i, 4));
    if (prefix.kind != Utf8Prefix::kCharacter) return i;
    i += prefix.length;
  }
  return std::string_view::npos;
}

size_t Utf8Length(char lead) {
  return std::max<size_t>(1, ClassifyLead(static_cast<uint8_t>(lead)).length);
}

char32_t NextCodePoint(std::string_view text, size_t* offset) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[*offset + i]); };
  const size_t length = std::min(Utf8Length(text[*offset]), text.size() - *offset);
  char32_t code_point = byte(0);
  if (length == 2) code_point &= 0x1F;
  if (length == 3) code_point &= 0x0F;
  if (length == 4) code_point &= 0x07;
  for (size_t i = 1; i < length; ++i) code_point = (code_point << 6) | (byte(i) & 0x3F);
  *offset += length;
  return code_point;
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace reprise::models
