#include "service/tls_credentials.h"

#include <fcntl.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "service/tls_pem.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxPemBytes = 4 << 20;
constexpr unsigned kRefreshSeconds = 1;

absl::StatusOr<std::string> ReadPem(const char* flag, const std::string& path) {
  auto content = ReadSmallFile(path, kMaxPemBytes);
  if (!content.ok()) return Prefixed(content.status(), flag);
  return content;
}

}  // namespace

absl::Status TlsCredentials::Staged::Put(const std::string& content) {
  UniqueFd fresh(memfd_create("reprise-tls", MFD_CLOEXEC));
  if (!fresh.valid()) return absl::InternalError("TLS: no memory for a file");
  for (size_t done = 0; done < content.size();) {
    const ssize_t written = write(fresh.get(), content.data() + done, content.size() - done);
    if (written <= 0) return absl::InternalError("TLS: no memory for a file");
    done += static_cast<size_t>(written);
  }
  if (!fd_.valid()) {
    fd_ = std::move(fresh);
    return absl::OkStatus();
  }
  // The number stays and leads to the new content from one moment to the next.
  if (dup3(fresh.get(), fd_.get(), O_CLOEXEC) < 0) return absl::InternalError("TLS: dup3 failed");
  return absl::OkStatus();
}

std::string TlsCredentials::Staged::path() const {
  return fd_.valid() ? absl::StrCat("/proc/self/fd/", fd_.get()) : "";
}

absl::Status TlsCredentials::Reload() {
  ASSIGN_OR_RETURN(const std::string certificate,
                   ReadPem("--tls-cert", settings_.certificate_file));
  ASSIGN_OR_RETURN(const std::string key, ReadPem("--tls-key", settings_.key_file));
  if (auto fits = CheckCertificateAndKey(certificate, key, absl::Now()); !fits.ok()) {
    return Prefixed(fits, absl::StrCat("--tls-cert ", settings_.certificate_file, ", --tls-key ",
                                       settings_.key_file));
  }
  std::string client_ca;
  if (!settings_.client_ca_file.empty()) {
    ASSIGN_OR_RETURN(client_ca, ReadPem("--tls-client-ca", settings_.client_ca_file));
    if (auto usable = CheckAuthorities(client_ca); !usable.ok()) {
      return Prefixed(usable, absl::StrCat("--tls-client-ca: ", settings_.client_ca_file));
    }
  }
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(key_.Put(key));
  RETURN_IF_ERROR(certificate_.Put(certificate));
  if (!client_ca.empty()) RETURN_IF_ERROR(client_ca_.Put(client_ca));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TlsCredentials>> TlsCredentials::Create(
    const TlsSettings& settings) {
  namespace tls = grpc::experimental;
  std::unique_ptr<TlsCredentials> made(new TlsCredentials(settings));
  RETURN_IF_ERROR(made->Reload());
  absl::MutexLock lock(&made->mutex_);
  tls::TlsServerCredentialsOptions options(std::make_shared<tls::FileWatcherCertificateProvider>(
      made->key_.path(), made->certificate_.path(), made->client_ca_.path(), kRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (!settings.client_ca_file.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(settings.require_client_certificate
                                      ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  made->credentials_ = tls::TlsServerCredentials(options);
  if (made->credentials_ == nullptr) return absl::InternalError("TLS: gRPC takes no certificate");
  return made;
}

std::vector<std::string> TlsCredentials::files() const {
  std::vector<std::string> files = {settings_.certificate_file, settings_.key_file};
  if (!settings_.client_ca_file.empty()) files.push_back(settings_.client_ca_file);
  return files;
}

}  // namespace reprise::service
