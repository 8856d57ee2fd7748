#include "models/tokenizer/sentencepiece_normalizer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

// The bit fields of one Darts unit.
uint32_t Label(uint32_t unit) { return unit & ((1u << 31) | 0xFF); }
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
bool HasLeaf(uint32_t unit) { return ((unit >> 8) & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & ((1u << 31) - 1); }

bool IsTrailByte(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

// The reference looks at no more than this many keys per position.
constexpr int kMaxKeys = 32;

}  // namespace

absl::StatusOr<CharsMap> CharsMap::Parse(std::string_view blob) {
  CharsMap map;
  if (blob.empty()) return map;
  const auto bad = [](std::string_view what) {
    return absl::InvalidArgumentError(
        Cat("SentencePiece model: normalizer_spec.precompiled_charsmap ", what));
  };
  const auto word = [&](size_t i) {
    uint32_t value = 0;
    for (size_t k = 4; k-- > 0;) value = (value << 8) | static_cast<uint8_t>(blob[i + k]);
    return value;
  };
  if (blob.size() < 4) return bad("is truncated");
  const size_t trie_bytes = word(0);
  if (trie_bytes > blob.size() - 4 || trie_bytes % 4 != 0) return bad("has a bad trie size");
  for (size_t i = 0; i < trie_bytes; i += 4) map.units_.push_back(word(4 + i));
  map.replacements_ = std::string(blob.substr(4 + trie_bytes));
  if (!map.replacements_.empty() && map.replacements_.back() != '\0') {
    return bad("ends inside a replacement");
  }
  if (!IsValidUtf8(map.replacements_)) return bad("holds invalid UTF-8");
  return map;
}

size_t CharsMap::Longest(std::string_view text, std::string_view* replacement) const {
  if (units_.empty()) return 0;
  size_t longest = 0;
  size_t node = Offset(units_[0]);
  int keys = 0;
  for (size_t i = 0; i < text.size() && keys < kMaxKeys; ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= units_.size() || Label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= Offset(unit);
    if (!HasLeaf(unit)) continue;
    if (node >= units_.size()) break;
    const uint32_t value = Value(units_[node]);
    if (value >= replacements_.size()) break;
    longest = i + 1;
    *replacement = std::string_view(replacements_.c_str() + value);
    ++keys;
  }
  // Only a file made to break us has a key that ends inside a character, or a replacement that
  // begins inside one.
  if (longest == 0 || (longest < text.size() && IsTrailByte(text[longest]))) return 0;
  return !replacement->empty() && IsTrailByte(replacement->front()) ? 0 : longest;
}

absl::StatusOr<SentencePieceNormalizer> SentencePieceNormalizer::Create(
    const SentencePieceModel& model) {
  SentencePieceNormalizer normalizer;
  ASSIGN_OR_RETURN(normalizer.charsmap_, CharsMap::Parse(model.charsmap));
  std::vector<std::pair<std::string_view, int32_t>> keys;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type != SentencePieceModel::Type::kUserDefined) continue;
    keys.emplace_back(model.pieces[i].text, static_cast<int32_t>(i));
  }
  normalizer.user_defined_ = ByteTrie(std::move(keys));
  normalizer.add_dummy_prefix_ = model.add_dummy_prefix;
  normalizer.remove_extra_whitespaces_ = model.remove_extra_whitespaces;
  normalizer.escape_whitespaces_ = model.escape_whitespaces;
  return normalizer;
}

SentencePieceNormalizer::Step SentencePieceNormalizer::NextStep(std::string_view text) const {
  if (!user_defined_.empty()) {
    const size_t length = user_defined_.Longest(text).length;
    if (length > 0) return {text.substr(0, length), length};
  }
  std::string_view replacement;
  const size_t length = charsmap_.Longest(text, &replacement);
  if (length > 0) return {replacement, length};
  const size_t character = std::min(Utf8Length(text[0]), text.size());
  return {text.substr(0, character), character};
}

std::string SentencePieceNormalizer::Normalize(std::string_view text, bool dummy_prefix) const {
  if (remove_extra_whitespaces_) {
    while (!text.empty()) {
      const Step step = NextStep(text);
      if (step.out != " ") break;
      text.remove_prefix(step.consumed);
    }
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2);
  const std::string_view space = escape_whitespaces_ ? kSpaceSymbol : " ";
  if (add_dummy_prefix_ && dummy_prefix) out += space;
  bool after_space = remove_extra_whitespaces_;
  while (!text.empty()) {
    Step step = NextStep(text);
    text.remove_prefix(step.consumed);
    if (after_space) {
      while (step.out.starts_with(" ")) step.out.remove_prefix(1);
    }
    if (step.out.empty()) continue;
    for (const char c : step.out) {
      if (c == ' ') {
        out += space;
      } else {
        out += c;
      }
    }
    after_space = remove_extra_whitespaces_ && step.out.ends_with(" ");
  }
  if (remove_extra_whitespaces_) {
    while (out.ends_with(space)) out.erase(out.size() - space.size());
  }
  return out;
}

}  // namespace reprise::models
