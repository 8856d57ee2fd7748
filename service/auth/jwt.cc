#include "service/auth/jwt.h"

#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "service/auth/base64url.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

using nlohmann::json;

constexpr size_t kMaxToken = 8192;
constexpr size_t kMaxLoggedSubject = 128;
constexpr size_t kEs256Bytes = 64;

struct Free {
  void operator()(ECDSA_SIG* signature) const { ECDSA_SIG_free(signature); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// One answer to everything that is wrong before the signature has been verified: whoever made the
// token up learns nothing.
absl::Status NotValid() { return Unauthenticated("the token is not valid"); }

// Null if it is no object.
json ReadObject(std::string_view base64url) {
  const std::optional<std::string> text = DecodeBase64Url(base64url);
  json object = text.has_value() ? json::parse(*text, nullptr, false) : json();
  return object.is_object() ? object : json();
}

std::string TextOf(const json& object, const std::string& name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

// Two numbers of 32 bytes to the form that OpenSSL reads; "" if they are not.
std::string DerSignature(std::string_view raw) {
  if (raw.size() != kEs256Bytes) return "";
  const Owned<ECDSA_SIG> signature(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(Bytes(raw), kEs256Bytes / 2, nullptr);
  BIGNUM* s = BN_bin2bn(Bytes(raw) + kEs256Bytes / 2, kEs256Bytes / 2, nullptr);
  if (ECDSA_SIG_set0(signature.get(), r, s) != 1) {
    BN_free(r);
    BN_free(s);
    return "";
  }
  const int size = i2d_ECDSA_SIG(signature.get(), nullptr);
  std::string der(static_cast<size_t>(std::max(size, 0)), '\0');
  auto* out = reinterpret_cast<unsigned char*>(der.data());
  i2d_ECDSA_SIG(signature.get(), &out);
  return der;
}

bool SignatureIsGood(const JwtKey& key, std::string_view signed_text, std::string signature) {
  if (key.algorithm == JwtAlgorithm::kEs256) signature = DerSignature(signature);
  const EVP_MD* digest = key.algorithm == JwtAlgorithm::kEdDsa ? nullptr : EVP_sha256();
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  const bool good =
      context != nullptr && !signature.empty() &&
      EVP_DigestVerifyInit(context.get(), nullptr, digest, nullptr, key.key.get()) == 1 &&
      EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(signed_text),
                       signed_text.size()) == 1;
  ERR_clear_error();
  return good;
}

// Seconds since 1970 in a claim; nothing if it is not there. `bad` if it is there and no number.
std::optional<double> SecondsOf(const json& claims, const char* name, bool* bad) {
  const auto it = claims.find(name);
  if (it == claims.end()) return std::nullopt;
  const double seconds = it->is_number() ? it->get<double>() : NAN;
  if (!std::isfinite(seconds)) *bad = true;
  return seconds;
}

absl::Status CheckTimes(const json& claims, const JwtRules& rules, absl::Time now) {
  bool bad = false;
  const std::optional<double> end = SecondsOf(claims, "exp", &bad);
  const std::optional<double> begin = SecondsOf(claims, "nbf", &bad);
  if (bad || !end.has_value()) {
    return Unauthenticated("the token's times are not numbers, or it has no end");
  }
  const double at = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  const double skew = absl::ToDoubleSeconds(rules.skew);
  if (!(at < *end + skew)) return Unauthenticated("the token has expired");
  if (begin.has_value() && !(at >= *begin - skew)) {
    return Unauthenticated("the token is not valid yet");
  }
  return absl::OkStatus();
}

bool IsFor(const json& claims, const std::string& audience) {
  const auto it = claims.find("aud");
  if (it == claims.end()) return false;
  if (it->is_string()) return it->get<std::string>() == audience;
  return it->is_array() && std::any_of(it->begin(), it->end(), [&](const json& one) {
           return one.is_string() && one.get<std::string>() == audience;
         });
}

Right RightOf(const json& claims) {
  for (const absl::string_view word : absl::StrSplit(TextOf(claims, "scope"), ' ')) {
    if (std::string_view(word.data(), word.size()) == kAdminScope) return Right::kAdmin;
  }
  return Right::kUser;
}

// The key that the header names, if it is for the algorithm that the header names.
const JwtKey* ChooseKey(const json& header, const Jwks& jwks) {
  const std::string type = TextOf(header, "typ");
  const bool type_known = !header.contains("typ") || absl::EqualsIgnoreCase(type, "JWT") ||
                          absl::EqualsIgnoreCase(type, "at+jwt");
  // "crit" lists what a reader must understand; nothing is understood here.
  if (!header.is_object() || !type_known || header.contains("crit")) return nullptr;
  const auto found = jwks.find(TextOf(header, "kid"));
  if (found == jwks.end() || TextOf(header, "alg") != JwtAlgorithmName(found->second.algorithm)) {
    return nullptr;
  }
  return &found->second;
}

}  // namespace

absl::StatusOr<Identity> VerifyJwt(std::string_view token, const Jwks& jwks, const JwtRules& rules,
                                   absl::Time now) {
  if (token.size() > kMaxToken) return NotValid();
  const size_t first = token.find('.'), last = token.rfind('.');
  if (first == token.npos || first == last || token.find('.', first + 1) != last) return NotValid();
  const JwtKey* key = ChooseKey(ReadObject(token.substr(0, first)), jwks);
  if (key == nullptr) return NotValid();
  const std::optional<std::string> signature = DecodeBase64Url(token.substr(last + 1));
  if (!signature.has_value() || !SignatureIsGood(*key, token.substr(0, last), *signature)) {
    return NotValid();
  }
  // From here on the issuer speaks, and may be told what is wrong.
  const json claims = ReadObject(token.substr(first + 1, last - first - 1));
  if (!claims.is_object()) return NotValid();
  RETURN_IF_ERROR(CheckTimes(claims, rules, now));
  if (TextOf(claims, "iss") != rules.issuer) {
    return Unauthenticated("the token is of another issuer");
  }
  if (!IsFor(claims, rules.audience)) return Unauthenticated("the token is for another audience");
  const std::string tenant = TextOf(claims, rules.tenant_claim);
  if (!IsTenantName(tenant)) return PermissionDenied("the token names no tenant");
  return Identity{
      tenant,
      absl::StrCat("jwt:", std::string(Shortened(TextOf(claims, "sub"), kMaxLoggedSubject))),
      RightOf(claims)};
}

}  // namespace reprise::service
