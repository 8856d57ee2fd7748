// The "pre_tokenizer" of tokenizer.json: cuts normalized text into the words that BPE sees.
#ifndef REPRISE_MODELS_TOKENIZER_HF_PRE_TOKENIZER_H_
#define REPRISE_MODELS_TOKENIZER_HF_PRE_TOKENIZER_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/tokenizer/hf_json.h"

namespace reprise::models {

struct Word {
  std::string_view text;
  bool at_start;  // it begins where the whole text begins
};

// Words, and the texts that steps had to write anew. Deques do not move their elements.
struct WordList {
  std::vector<Word> words;
  std::deque<std::string> texts;
};

// One step; thread-safe after construction.
class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual absl::Status Apply(WordList* list) const = 0;
};

// ByteLevel, Split, Metaspace, Digits, Punctuation, WhitespaceSplit and their Sequence.
class PreTokenizer {
 public:
  static absl::StatusOr<PreTokenizer> FromJson(const std::optional<JsonRef>& json);

  absl::Status Apply(WordList* list) const;
  // Whether BPE works on bytes (written as ByteLevel's characters) rather than on characters.
  // Words stay as they are; HfBpe maps them.
  bool byte_level() const { return byte_level_; }

 private:
  absl::Status Add(const JsonRef& json, int depth);
  absl::Status AddByteLevel(const JsonRef& json);

  std::vector<std::unique_ptr<PreTokenizerStep>> steps_;
  bool byte_level_ = false;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_PRE_TOKENIZER_H_
