// The public keys of a token issuer, as a JSON Web Key Set (RFC 7517).
#ifndef REPRISE_SERVICE_AUTH_JWKS_H_
#define REPRISE_SERVICE_AUTH_JWKS_H_

#include <openssl/evp.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace reprise::service {

// A key has one algorithm, whatever a token says.
enum class JwtAlgorithm { kRs256, kEs256, kEdDsa };

// "RS256", "ES256" or "EdDSA".
std::string_view JwtAlgorithmName(JwtAlgorithm algorithm);

struct JwtKey {
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  JwtAlgorithm algorithm{};
  std::unique_ptr<EVP_PKEY, Free> key;
};

using Jwks = std::map<std::string, JwtKey>;  // by key id

// RSA keys of 2048 to 8192 bits for RS256, P-256 for ES256, Ed25519 for EdDSA. Keys of other kinds,
// for other algorithms or for encryption are passed over, as RFC 7517 has it; symmetric keys among
// them. INVALID_ARGUMENT if the text is no key set, a usable key is damaged or without an id, two
// have the same, or none is left.
absl::StatusOr<Jwks> ParseJwks(std::string_view text);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_JWKS_H_
