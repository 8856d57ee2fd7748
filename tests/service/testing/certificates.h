// Certificates of authorities that nobody but the test trusts.
#ifndef REPRISE_TESTS_SERVICE_TESTING_CERTIFICATES_H_
#define REPRISE_TESTS_SERVICE_TESTING_CERTIFICATES_H_

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace reprise::service::testing {

struct PemPair {
  std::string certificate, key;
};

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name);

  const std::string& pem() const { return pem_; }
  // For `common_name` and, as OpenSSL's configuration writes them, `alternative_names`.
  PemPair Issue(const std::string& common_name,
                const std::string& alternative_names = "DNS:localhost,IP:127.0.0.1",
                absl::Duration from = -absl::Hours(1), absl::Duration until = absl::Hours(24));

 private:
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free>;
  using Certificate = std::unique_ptr<X509, Free>;

  Certificate Make(const std::string& common_name, EVP_PKEY* key, absl::Duration from,
                   absl::Duration until, int serial);

  Key key_;
  Certificate certificate_;
  std::string pem_;
  int serial_ = 1;
};

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_TESTING_CERTIFICATES_H_
