// Token texts by id and ids by text, as tokenizer.json writes them.
#ifndef REPRISE_MODELS_TOKENIZER_HF_VOCAB_H_
#define REPRISE_MODELS_TOKENIZER_HF_VOCAB_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "models/tokenizer/hf_json.h"

namespace reprise::models {

// Copying would leave the views behind; moving keeps them.
class HfVocab {
 public:
  static constexpr int64_t kMaxId = (1 << 20) - 1;

  HfVocab() = default;
  HfVocab(HfVocab&&) = default;
  HfVocab& operator=(HfVocab&&) = default;
  HfVocab(const HfVocab&) = delete;
  HfVocab& operator=(const HfVocab&) = delete;

  // `vocab`: an object of text -> id. `added_tokens`: an array of objects or absent.
  static absl::StatusOr<HfVocab> FromJson(const JsonRef& vocab,
                                          const std::optional<JsonRef>& added_tokens);

  int32_t size() const { return static_cast<int32_t>(texts_.size()); }  // greatest id + 1
  // Empty for ids that no token has (no token has an empty text).
  std::string_view Text(int32_t id) const { return texts_[id]; }
  std::optional<int32_t> Find(std::string_view text) const;
  // Only among the tokens of "vocab", which are what BPE may produce.
  std::optional<int32_t> FindInModel(std::string_view text) const;

  struct AddedToken {
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
  };
  const std::vector<AddedToken>& added() const { return added_; }

 private:
  absl::Status Put(int64_t id, std::string text, const JsonRef& where);
  absl::Status AddToken(const JsonRef& json);

  std::vector<std::string> texts_;
  absl::flat_hash_map<std::string_view, int32_t> model_ids_;  // keys point into texts_
  absl::flat_hash_map<std::string_view, int32_t> added_ids_;
  std::vector<AddedToken> added_;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_VOCAB_H_
