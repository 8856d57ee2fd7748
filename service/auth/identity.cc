#include "service/auth/identity.h"

#include <algorithm>
#include <cctype>

#include "service/errors.h"

namespace reprise::service {

absl::Status Unauthenticated(std::string_view why) {
  return MakeError(v1::ERROR_REASON_UNAUTHENTICATED, why);
}

absl::Status PermissionDenied(std::string_view why) {
  return MakeError(v1::ERROR_REASON_PERMISSION_DENIED, why);
}

bool IsTenantName(std::string_view tenant) {
  constexpr size_t kMaxTenant = 128;
  constexpr std::string_view kPunctuation = "._-:@/";
  return !tenant.empty() && tenant.size() <= kMaxTenant &&
         std::all_of(tenant.begin(), tenant.end(), [&](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) ||
                  kPunctuation.find(c) != kPunctuation.npos;
         });
}

}  // namespace reprise::service
