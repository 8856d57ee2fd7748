#include "models/tokenizer/hf_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/status_macros.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {

std::optional<JsonRef> JsonRef::Find(std::string_view key) const {
  if (!value_->is_object()) return std::nullopt;
  const auto it = value_->find(key);
  if (it == value_->end() || it->is_null()) return std::nullopt;
  return JsonRef(&*it, Cat(path_, "/", key));
}

absl::StatusOr<JsonRef> JsonRef::Require(std::string_view key) const {
  if (!value_->is_object()) return Invalid("must be an object");
  std::optional<JsonRef> member = Find(key);
  if (!member) return Invalid(Cat("lacks the key '", key, "'"));
  return *std::move(member);
}

absl::Status JsonRef::OnlyKeys(std::initializer_list<std::string_view> keys) const {
  if (!value_->is_object()) return Invalid("must be an object");
  for (const auto& [key, value] : value_->items()) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end() || value.is_null()) continue;
    return JsonRef(&value, Cat(path_, "/", key)).Unimplemented("unknown key");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> JsonRef::String() const {
  const auto* text = value_->get_ptr<const std::string*>();
  if (text == nullptr) return Invalid("must be a string");
  return *text;
}

absl::StatusOr<bool> JsonRef::Bool() const {
  const auto* flag = value_->get_ptr<const bool*>();
  if (flag == nullptr) return Invalid("must be true or false");
  return *flag;
}

absl::StatusOr<int64_t> JsonRef::Int() const {
  const auto* number = value_->get_ptr<const int64_t*>();
  if (number == nullptr || (value_->is_number_unsigned() && *number < 0)) {
    return Invalid("must be an integer");
  }
  return *number;
}

absl::StatusOr<std::vector<JsonRef>> JsonRef::Items() const {
  if (!value_->is_array()) return Invalid("must be an array");
  std::vector<JsonRef> items;
  items.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) {
    items.emplace_back(&(*value_)[i], Cat(path_, "/", i));
  }
  return items;
}

absl::StatusOr<std::string> JsonRef::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonRef member, Require(key));
  return member.String();
}

absl::StatusOr<bool> JsonRef::BoolOr(std::string_view key, bool fallback) const {
  const std::optional<JsonRef> member = Find(key);
  if (!member) return fallback;
  return member->Bool();
}

absl::StatusOr<std::string> JsonRef::Character(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonRef member, Require(key));
  ASSIGN_OR_RETURN(std::string text, member.String());
  const Utf8Prefix prefix = ClassifyUtf8(text);
  if (prefix.kind != Utf8Prefix::kCharacter || prefix.length != text.size()) {
    return member.Invalid("must be one character");
  }
  return text;
}

absl::Status JsonRef::Invalid(std::string_view what) const {
  return absl::InvalidArgumentError(Cat(path_.empty() ? "/" : path_, ": ", what));
}

absl::Status JsonRef::Unimplemented(std::string_view what) const {
  return absl::UnimplementedError(Cat(path_.empty() ? "/" : path_, ": ", what, " (not supported)"));
}

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text) {
  // The parser without exceptions does not say where it failed, so that only a file that is
  // known to be bad is parsed once more, to find the place.
  nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_discarded()) return json;
  size_t offset = text.size();
  try {
    json = nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    offset = error.byte;
  } catch (const nlohmann::json::exception&) {
    // e.g. a number that no type holds; the offset stays unknown
  }
  return absl::InvalidArgumentError(Cat("malformed JSON near byte ", offset));
}

}  // namespace reprise::models
