#include "models/tokenizer/hf_byte_level.h"

#include <array>

#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

struct Tables {
  std::array<std::string, 256> characters;
  std::array<int16_t, 512> bytes;  // by code point, -1: none

  Tables() {
    bytes.fill(-1);
    char32_t spare = 256;  // for what does not print
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
                          (byte >= 0xAE && byte <= 0xFF);
      const char32_t c = prints ? static_cast<char32_t>(byte) : spare++;
      AppendUtf8(c, &characters[byte]);
      bytes[c] = static_cast<int16_t>(byte);
    }
  }
};

const Tables& GetTables() {
  static const Tables& tables = *new Tables();
  return tables;
}

}  // namespace

std::string_view ByteLevelCharacter(uint8_t byte) { return GetTables().characters[byte]; }

std::optional<std::string> ByteLevelBytes(std::string_view text) {
  std::string out;
  for (size_t offset = 0; offset < text.size();) {
    const char32_t c = NextCodePoint(text, &offset);
    if (c >= GetTables().bytes.size() || GetTables().bytes[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(GetTables().bytes[c]));
  }
  return out;
}

}  // namespace reprise::models
