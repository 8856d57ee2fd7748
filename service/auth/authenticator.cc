#include "service/auth/authenticator.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/tls_pem.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxFileBytes = 16 << 20;
constexpr char kOpenTenant[] = "default";
constexpr std::string_view kBearer = "bearer ";

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// What `parse` makes of the file, or an error with the flag and the path.
template <typename T, typename Parse>
absl::StatusOr<std::shared_ptr<const T>> Load(const char* flag, const std::string& path,
                                              Parse parse) {
  auto text = ReadSmallFile(path, kMaxFileBytes);
  if (!text.ok()) return Prefixed(text.status(), flag);
  absl::StatusOr<T> parsed = parse(*text);
  if (!parsed.ok()) return Prefixed(parsed.status(), absl::StrCat(flag, ": ", path));
  return std::make_shared<const T>(*std::move(parsed));
}

}  // namespace

Authenticator::Authenticator(const AuthSettings& settings, const Clock* clock)
    : settings_(settings),
      clock_(clock),
      required_(!settings.token_file.empty() || !settings.jwks_file.empty() ||
                settings.client_certificates),
      rules_{settings.jwt_issuer, settings.jwt_audience, settings.jwt_tenant_claim,
             settings.jwt_clock_skew},
      tokens_(std::make_shared<const TokenFile>()),
      jwks_(std::make_shared<const Jwks>()),
      tenants_(std::make_shared<const TenantsFile>()) {}

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(const AuthSettings& settings,
                                                                     const Clock* clock) {
  std::unique_ptr<Authenticator> made(new Authenticator(settings, clock));
  RETURN_IF_ERROR(made->Reload());
  return made;
}

absl::Status Authenticator::Reload() {
  absl::Status first;
  if (!settings_.token_file.empty()) {
    auto loaded = Load<TokenFile>("--token-file", settings_.token_file, TokenFile::Parse);
    first.Update(loaded.status());
    absl::MutexLock lock(&mutex_);
    if (loaded.ok()) tokens_ = *std::move(loaded);
  }
  if (!settings_.jwks_file.empty()) {
    auto loaded = Load<Jwks>("--jwks-file", settings_.jwks_file, ParseJwks);
    first.Update(loaded.status());
    absl::MutexLock lock(&mutex_);
    if (loaded.ok()) jwks_ = *std::move(loaded);
  }
  if (!settings_.tenants_file.empty()) {
    auto loaded = Load<TenantsFile>("--tenants-file", settings_.tenants_file, TenantsFile::Parse);
    first.Update(loaded.status());
    absl::MutexLock lock(&mutex_);
    if (loaded.ok()) tenants_ = *std::move(loaded);
  }
  return first;
}

absl::StatusOr<Identity> Authenticator::Authenticate(const CallCredentials& credentials) const {
  Identity identity;
  if (!required_) {
    identity = {kOpenTenant, "anonymous", Right::kAdmin};
  } else if (credentials.authorization.size() > 1) {
    return Unauthenticated("more than one authorization header");
  } else if (credentials.authorization.size() == 1) {
    std::string_view header = credentials.authorization.front();
    if (!absl::EqualsIgnoreCase(Absl(header.substr(0, kBearer.size())), Absl(kBearer))) {
      return Unauthenticated("the authorization header must be a bearer token");
    }
    ASSIGN_OR_RETURN(identity, OfToken(header.substr(kBearer.size())));
    const Identity connection = OfCertificate(credentials);
    if (!connection.tenant.empty() && connection.tenant != identity.tenant) {
      return PermissionDenied("the token and the certificate are of different tenants");
    }
  } else if (!credentials.certificate_names.empty()) {
    identity = OfCertificate(credentials);
    if (identity.tenant.empty()) return PermissionDenied("the certificate is of no tenant");
  } else {
    return Unauthenticated("a bearer token or a client certificate is needed");
  }
  RETURN_IF_ERROR(tenants()->CheckAllowed(identity.tenant));
  return identity;
}

absl::StatusOr<Identity> Authenticator::OfToken(std::string_view token) const {
  std::shared_ptr<const TokenFile> tokens;
  std::shared_ptr<const Jwks> jwks;
  {
    absl::MutexLock lock(&mutex_);
    tokens = tokens_;
    jwks = jwks_;
  }
  if (LooksLikeStaticToken(token)) return tokens->Find(token);
  return VerifyJwt(token, *jwks, rules_, clock_->Now());
}

Identity Authenticator::OfCertificate(const CallCredentials& credentials) const {
  Identity identity;
  const std::shared_ptr<const TenantsFile> tenants = this->tenants();
  for (const std::string& name : credentials.certificate_names) {
    identity.tenant = tenants->TenantOfCertificate(name);
    identity.subject = absl::StrCat("certificate:", name);
    if (!identity.tenant.empty()) return identity;
  }
  if (!credentials.certificate_names.empty()) identity.tenant = settings_.certificate_tenant;
  return identity;
}

std::shared_ptr<const TenantsFile> Authenticator::tenants() const {
  absl::MutexLock lock(&mutex_);
  return tenants_;
}

std::vector<std::string> Authenticator::files() const {
  std::vector<std::string> files;
  for (const std::string& path :
       {settings_.token_file, settings_.jwks_file, settings_.tenants_file}) {
    if (!path.empty()) files.push_back(path);
  }
  return files;
}

}  // namespace reprise::service
