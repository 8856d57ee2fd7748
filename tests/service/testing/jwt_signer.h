// An issuer of JSON Web Tokens.
#ifndef REPRISE_TESTS_SERVICE_TESTING_JWT_SIGNER_H_
#define REPRISE_TESTS_SERVICE_TESTING_JWT_SIGNER_H_

#include <openssl/evp.h>

#include <memory>
#include <string>
#include <string_view>

namespace reprise::service::testing {

// Base64url without padding.
std::string ToBase64Url(std::string_view bytes);

// "HEADER.CLAIMS" of two JSON texts, as it is signed.
std::string SignedPart(const std::string& header, const std::string& claims);

class JwtSigner {
 public:
  // "RS256", "ES256" or "EdDSA", under the key id `kid`.
  JwtSigner(const std::string& algorithm, const std::string& kid, int rsa_bits = 2048);

  // The public key as one member of a key set.
  std::string jwk() const;
  std::string jwks() const { return "{\"keys\":[" + jwk() + "]}"; }
  // {"alg": ..., "kid": ..., "typ": "JWT"}
  std::string header() const;
  // A token with these claims; `header` instead of its own if not empty.
  std::string Sign(const std::string& claims, const std::string& header = "") const;
  // PEM, as a confused verifier would use it for a secret.
  std::string PublicPem() const;

 private:
  std::string Signature(const std::string& text) const;

  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  std::string algorithm_, kid_;
  std::unique_ptr<EVP_PKEY, Free> key_;
};

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_TESTING_JWT_SIGNER_H_
