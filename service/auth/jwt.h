// Bearer tokens that an issuer has signed: JSON Web Tokens (RFC 7519) as compact JWS (RFC 7515).
#ifndef REPRISE_SERVICE_AUTH_JWT_H_
#define REPRISE_SERVICE_AUTH_JWT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/auth/identity.h"
#include "service/auth/jwks.h"

namespace reprise::service {

struct JwtRules {
  std::string issuer;                       // that "iss" must be
  std::string audience;                     // that "aud" must be, or contain
  std::string tenant_claim = "tenant";      // the claim that names the tenant, a text
  absl::Duration skew = absl::Seconds(30);  // by which clocks may differ, 0 to 5 minutes
};

// A token with this word in its claim "scope" (RFC 8693) has the right of an admin.
inline constexpr std::string_view kAdminScope = "reprise.admin";

// Who `token` says its bearer is, if a key of `jwks` has signed it, with the key's own algorithm,
// and the rules are kept at `now`. A token must name its key ("kid") and its end ("exp"); nothing
// in it is followed to another place. UNAUTHENTICATED; PERMISSION_DENIED for a good token that
// names no tenant.
absl::StatusOr<Identity> VerifyJwt(std::string_view token, const Jwks& jwks, const JwtRules& rules,
                                   absl::Time now);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_JWT_H_
