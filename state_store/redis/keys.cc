#include "state_store/redis/keys.h"

#include "absl/strings/ascii.h"
#include "state_store/internal/cat.h"

namespace reprise::state_store::redis {
namespace {

constexpr std::string_view kHex = "0123456789ABCDEF";

bool IsPlain(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-'; }

}  // namespace

std::string EscapeTenant(std::string_view tenant) {
  std::string escaped;
  for (const char c : tenant) {
    if (IsPlain(c)) {
      escaped.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      escaped.push_back('%');
      escaped.push_back(kHex[byte >> 4]);
      escaped.push_back(kHex[byte & 15]);
    }
  }
  return escaped;
}

std::optional<std::string> UnescapeTenant(std::string_view escaped) {
  std::string tenant;
  for (size_t i = 0; i < escaped.size(); ++i) {
    if (escaped[i] != '%') {
      tenant.push_back(escaped[i]);
      continue;
    }
    if (i + 2 >= escaped.size()) return std::nullopt;
    const size_t high = kHex.find(escaped[i + 1]), low = kHex.find(escaped[i + 2]);
    if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
    tenant.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  // One tenant has one spelling.
  if (EscapeTenant(tenant) != escaped) return std::nullopt;
  return tenant;
}

std::string Keys::Session(std::string_view tenant, std::string_view session_id) const {
  return Cat(prefix_, "s:{", EscapeTenant(tenant), ":", session_id, "}");
}

std::string Keys::Chunk(std::string_view tenant, const Sha256Digest& digest) const {
  return Cat(prefix_, "c:{", EscapeTenant(tenant), ":", HexDigest(digest), "}");
}

std::string Keys::Hold(std::string_view tenant, std::string_view pin) const {
  return Cat(prefix_, "h:{", EscapeTenant(tenant), ":", pin, "}");
}

std::string Keys::Blob(std::string_view tenant, std::string_view hex) const {
  return Cat(prefix_, "p:{", EscapeTenant(tenant), ":", hex, "}");
}

std::string Keys::BlobNotes(std::string_view tenant, std::string_view hex) const {
  return Cat(prefix_, "a:{", EscapeTenant(tenant), ":", hex, "}");
}

std::string Keys::OfTenant(std::string_view kind, std::string_view tenant) const {
  return Cat(prefix_, kind, EscapeTenant(tenant), "}");
}

std::string Keys::Pattern(std::string_view kind) const {
  std::string pattern;
  for (const char c : prefix_) {
    if (std::string_view("*?[]\\^").find(c) != std::string_view::npos) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return Cat(pattern, kind, "{*}");
}

std::optional<std::pair<std::string, std::string>> Keys::Parse(std::string_view kind,
                                                               std::string_view key) const {
  const std::string front = Cat(prefix_, kind, "{");
  if (key.substr(0, front.size()) != front || key.back() != '}') return std::nullopt;
  const std::string_view inner = key.substr(front.size(), key.size() - front.size() - 1);
  const size_t colon = inner.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  auto tenant = UnescapeTenant(inner.substr(0, colon));
  if (!tenant.has_value()) return std::nullopt;
  return std::make_pair(*std::move(tenant), std::string(inner.substr(colon + 1)));
}

std::optional<std::pair<std::string, std::string>> Keys::ParseSession(std::string_view key) const {
  return Parse("s:", key);
}

std::optional<std::pair<std::string, std::string>> Keys::ParseChunk(std::string_view key) const {
  return Parse("c:", key);
}

std::optional<std::pair<std::string, std::string>> Keys::ParseHold(std::string_view key) const {
  return Parse("h:", key);
}

}  // namespace reprise::state_store::redis
