// The "post_processor" of tokenizer.json: what goes before a prompt.
#ifndef REPRISE_MODELS_TOKENIZER_HF_POST_PROCESSOR_H_
#define REPRISE_MODELS_TOKENIZER_HF_POST_PROCESSOR_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "models/tokenizer/hf_json.h"
#include "models/tokenizer/hf_vocab.h"

namespace reprise::models {

// The ids that a TemplateProcessing puts before a single text (none without one). ByteLevel only
// moves offsets, which we have none of. Tokens behind the text are UNIMPLEMENTED: a prompt that
// ends with EOS is no prompt.
absl::StatusOr<std::vector<int32_t>> ReadPromptPrefix(const std::optional<JsonRef>& json,
                                                      const HfVocab& vocab);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_POST_PROCESSOR_H_
