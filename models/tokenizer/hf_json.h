// Reading JSON with errors that say where: every value knows its path ("/model/vocab").
#ifndef REPRISE_MODELS_TOKENIZER_HF_JSON_H_
#define REPRISE_MODELS_TOKENIZER_HF_JSON_H_

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::models {

// A borrowed JSON value and its path. Getters give INVALID_ARGUMENT when the type is wrong.
class JsonRef {
 public:
  JsonRef(const nlohmann::json* value, std::string path) : value_(value), path_(std::move(path)) {}

  const nlohmann::json& raw() const { return *value_; }
  const std::string& path() const { return path_; }

  // The member `key`; null counts as absent. Find gives nullopt, Require an error.
  std::optional<JsonRef> Find(std::string_view key) const;
  absl::StatusOr<JsonRef> Require(std::string_view key) const;
  // OK if this is an object with no keys beside `keys`; UNIMPLEMENTED names the first other one.
  absl::Status OnlyKeys(std::initializer_list<std::string_view> keys) const;

  absl::StatusOr<std::string> String() const;
  absl::StatusOr<bool> Bool() const;
  absl::StatusOr<int64_t> Int() const;
  absl::StatusOr<std::vector<JsonRef>> Items() const;  // of an array

  absl::StatusOr<std::string> String(std::string_view key) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool fallback) const;
  // A string of exactly one character.
  absl::StatusOr<std::string> Character(std::string_view key) const;

  absl::Status Invalid(std::string_view what) const;
  absl::Status Unimplemented(std::string_view what) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

// INVALID_ARGUMENT on malformed JSON, with the byte offset.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_HF_JSON_H_
