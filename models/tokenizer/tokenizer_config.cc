#include "models/tokenizer/tokenizer_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "models/tokenizer/hf_json.h"

namespace reprise::models {
namespace {

// A token is written as its text or as an object with the text under "content".
absl::StatusOr<std::optional<std::string>> ReadToken(const JsonRef& root, std::string_view key) {
  const std::optional<JsonRef> member = root.Find(key);
  if (!member) return std::nullopt;
  if (member->raw().is_object()) return member->String("content");
  return member->String();
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view json) {
  ASSIGN_OR_RETURN(const nlohmann::json parsed, ParseJson(json));
  const JsonRef root(&parsed, "");
  if (!parsed.is_object()) return root.Invalid("must be an object");
  TokenizerConfig config;
  config.present = true;
  ASSIGN_OR_RETURN(config.bos_token, ReadToken(root, "bos_token"));
  ASSIGN_OR_RETURN(config.eos_token, ReadToken(root, "eos_token"));
  if (const auto flag = root.Find("add_bos_token")) {
    ASSIGN_OR_RETURN(config.add_bos_token, flag->Bool());
  }
  if (const auto flag = root.Find("add_eos_token")) {
    ASSIGN_OR_RETURN(const bool add_eos, flag->Bool());
    if (add_eos) return flag->Unimplemented("EOS after every prompt");
  }
  const auto added = root.Find("added_tokens_decoder");
  if (!added) return config;
  if (!added->raw().is_object()) return added->Invalid("must be an object");
  for (const auto& [key, value] : added->raw().items()) {
    const JsonRef entry(&value, added->path() + "/" + key);
    TokenizerConfig::AddedToken token;
    if (!absl::SimpleAtoi(key, &token.id) || token.id < 0) return entry.Invalid("key is no id");
    ASSIGN_OR_RETURN(token.content, entry.String("content"));
    ASSIGN_OR_RETURN(token.special, entry.BoolOr("special", false));
    config.added_tokens.push_back(std::move(token));
  }
  return config;
}

}  // namespace reprise::models
