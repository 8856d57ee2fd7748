// The "normalizer" of tokenizer.json.
#ifndef REPRISE_MODELS_TOKENIZER_HF_NORMALIZER_H_
#define REPRISE_MODELS_TOKENIZER_HF_NORMALIZER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/tokenizer/hf_json.h"

namespace reprise::models {

// One step; thread-safe after construction.
class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  // Rewrites a valid text, which may grow to at most `limit` bytes (RESOURCE_EXHAUSTED).
  virtual absl::Status Apply(size_t limit, std::string* text) const = 0;
};

// NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace and their Sequence.
class Normalizer {
 public:
  static absl::StatusOr<Normalizer> FromJson(const std::optional<JsonRef>& json);
  absl::Status Apply(std::string* text) const;

 private:
  std::vector<std::unique_ptr<NormalizerStep>> steps_;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_NORMALIZER_H_
