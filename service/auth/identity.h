// Who calls, once it is proven.
#ifndef REPRISE_SERVICE_AUTH_IDENTITY_H_
#define REPRISE_SERVICE_AUTH_IDENTITY_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace reprise::service {

// What a caller may do. A user works with its tenant's sessions; an admin may also ask for what is
// not a tenant's own, such as reflection.
enum class Right { kUser, kAdmin };

struct Identity {
  std::string tenant;
  std::string subject;  // for logs: "token:ID", "jwt:SUB", "certificate:NAME" or "anonymous"
  Right right = Right::kUser;
};

// What a call brings along. Borrowed.
struct CallCredentials {
  std::vector<std::string_view> authorization;  // values of that header
  // Names in the verified certificate of the connection: "cn:", "dns:", "uri:" or "email:" and the
  // name. Empty without one.
  std::vector<std::string> certificate_names;
};

// UNAUTHENTICATED and PERMISSION_DENIED. `why` is shown to the caller.
absl::Status Unauthenticated(std::string_view why);
absl::Status PermissionDenied(std::string_view why);

// OK if `tenant` may be one: 1 to 128 characters of letters, digits and . _ - : @ /
bool IsTenantName(std::string_view tenant);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_IDENTITY_H_
