// Tokenizers out of SentencePiece model files (Gemma, Llama 2, RecurrentGemma, ...).
#ifndef REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
#define REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "models/tokenizer/tokenizer.h"
#include "models/tokenizer/tokenizer_config.h"

namespace reprise::models {

// `model` is the content of tokenizer.model. A user-defined piece that the config calls special
// counts as a control token: it is matched in text only with EncodeOptions::parse_special.
absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceFromBytes(std::string_view model,
                                                                  const TokenizerConfig& config,
                                                                  std::string fingerprint);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
