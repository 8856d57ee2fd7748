// From what a call brings along to who makes it.
#ifndef REPRISE_SERVICE_AUTH_AUTHENTICATOR_H_
#define REPRISE_SERVICE_AUTH_AUTHENTICATOR_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "service/auth/identity.h"
#include "service/auth/jwks.h"
#include "service/auth/jwt.h"
#include "service/auth/tenants_file.h"
#include "service/auth/token_file.h"
#include "service/server_options.h"

namespace reprise::service {

// Thread-safe.
class Authenticator {
 public:
  // INVALID_ARGUMENT names the flag whose file cannot be used, and why. `clock` is borrowed.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Create(const AuthSettings& settings,
                                                               const Clock* clock);

  // Whether callers must prove who they are. If not, all are the tenant "default".
  bool required() const { return required_; }

  // A bearer token says who calls; without one the connection's certificate does. Where both name a
  // tenant it must be the same, so that a stolen token is of no use on another's connection.
  // UNAUTHENTICATED, or PERMISSION_DENIED for a tenant that is not served.
  absl::StatusOr<Identity> Authenticate(const CallCredentials& credentials) const;

  std::shared_ptr<const TenantsFile> tenants() const;

  // Reads all files again. Each that is in order takes effect at once; for the others what was read
  // before stays in force, and the status names the first of them.
  absl::Status Reload();

  // The files' paths.
  std::vector<std::string> files() const;

 private:
  Authenticator(const AuthSettings& settings, const Clock* clock);

  absl::StatusOr<Identity> OfToken(std::string_view token) const;
  // Without a tenant if none is known for the certificate.
  Identity OfCertificate(const CallCredentials& credentials) const;

  const AuthSettings settings_;
  const Clock* const clock_;
  const bool required_;
  JwtRules rules_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const TokenFile> tokens_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Jwks> jwks_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const TenantsFile> tenants_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_AUTHENTICATOR_H_
