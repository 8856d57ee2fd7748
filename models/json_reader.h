// JSON from files that nobody vouches for: parsed under limits, and read with errors that name the
// key.
#ifndef REPRISE_MODELS_JSON_READER_H_
#define REPRISE_MODELS_JSON_READER_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace reprise::models {

struct JsonLimits {
  size_t max_bytes = size_t{16} << 20;
  int max_depth = 16;  // nesting of objects and arrays
};

// INVALID_ARGUMENT for text over the limits, malformed text, a duplicate key in any object, or a
// root that is no object. Never throws.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text,
                                               const JsonLimits& limits = {});

// Typed reads of one key of `object`. Absent and null both give nullopt; a wrong type or a value
// outside [min, max] gives INVALID_ARGUMENT that names the key, what was expected and what was
// found.
absl::StatusOr<std::optional<int64_t>> ReadInt(const nlohmann::json& object, const std::string& key,
                                               int64_t min, int64_t max);
// Finite numbers only.
absl::StatusOr<std::optional<double>> ReadNumber(const nlohmann::json& object,
                                                 const std::string& key, double min, double max);
absl::StatusOr<std::optional<bool>> ReadBool(const nlohmann::json& object, const std::string& key);
absl::StatusOr<std::optional<std::string>> ReadString(const nlohmann::json& object,
                                                      const std::string& key);

// A value as it may stand in an error message: at most 60 characters.
std::string Shown(const nlohmann::json& value);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_JSON_READER_H_
