// Files of tokens and of tenants, as an operator may have damaged them, and tokens from anyone
// against such a file. The first byte chooses.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "service/auth/tenants_file.h"
#include "service/auth/token_file.h"

namespace reprise::service {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckQuota(const TenantQuota& quota) {
  for (const double number : {quota.requests_per_second, quota.request_burst}) {
    Require(std::isfinite(number) && number >= 0);
  }
  Require(quota.tokens_per_minute >= 0 && quota.concurrent_requests >= 0 && quota.sessions >= 0 &&
          quota.stored_bytes >= 0);
}

void RunTokens(std::string_view text) {
  const auto file = TokenFile::Parse(text);
  if (!file.ok()) {
    Require(absl::IsInvalidArgument(file.status()));
    return;
  }
  // Whatever the lines say, no secret is known to whoever wrote them at random.
  Require(!file->Find(text).ok());
}

void RunToken(std::string_view token) {
  static const NewToken& made = *new NewToken(MakeToken("a", "t", Right::kUser).value());
  static const TokenFile& file = *new TokenFile(TokenFile::Parse(made.line).value());
  Require(file.Find(made.token).ok());
  Require(!file.Find(token).ok());
}

void RunTenants(std::string_view text) {
  const auto file = TenantsFile::Parse(text);
  if (!file.ok()) {
    Require(absl::IsInvalidArgument(file.status()));
    return;
  }
  CheckQuota(file->defaults());
  for (const auto& [tenant, quota] : file->quotas()) {
    CheckQuota(quota);
    Require(file->QuotaOf(tenant) == quota);
    static_cast<void>(file->CheckAllowed(tenant).ok());
  }
}

}  // namespace
}  // namespace reprise::service

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 3) {
    case 0:
      reprise::service::RunTokens(text);
      break;
    case 1:
      reprise::service::RunToken(text);
      break;
    default:
      reprise::service::RunTenants(text);
  }
  return 0;
}
