// GPT-2's way to write any bytes as printable characters.
#ifndef REPRISE_MODELS_TOKENIZER_HF_BYTE_LEVEL_H_
#define REPRISE_MODELS_TOKENIZER_HF_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace reprise::models {

// The character (UTF-8) that stands for `byte`.
std::string_view ByteLevelCharacter(uint8_t byte);

// The bytes that `text` stands for; nullopt if it holds any other character.
std::optional<std::string> ByteLevelBytes(std::string_view text);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_BYTE_LEVEL_H_
