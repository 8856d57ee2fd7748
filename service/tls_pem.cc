#include "service/tls_pem.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxCertificates = 1024;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// Instead of asking at the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

absl::StatusOr<std::vector<Owned<X509>>> ReadCertificates(std::string_view pem) {
  const Owned<BIO> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Owned<X509>> certificates;
  for (;;) {
    Owned<X509> next(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
    if (next == nullptr) break;
    certificates.push_back(std::move(next));
    if (certificates.size() > kMaxCertificates) {
      return absl::InvalidArgumentError("has too many certificates");
    }
  }
  // The end of the file is an error of this kind, and the only one that is none.
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (certificates.empty() || !at_end) {
    return absl::InvalidArgumentError("is not a PEM file of certificates");
  }
  return certificates;
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a file that can be read"));
  }
  const auto too_long = [&] {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is longer than ", max_bytes, " bytes"));
  };
  if (static_cast<size_t>(info.st_size) > max_bytes) return too_long();
  std::ifstream file(path, std::ios::binary);
  std::string content(max_bytes + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  if (file.bad() || (!file && file.gcount() == 0 && info.st_size > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  content.resize(static_cast<size_t>(file.gcount()));
  if (content.size() > max_bytes) return too_long();
  return content;
}

absl::Status CheckCertificateAndKey(std::string_view certificate_pem, std::string_view key_pem,
                                    absl::Time now) {
  auto chain = ReadCertificates(certificate_pem);
  if (!chain.ok()) return Prefixed(chain.status(), "the certificate");
  const Owned<BIO> bio(BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size())));
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  X509* const leaf = chain->front().get();
  const bool fits = key != nullptr && X509_check_private_key(leaf, key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError("the key is not a PEM file of an unencrypted private key");
  }
  if (!fits) return absl::InvalidArgumentError("the key is not that of the certificate");
  time_t seconds = absl::ToTimeT(now);
  if (X509_cmp_time(X509_get0_notAfter(leaf), &seconds) <= 0) {
    return absl::InvalidArgumentError("the certificate has expired");
  }
  if (X509_cmp_time(X509_get0_notBefore(leaf), &seconds) > 0) {
    return absl::InvalidArgumentError("the certificate is not valid yet");
  }
  return absl::OkStatus();
}

absl::Status CheckAuthorities(std::string_view pem) { return ReadCertificates(pem).status(); }

}  // namespace reprise::service
