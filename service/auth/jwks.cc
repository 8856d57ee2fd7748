#include "service/auth/jwks.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/auth/base64url.h"

namespace reprise::service {
namespace {

using nlohmann::json;

constexpr size_t kMaxKeys = 256;
constexpr int kMinRsaBits = 2048, kMaxRsaBits = 8192;
constexpr size_t kCoordinateBytes = 32;

struct Free {
  void operator()(BIGNUM* number) const { BN_free(number); }
  void operator()(OSSL_PARAM_BLD* builder) const { OSSL_PARAM_BLD_free(builder); }
  void operator()(OSSL_PARAM* params) const { OSSL_PARAM_free(params); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

using Key = decltype(JwtKey::key);

const unsigned char* Bytes(const std::string& text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// "" if there is no such member, or it is no text.
std::string TextOf(const json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

std::string BytesOf(const json& object, const char* name) {
  return DecodeBase64Url(TextOf(object, name)).value_or("");
}

// Null unless the parameters are those of a key whose numbers fit together.
Key FromParameters(const char* type, OSSL_PARAM_BLD* builder) {
  const Owned<OSSL_PARAM> params(OSSL_PARAM_BLD_to_param(builder));
  const Owned<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* made = nullptr;
  if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &made, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    return nullptr;
  }
  Key key(made);
  const Owned<EVP_PKEY_CTX> check(EVP_PKEY_CTX_new_from_pkey(nullptr, key.get(), nullptr));
  if (check == nullptr || EVP_PKEY_public_check(check.get()) != 1) return nullptr;
  return key;
}

Key RsaKey(const json& object) {
  const std::string n = BytesOf(object, "n"), e = BytesOf(object, "e");
  // Before OpenSSL sees them: its work grows with the cube of the length.
  if (n.empty() || e.empty() || n.size() > kMaxRsaBits / 8 || e.size() > 8) return nullptr;
  const Owned<BIGNUM> modulus(BN_bin2bn(Bytes(n), static_cast<int>(n.size()), nullptr));
  const Owned<BIGNUM> exponent(BN_bin2bn(Bytes(e), static_cast<int>(e.size()), nullptr));
  if (BN_num_bits(modulus.get()) < kMinRsaBits || !BN_is_odd(exponent.get()) ||
      BN_is_one(exponent.get())) {
    return nullptr;
  }
  const Owned<OSSL_PARAM_BLD> builder(OSSL_PARAM_BLD_new());
  if (OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, modulus.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, exponent.get()) != 1) {
    return nullptr;
  }
  return FromParameters("RSA", builder.get());
}

Key P256Key(const json& object) {
  const std::string x = BytesOf(object, "x"), y = BytesOf(object, "y");
  if (x.size() != kCoordinateBytes || y.size() != kCoordinateBytes) return nullptr;
  const std::string point = absl::StrCat("\x04", x, y);  // uncompressed
  const Owned<OSSL_PARAM_BLD> builder(OSSL_PARAM_BLD_new());
  if (OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) !=
          1 ||
      OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                       point.size()) != 1) {
    return nullptr;
  }
  return FromParameters("EC", builder.get());
}

Key Ed25519Key(const json& object) {
  const std::string x = BytesOf(object, "x");
  if (x.size() != kCoordinateBytes) return nullptr;
  return Key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, Bytes(x), x.size()));
}

// What RFC 7518 calls the kinds of key that are used here.
struct Kind {
  const char* type;
  const char* curve;
  JwtAlgorithm algorithm;
  Key (*read)(const json&);
};
constexpr Kind kKinds[] = {
    {"RSA", "", JwtAlgorithm::kRs256, RsaKey},
    {"EC", "P-256", JwtAlgorithm::kEs256, P256Key},
    {"OKP", "Ed25519", JwtAlgorithm::kEdDsa, Ed25519Key},
};

const Kind* KindOf(const json& object) {
  const std::string use = TextOf(object, "use"), algorithm = TextOf(object, "alg");
  if (!use.empty() && use != "sig") return nullptr;
  for (const Kind& kind : kKinds) {
    if (TextOf(object, "kty") == kind.type && TextOf(object, "crv") == kind.curve &&
        (algorithm.empty() || algorithm == JwtAlgorithmName(kind.algorithm))) {
      return &kind;
    }
  }
  return nullptr;
}

}  // namespace

std::string_view JwtAlgorithmName(JwtAlgorithm algorithm) {
  switch (algorithm) {
    case JwtAlgorithm::kRs256:
      return "RS256";
    case JwtAlgorithm::kEs256:
      return "ES256";
    case JwtAlgorithm::kEdDsa:
      return "EdDSA";
  }
  return "";
}

absl::StatusOr<Jwks> ParseJwks(std::string_view text) {
  const json document = json::parse(text, nullptr, false);
  if (!document.is_object() || !document.contains("keys") || !document["keys"].is_array()) {
    return absl::InvalidArgumentError("must be a JSON object with an array \"keys\"");
  }
  const json& keys = document["keys"];
  if (keys.size() > kMaxKeys) {
    return absl::InvalidArgumentError(absl::StrCat("keys: must be at most ", kMaxKeys));
  }
  Jwks jwks;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto refuse = [&](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat("keys[", i, "]: ", why));
    };
    if (!keys[i].is_object()) return refuse("must be an object");
    const Kind* kind = KindOf(keys[i]);
    if (kind == nullptr) continue;
    const std::string id = TextOf(keys[i], "kid");
    if (id.empty()) return refuse("must have a text \"kid\"");
    JwtKey key{kind->algorithm, kind->read(keys[i])};
    ERR_clear_error();
    if (key.key == nullptr) return refuse("is not a key of its kind");
    if (!jwks.emplace(id, std::move(key)).second) return refuse("has the kid of another key");
  }
  if (jwks.empty()) {
    return absl::InvalidArgumentError("has no key for RS256, ES256 or EdDSA with Ed25519");
  }
  return jwks;
}

}  // namespace reprise::service
