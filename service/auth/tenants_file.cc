#include "service/auth/tenants_file.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/auth/identity.h"

namespace reprise::service {
namespace {

using nlohmann::json;

constexpr size_t kMaxTenants = 100000;
constexpr int kMaxDepth = 8;
constexpr int64_t kMaxInteger = int64_t{1} << 53;

absl::Status Wrong(const std::string& path, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": must be ", allowed));
}

absl::Status ReadNumber(const json& value, const std::string& path, double min, double max,
                        double* out) {
  const double number = value.is_number() ? value.get<double>() : NAN;
  if (!(number >= min && number <= max)) {
    return Wrong(path, absl::StrCat("a number from ", min, " to ", max));
  }
  *out = number;
  return absl::OkStatus();
}

absl::Status ReadInteger(const json& value, const std::string& path, int64_t* out) {
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= kMaxInteger;
  if (!fits) return Wrong(path, absl::StrCat("an integer from 0 to ", kMaxInteger));
  *out = value.get<int64_t>();
  return absl::OkStatus();
}

// One limit. False if there is none of this name.
absl::StatusOr<bool> ReadLimit(const std::string& key, const json& value, const std::string& path,
                               TenantQuota* quota) {
  absl::Status read;
  if (key == "requests_per_second") {
    read = ReadNumber(value, path, 0, 1e6, &quota->requests_per_second);
  } else if (key == "weight") {
    read = ReadNumber(value, path, 0.001, 1000, &quota->weight);
  } else if (key == "request_burst") {
    read = ReadNumber(value, path, 1, 1e6, &quota->request_burst);
  } else if (key == "tokens_per_minute") {
    read = ReadInteger(value, path, &quota->tokens_per_minute);
  } else if (key == "concurrent_requests") {
    read = ReadInteger(value, path, &quota->concurrent_requests);
  } else if (key == "sessions") {
    read = ReadInteger(value, path, &quota->sessions);
  } else if (key == "stored_bytes") {
    read = ReadInteger(value, path, &quota->stored_bytes);
  } else {
    return false;
  }
  RETURN_IF_ERROR(read);
  return true;
}

absl::Status UnknownKey(const std::string& path) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": no such key is known"));
}

// "cn:", "dns:", "uri:" or "email:" and more.
bool IsCertificateName(const std::string& name) {
  for (const char* prefix : {"cn:", "dns:", "uri:", "email:"}) {
    if (name.rfind(prefix, 0) == 0) return name.size() > std::char_traits<char>::length(prefix);
  }
  return false;
}

// Text to JSON that is not too deep and has no key twice: of two limits for one thing, the reader
// of the file and this program might each believe another.
absl::StatusOr<json> ParseStrictly(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::string problem;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > kMaxDepth) {
      problem = "is too deep";
    } else if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key &&
               !keys.back().insert(value.get<std::string>()).second) {
      problem = absl::StrCat("has the key \"", value.get<std::string>(), "\" twice in one object");
    }
    return true;
  };
  json document = json::parse(text, watch, false);
  if (document.is_discarded()) return absl::InvalidArgumentError("is not JSON");
  if (!problem.empty()) return absl::InvalidArgumentError(problem);
  return document;
}

}  // namespace

absl::StatusOr<TenantsFile> TenantsFile::Parse(std::string_view text) {
  ASSIGN_OR_RETURN(const json document, ParseStrictly(text));
  if (!document.is_object()) return absl::InvalidArgumentError("must be a JSON object");
  TenantsFile file;
  for (const auto& [key, value] : document.items()) {
    if (key == "unlisted") {
      if (value != "allow" && value != "refuse") return Wrong(key, "\"allow\" or \"refuse\"");
      file.refuse_unlisted_ = value == "refuse";
    } else if (key == "defaults" || key == "tenants") {
      if (!value.is_object()) return Wrong(key, "an object");
    } else {
      return UnknownKey(key);
    }
  }
  if (document.contains("defaults")) {
    for (const auto& [key, value] : document["defaults"].items()) {
      const std::string path = absl::StrCat("defaults.", key);
      ASSIGN_OR_RETURN(const bool known, ReadLimit(key, value, path, &file.defaults_));
      if (!known) return UnknownKey(path);
    }
  }
  if (!document.contains("tenants")) return file;
  if (document["tenants"].size() > kMaxTenants) {
    return Wrong("tenants", absl::StrCat("at most ", kMaxTenants));
  }
  for (const auto& [tenant, entry] : document["tenants"].items()) {
    const std::string path = absl::StrCat("tenants.", tenant);
    if (!IsTenantName(tenant)) return Wrong(path, "1 to 128 letters, digits and . _ - : @ /");
    if (!entry.is_object()) return Wrong(path, "an object");
    TenantQuota quota = file.defaults_;
    for (const auto& [key, value] : entry.items()) {
      const std::string field = absl::StrCat(path, ".", key);
      if (key == "disabled") {
        if (!value.is_boolean()) return Wrong(field, "true or false");
        file.disabled_[tenant] = value.get<bool>();
      } else if (key == "certificates") {
        if (!value.is_array()) return Wrong(field, "an array of texts");
        for (const json& name : value) {
          if (!name.is_string() || !IsCertificateName(name.get<std::string>())) {
            return Wrong(field, "names that begin with cn: dns: uri: or email:");
          }
          const auto [other, added] = file.certificates_.emplace(name.get<std::string>(), tenant);
          if (!added) {
            return absl::InvalidArgumentError(
                absl::StrCat(field, ": ", other->first, " is of ", other->second, " already"));
          }
        }
      } else {
        ASSIGN_OR_RETURN(const bool known, ReadLimit(key, value, field, &quota));
        if (!known) return UnknownKey(field);
      }
    }
    file.quotas_.emplace(tenant, quota);
  }
  return file;
}

const TenantQuota& TenantsFile::QuotaOf(const std::string& tenant) const {
  const auto it = quotas_.find(tenant);
  return it == quotas_.end() ? defaults_ : it->second;
}

absl::Status TenantsFile::CheckAllowed(const std::string& tenant) const {
  const auto it = disabled_.find(tenant);
  const bool disabled = it != disabled_.end() && it->second;
  const bool unlisted = refuse_unlisted_ && quotas_.count(tenant) == 0;
  if (disabled || unlisted) return PermissionDenied("the tenant is not served here");
  return absl::OkStatus();
}

std::string TenantsFile::TenantOfCertificate(const std::string& name) const {
  const auto it = certificates_.find(name);
  return it == certificates_.end() ? "" : it->second;
}

}  // namespace reprise::service
