#include "service/auth/token_file.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace reprise::service {
namespace {

constexpr std::string_view kTokenPrefix = "reprise_";
constexpr std::string_view kHashPrefix = "hmac-sha256:";
constexpr size_t kSaltBytes = 16, kHashBytes = 32, kSecretBytes = 32;
constexpr size_t kMaxId = 63, kMaxLine = 1024, kMaxToken = 256;

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// Without '_', which ends it in a token.
bool IsTokenId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxId && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

// "" unless `text` is the hexadecimal form of exactly `bytes` bytes.
std::string Unhex(std::string_view text, size_t bytes) {
  const bool hex = text.size() == 2 * bytes && std::all_of(text.begin(), text.end(), [](char c) {
                     return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                   });
  return hex ? absl::HexStringToBytes(Absl(text)) : "";
}

std::string Hash(std::string_view salt, std::string_view secret) {
  std::string digest(kHashBytes, '\0');
  HMAC(EVP_sha256(), salt.data(), static_cast<int>(salt.size()),
       reinterpret_cast<const unsigned char*>(secret.data()), secret.size(),
       reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  return digest;
}

struct TokenParts {
  std::string_view id, secret;
};
bool Split(std::string_view token, TokenParts* parts) {
  if (token.size() > kMaxToken || token.substr(0, kTokenPrefix.size()) != kTokenPrefix) {
    return false;
  }
  token.remove_prefix(kTokenPrefix.size());
  const size_t end = token.find('_');
  if (end == token.npos) return false;
  *parts = {token.substr(0, end), token.substr(end + 1)};
  return IsTokenId(parts->id) && !parts->secret.empty();
}

}  // namespace

absl::Status TokenFile::ParseLine(std::string_view text, std::map<std::string, Line>* lines) {
  if (text.size() > kMaxLine) return absl::InvalidArgumentError("is too long");
  const std::vector<std::string> words =
      absl::StrSplit(Absl(text), absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
  if (words.empty() || words[0][0] == '#') return absl::OkStatus();
  if (words.size() != 4) {
    return absl::InvalidArgumentError("must have four words: id, tenant, right and hash");
  }
  if (!IsTokenId(words[0])) {
    return absl::InvalidArgumentError("id: must be 1 to 63 lower-case letters, digits and hyphens");
  }
  if (!IsTenantName(words[1])) {
    return absl::InvalidArgumentError("tenant: must be 1 to 128 letters, digits and . _ - : @ /");
  }
  if (words[2] != "user" && words[2] != "admin") {
    return absl::InvalidArgumentError("right: must be user or admin");
  }
  const std::string_view hash = words[3];
  const size_t colon = kHashPrefix.size() + 2 * kSaltBytes;
  Line line;
  if (hash.substr(0, kHashPrefix.size()) == kHashPrefix && hash.size() > colon &&
      hash[colon] == ':') {
    line.salt = Unhex(hash.substr(kHashPrefix.size(), 2 * kSaltBytes), kSaltBytes);
    line.hash = Unhex(hash.substr(colon + 1), kHashBytes);
  }
  if (line.salt.empty() || line.hash.empty()) {
    return absl::InvalidArgumentError(
        "hash: must be hmac-sha256:SALT:HASH with 32 and 64 hexadecimal digits");
  }
  line.identity = {words[1], absl::StrCat("token:", words[0]),
                   words[2] == "admin" ? Right::kAdmin : Right::kUser};
  if (!lines->emplace(words[0], std::move(line)).second) {
    return absl::InvalidArgumentError("id: is in the file already");
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenFile> TokenFile::Parse(std::string_view text) {
  TokenFile file;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(Absl(text), '\n')) {
    ++number;
    const absl::Status parsed = ParseLine({line.data(), line.size()}, &file.lines_);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", parsed.message()));
    }
  }
  return file;
}

absl::StatusOr<Identity> TokenFile::Find(std::string_view token) const {
  static const Line& nobody =
      *new Line{{}, std::string(kSaltBytes, '\0'), std::string(kHashBytes, '\0')};
  TokenParts parts;
  if (!Split(token, &parts)) return Unauthenticated("the token is not valid");
  const auto found = lines_.find(std::string(parts.id));
  const Line& line = found == lines_.end() ? nobody : found->second;
  const std::string given = Hash(line.salt, parts.secret);
  const bool equal = CRYPTO_memcmp(given.data(), line.hash.data(), kHashBytes) == 0;
  if (!equal || found == lines_.end()) return Unauthenticated("the token is not valid");
  return line.identity;
}

bool LooksLikeStaticToken(std::string_view token) {
  return token.substr(0, kTokenPrefix.size()) == kTokenPrefix;
}

absl::StatusOr<NewToken> MakeToken(std::string_view id, std::string_view tenant, Right right) {
  std::string salt(kSaltBytes, '\0'), secret(kSecretBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(salt.data()), kSaltBytes) != 1 ||
      RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), kSecretBytes) != 1) {
    return absl::InternalError("no random numbers");
  }
  std::string text;
  absl::WebSafeBase64Escape(secret, &text);
  const std::string hash = absl::BytesToHexString(Hash(salt, text));
  NewToken made;
  made.token = absl::StrCat(Absl(kTokenPrefix), Absl(id), "_", text);
  made.line =
      absl::StrCat(Absl(id), " ", Absl(tenant), right == Right::kAdmin ? " admin " : " user ",
                   Absl(kHashPrefix), absl::BytesToHexString(salt), ":", hash);
  // Through the reader, so that no line is made that it would refuse.
  ASSIGN_OR_RETURN(const TokenFile file, TokenFile::Parse(made.line));
  RETURN_IF_ERROR(file.Find(made.token).status());
  return made;
}

}  // namespace reprise::service
