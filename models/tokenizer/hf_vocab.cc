#include "models/tokenizer/hf_vocab.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/text.h"

namespace reprise::models {

absl::StatusOr<HfVocab> HfVocab::FromJson(const JsonRef& vocab_json,
                                          const std::optional<JsonRef>& added_json) {
  HfVocab vocab;
  if (!vocab_json.raw().is_object()) return vocab_json.Invalid("must be an object");
  std::vector<JsonRef> added;
  if (added_json) {
    ASSIGN_OR_RETURN(added, added_json->Items());
  }
  // The greatest id first: the views in the maps need texts_ at its final size.
  int64_t greatest = -1;
  for (const auto& [text, id] : vocab_json.raw().items()) {
    const auto* number = id.get_ptr<const nlohmann::json::number_unsigned_t*>();
    if (number == nullptr || *number > static_cast<uint64_t>(kMaxId)) {
      return vocab_json.Invalid(Cat("'", text, "' has no id from 0 to ", kMaxId));
    }
    greatest = std::max(greatest, static_cast<int64_t>(*number));
  }
  for (const JsonRef& token : added) {
    ASSIGN_OR_RETURN(const JsonRef id_json, token.Require("id"));
    ASSIGN_OR_RETURN(const int64_t id, id_json.Int());
    if (id < 0 || id > kMaxId) return id_json.Invalid(Cat("must be 0 to ", kMaxId));
    greatest = std::max(greatest, id);
  }
  vocab.texts_.resize(static_cast<size_t>(greatest + 1));
  vocab.model_ids_.reserve(vocab_json.raw().size());
  for (const auto& [text, id] : vocab_json.raw().items()) {
    const int64_t number = id.get<int64_t>();
    RETURN_IF_ERROR(vocab.Put(number, text, vocab_json));
    vocab.model_ids_.emplace(vocab.texts_[number], static_cast<int32_t>(number));
  }
  for (const JsonRef& token : added) RETURN_IF_ERROR(vocab.AddToken(token));
  return vocab;
}

absl::Status HfVocab::Put(int64_t id, std::string text, const JsonRef& where) {
  if (text.empty()) return where.Invalid(Cat("token ", id, " is empty"));
  if (!texts_[id].empty()) {
    return where.Invalid(Cat("'", text, "' and '", texts_[id], "' share the id ", id));
  }
  texts_[id] = std::move(text);
  return absl::OkStatus();
}

absl::Status HfVocab::AddToken(const JsonRef& json) {
  RETURN_IF_ERROR(
      json.OnlyKeys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  ASSIGN_OR_RETURN(const JsonRef id_json, json.Require("id"));
  ASSIGN_OR_RETURN(const int64_t id, id_json.Int());
  ASSIGN_OR_RETURN(std::string content, json.String("content"));
  AddedToken token;
  token.id = static_cast<int32_t>(id);
  ASSIGN_OR_RETURN(token.special, json.BoolOr("special", false));
  ASSIGN_OR_RETURN(token.normalized, json.BoolOr("normalized", !token.special));
  ASSIGN_OR_RETURN(token.lstrip, json.BoolOr("lstrip", false));
  ASSIGN_OR_RETURN(token.rstrip, json.BoolOr("rstrip", false));
  ASSIGN_OR_RETURN(token.single_word, json.BoolOr("single_word", false));
  const std::optional<int32_t> known = Find(content);
  if (known && *known != token.id) {
    return id_json.Invalid(Cat("'", content, "' has the id ", *known, " elsewhere"));
  }
  if (!known) RETURN_IF_ERROR(Put(id, std::move(content), id_json));
  if (!added_ids_.emplace(texts_[id], token.id).second) {
    return json.Invalid("token is added twice");
  }
  added_.push_back(token);
  return absl::OkStatus();
}

std::optional<int32_t> HfVocab::FindInModel(std::string_view text) const {
  const auto it = model_ids_.find(text);
  if (it == model_ids_.end()) return std::nullopt;
  return it->second;
}

std::optional<int32_t> HfVocab::Find(std::string_view text) const {
  const auto it = added_ids_.find(text);
  if (it != added_ids_.end()) return it->second;
  return FindInModel(text);
}

}  // namespace reprise::models
