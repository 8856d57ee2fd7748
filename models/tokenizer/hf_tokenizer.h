// Tokenizers out of Hugging Face's tokenizer.json, BPE only (GPT-NeoX, Qwen2, Llama 3, Gemma).
#ifndef REPRISE_MODELS_TOKENIZER_HF_TOKENIZER_H_
#define REPRISE_MODELS_TOKENIZER_HF_TOKENIZER_H_

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "models/tokenizer/tokenizer.h"
#include "models/tokenizer/tokenizer_config.h"

namespace reprise::models {

// Whether the "model" of a parsed tokenizer.json is one that HfFromJson can load.
bool HasSupportedModel(const nlohmann::json& json);

// Anything in the file that we do not do is UNIMPLEMENTED with its JSON path.
absl::StatusOr<std::unique_ptr<Tokenizer>> HfFromJson(const nlohmann::json& json,
                                                      const TokenizerConfig& config,
                                                      std::string fingerprint);
// The same from the file's text, without a config.
absl::StatusOr<std::unique_ptr<Tokenizer>> HfFromJson(std::string_view text);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_TOKENIZER_H_
