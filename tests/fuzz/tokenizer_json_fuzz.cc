// Tokenizer files from a stranger: a tokenizer.json, or, if the input does not begin with '{', a
// SentencePiece model. What loads must encode and decode a short text within its promises.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer/detokenizer.h"
#include "models/tokenizer/hf_tokenizer.h"
#include "models/tokenizer/sentencepiece_tokenizer.h"
#include "models/tokenizer/tokenizer.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

constexpr std::string_view kText =
    "  Hello, w\u00f6rld's <s>caf\u00e9</s>\u3000 e\u0301 \U0001F468\u200D\U0001F469 123456\r\n\t"
    "aaabab \u2581<unk>\u0915\u094d\u0937 ";

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckStream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  const absl::StatusOr<std::string> text = tokenizer.Decode(ids);
  Require(text.ok());
  Require(IsValidUtf8(*text));
  Detokenizer detokenizer(&tokenizer, TextStart::kBeginning);
  std::string streamed;
  for (const int32_t id : ids) {
    const absl::StatusOr<std::string> part = detokenizer.Append(id);
    Require(part.ok() && IsValidUtf8(*part));
    streamed += *part;
    Detokenizer restored(&tokenizer);
    Require(restored.RestoreState(detokenizer.SaveState()).ok());
    detokenizer = restored;
  }
  Require(streamed + detokenizer.Flush() == *text);
}

void Exercise(const Tokenizer& tokenizer) {
  for (const bool parse_special : {false, true}) {
    const absl::StatusOr<std::vector<int32_t>> ids =
        tokenizer.Encode(kText, {.add_bos = true, .parse_special = parse_special});
    if (!ids.ok()) continue;  // a regular expression that takes too long
    for (const int32_t id : *ids) Require(id >= 0 && id < tokenizer.vocab_size());
    CheckStream(tokenizer, *ids);
  }
  std::vector<int32_t> all;
  for (int32_t id = 0; id < tokenizer.vocab_size() && id < 512; ++id) all.push_back(id);
  CheckStream(tokenizer, all);
}

}  // namespace
}  // namespace reprise::models

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise::models;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = bytes.starts_with('{')
                             ? HfFromJson(bytes)
                             : SentencePieceFromBytes(bytes, TokenizerConfig(), "");
  if (tokenizer.ok()) Exercise(**tokenizer);
  return 0;
}
