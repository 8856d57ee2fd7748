#include "models/json_reader.h"

#include <cmath>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace reprise::models {
namespace {

using nlohmann::json;

// Scanned before parsing, so that a file of open brackets costs no memory.
bool TooDeep(std::string_view text, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > max_depth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

absl::Status WrongType(const std::string& key, absl::string_view expected, const json& value) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": expected ", expected, ", found ", Shown(value)));
}

const json* Find(const json& object, const std::string& key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

std::string Shown(const json& value) {
  constexpr size_t kMax = 60;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMax) text = text.substr(0, kMax - 3) + "...";
  return text;
}

absl::StatusOr<json> ParseJsonObject(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "JSON text of ", text.size(), " bytes exceeds the limit of ", limits.max_bytes));
  }
  if (TooDeep(text, limits.max_depth)) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON nests deeper than ", limits.max_depth, " levels"));
  }
  // The library keeps the last of two equal keys; here that is an error, since readers differ.
  std::vector<absl::flat_hash_set<std::string>> keys;
  std::string duplicate;
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      std::string key = parsed.get<std::string>();
      if (!keys.back().insert(key).second && duplicate.empty()) duplicate = Shown(parsed);
    }
    return true;
  };
  json root = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (root.is_discarded()) return absl::InvalidArgumentError("malformed JSON");
  if (!duplicate.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("duplicate key ", duplicate));
  }
  if (!root.is_object()) return absl::InvalidArgumentError("the JSON root is not an object");
  return root;
}

absl::StatusOr<std::optional<int64_t>> ReadInt(const json& object, const std::string& key,
                                               int64_t min, int64_t max) {
  const json* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = absl::StrCat("an integer in [", min, ", ", max, "]");
  if (!value->is_number_integer()) return WrongType(key, expected, *value);
  // Unsigned first: a value beyond int64 must not wrap into the range.
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return WrongType(key, expected, *value);
  }
  const int64_t number = value->get<int64_t>();
  if (number < min || number > max) return WrongType(key, expected, *value);
  return number;
}

absl::StatusOr<std::optional<double>> ReadNumber(const json& object, const std::string& key,
                                                 double min, double max) {
  const json* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = absl::StrCat("a number in [", min, ", ", max, "]");
  if (!value->is_number()) return WrongType(key, expected, *value);
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < min || number > max) {
    return WrongType(key, expected, *value);
  }
  return number;
}

absl::StatusOr<std::optional<bool>> ReadBool(const json& object, const std::string& key) {
  const json* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return WrongType(key, "true or false", *value);
  return value->get<bool>();
}

absl::StatusOr<std::optional<std::string>> ReadString(const json& object, const std::string& key) {
  const json* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return WrongType(key, "a string", *value);
  return value->get<std::string>();
}

}  // namespace reprise::models
