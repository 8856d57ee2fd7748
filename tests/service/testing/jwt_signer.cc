#include "tests/service/testing/jwt_signer.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/pem.h>

#include "absl/strings/escaping.h"

namespace reprise::service::testing {
namespace {

std::string NumberOf(EVP_PKEY* key, const char* name) {
  BIGNUM* number = nullptr;
  EVP_PKEY_get_bn_param(key, name, &number);
  std::string bytes(static_cast<size_t>(BN_num_bytes(number)), '\0');
  BN_bn2bin(number, reinterpret_cast<unsigned char*>(bytes.data()));
  BN_free(number);
  return bytes;
}

std::string FixedBytes(const BIGNUM* number) {
  std::string bytes(32, '\0');
  BN_bn2binpad(number, reinterpret_cast<unsigned char*>(bytes.data()), 32);
  return bytes;
}

}  // namespace

std::string ToBase64Url(std::string_view bytes) {
  std::string text;
  absl::WebSafeBase64Escape(std::string(bytes), &text);
  while (!text.empty() && text.back() == '=') text.pop_back();
  return text;
}

std::string SignedPart(const std::string& header, const std::string& claims) {
  return ToBase64Url(header) + "." + ToBase64Url(claims);
}

JwtSigner::JwtSigner(const std::string& algorithm, const std::string& kid, int rsa_bits)
    : algorithm_(algorithm), kid_(kid) {
  if (algorithm == "RS256") {
    key_.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", static_cast<size_t>(rsa_bits)));
  } else if (algorithm == "ES256") {
    key_.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  } else {
    key_.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  }
}

std::string JwtSigner::jwk() const {
  std::string members;
  if (algorithm_ == "RS256") {
    members = R"("kty":"RSA","n":")" + ToBase64Url(NumberOf(key_.get(), OSSL_PKEY_PARAM_RSA_N)) +
              R"(","e":")" + ToBase64Url(NumberOf(key_.get(), OSSL_PKEY_PARAM_RSA_E)) + "\"";
  } else if (algorithm_ == "ES256") {
    unsigned char point[65];
    size_t size = sizeof point;
    EVP_PKEY_get_octet_string_param(key_.get(), OSSL_PKEY_PARAM_PUB_KEY, point, size, &size);
    const std::string text(reinterpret_cast<char*>(point), size);
    members = R"("kty":"EC","crv":"P-256","x":")" + ToBase64Url(text.substr(1, 32)) + R"(","y":")" +
              ToBase64Url(text.substr(33)) + "\"";
  } else {
    unsigned char raw[32];
    size_t size = sizeof raw;
    EVP_PKEY_get_raw_public_key(key_.get(), raw, &size);
    members = R"("kty":"OKP","crv":"Ed25519","x":")" +
              ToBase64Url(std::string(reinterpret_cast<char*>(raw), size)) + "\"";
  }
  return R"({"kid":")" + kid_ + R"(","use":"sig",)" + members + "}";
}

std::string JwtSigner::header() const {
  return R"({"alg":")" + algorithm_ + R"(","kid":")" + kid_ + R"(","typ":"JWT"})";
}

std::string JwtSigner::Sign(const std::string& claims, const std::string& header) const {
  const std::string text = SignedPart(header.empty() ? this->header() : header, claims);
  return text + "." + ToBase64Url(Signature(text));
}

std::string JwtSigner::Signature(const std::string& text) const {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_DigestSignInit(context, nullptr, algorithm_ == "EdDSA" ? nullptr : EVP_sha256(), nullptr,
                     key_.get());
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  size_t size = 0;
  EVP_DigestSign(context, nullptr, &size, bytes, text.size());
  std::string signature(size, '\0');
  EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &size, bytes,
                 text.size());
  signature.resize(size);
  EVP_MD_CTX_free(context);
  if (algorithm_ != "ES256") return signature;
  const auto* der = reinterpret_cast<const unsigned char*>(signature.data());
  ECDSA_SIG* numbers = d2i_ECDSA_SIG(nullptr, &der, static_cast<long>(signature.size()));
  signature = FixedBytes(ECDSA_SIG_get0_r(numbers)) + FixedBytes(ECDSA_SIG_get0_s(numbers));
  ECDSA_SIG_free(numbers);
  return signature;
}

std::string JwtSigner::PublicPem() const {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PUBKEY(bio, key_.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string pem(data, static_cast<size_t>(size));
  BIO_free(bio);
  return pem;
}

}  // namespace reprise::service::testing
