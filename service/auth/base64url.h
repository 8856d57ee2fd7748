// The base64 of JSON Web Tokens: RFC 4648 section 5, without padding.
#ifndef REPRISE_SERVICE_AUTH_BASE64URL_H_
#define REPRISE_SERVICE_AUTH_BASE64URL_H_

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"

namespace reprise::service {

// Nothing for text with any other character; absl alone would pass over padding and spaces.
inline std::optional<std::string> DecodeBase64Url(std::string_view text) {
  const bool legal = std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
  std::string bytes;
  if (!legal || !absl::WebSafeBase64Unescape({text.data(), text.size()}, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_BASE64URL_H_
