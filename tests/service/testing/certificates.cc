#include "tests/service/testing/certificates.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

namespace reprise::service::testing {
namespace {

template <typename Write>
std::string ToPem(Write write) {
  BIO* bio = BIO_new(BIO_s_mem());
  write(bio);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string pem(data, static_cast<size_t>(size));
  BIO_free(bio);
  return pem;
}

std::string ToPem(X509* certificate) {
  return ToPem([&](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, int kind, const std::string& value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str());
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

}  // namespace

TestAuthority::Certificate TestAuthority::Make(const std::string& common_name, EVP_PKEY* key,
                                               absl::Duration from, absl::Duration until,
                                               int serial) {
  Certificate made(X509_new());
  X509_set_version(made.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), absl::ToInt64Seconds(from));
  X509_gmtime_adj(X509_getm_notAfter(made.get()), absl::ToInt64Seconds(until));
  X509_set_pubkey(made.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                             0);
  return made;
}

TestAuthority::TestAuthority(const std::string& name)
    : key_(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256")),
      certificate_(Make(name, key_.get(), -absl::Hours(1), absl::Hours(48), serial_)) {
  X509_set_issuer_name(certificate_.get(), X509_get_subject_name(certificate_.get()));
  AddExtension(certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate_.get(), NID_key_usage, "critical,keyCertSign");
  X509_sign(certificate_.get(), key_.get(), EVP_sha256());
  pem_ = ToPem(certificate_.get());
}

PemPair TestAuthority::Issue(const std::string& common_name, const std::string& alternative_names,
                             absl::Duration from, absl::Duration until) {
  const Key key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  const Certificate made = Make(common_name, key.get(), from, until, ++serial_);
  X509_set_issuer_name(made.get(), X509_get_subject_name(certificate_.get()));
  if (!alternative_names.empty()) {
    AddExtension(made.get(), NID_subject_alt_name, alternative_names);
  }
  X509_sign(made.get(), key_.get(), EVP_sha256());
  return {ToPem(made.get()), ToPem([&](BIO* bio) {
            PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          })};
}

}  // namespace reprise::service::testing
