// The "decoder" of tokenizer.json, worked out for every token when the file is loaded.
#ifndef REPRISE_MODELS_TOKENIZER_HF_DECODER_H_
#define REPRISE_MODELS_TOKENIZER_HF_DECODER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "models/tokenizer/hf_json.h"
#include "models/tokenizer/tokenizer.h"

namespace reprise::models {

// ByteLevel, Metaspace, and a Sequence of Replace, Strip, Metaspace, ByteFallback, Fuse, in an
// order in which each token can be decoded by itself: what changes tokens before ByteFallback,
// what looks at the whole text (one Strip at its beginning) behind Fuse.
struct HfDecoder {
  DecodeRules rules;
  std::vector<std::string> bytes;  // [vocab_size]
  std::vector<bool> is_byte;       // [vocab_size]
  // FirstTokenBytes where it differs from `bytes`.
  absl::flat_hash_map<int32_t, std::string> first_bytes;

  static absl::StatusOr<HfDecoder> FromJson(const std::optional<JsonRef>& json,
                                            const std::vector<std::string>& token_texts);
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_DECODER_H_
