// What we need of a checkpoint's tokenizer_config.json.
#ifndef REPRISE_MODELS_TOKENIZER_TOKENIZER_CONFIG_H_
#define REPRISE_MODELS_TOKENIZER_TOKENIZER_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace reprise::models {

struct TokenizerConfig {
  struct AddedToken {
    int32_t id;
    std::string content;
    bool special;
  };
  bool present = false;                  // false: there is no such file
  std::optional<std::string> bos_token;  // nullopt: null or absent
  std::optional<std::string> eos_token;
  std::optional<bool> add_bos_token;     // nullopt: the tokenizer file decides
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder
};

// Keys that say nothing about text and ids (chat template, classes, lengths) are left alone.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view json);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_TOKENIZER_CONFIG_H_
