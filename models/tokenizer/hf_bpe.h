// The BPE "model" of tokenizer.json.
#ifndef REPRISE_MODELS_TOKENIZER_HF_BPE_H_
#define REPRISE_MODELS_TOKENIZER_HF_BPE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "models/tokenizer/hf_json.h"
#include "models/tokenizer/hf_vocab.h"

namespace reprise::models {

// Thread-safe after construction. Keeps a pointer to the vocabulary.
class HfBpe {
 public:
  // `byte_level`: words are bytes, which the vocabulary writes as ByteLevel's characters.
  // `is_control[id]`: tokens that no text may turn into here (the unknown token excepted).
  static absl::StatusOr<HfBpe> FromJson(const JsonRef& model, const HfVocab* vocab, bool byte_level,
                                        const std::vector<bool>& is_control);

  // Appends the ids of `word`, in time n log n of its length.
  void Encode(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  // What a word's character begins as: nothing, ids, or the unknown token.
  struct Start {
    std::vector<int32_t> ids;
    bool known = false;  // a token of its own
    bool unknown = false;
  };

  absl::Status ReadMerges(const JsonRef& merges, const std::vector<bool>& is_control);
  Start StartOf(std::string_view character) const;
  std::optional<int32_t> TextToken(std::string_view text) const;  // not a control token
  void AppendStarts(std::string_view word, std::vector<int32_t>* symbols) const;
  void MergeAll(std::vector<int32_t> symbols, std::vector<int32_t>* ids) const;
  std::optional<int32_t> WholeWord(std::string_view word) const;

  const HfVocab* vocab_ = nullptr;
  std::vector<bool> is_control_;
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;
  std::optional<int32_t> unk_id_;
  std::array<Start, 256> byte_starts_;                // byte_level_ only
  std::array<std::optional<int32_t>, 256> byte_ids_;  // "<0x00>" ... "<0xFF>"
  absl::flat_hash_map<uint64_t, Merge> merges_;       // by left id << 32 | right id
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_BPE_H_
