// What each tenant may use: a JSON file with defaults and what differs from them.
//
//   {"defaults": {"requests_per_second": 20, "concurrent_requests": 64},
//    "unlisted": "allow",
//    "tenants": {"acme": {"tokens_per_minute": 600000, "sessions": 1000, "weight": 3,
//                         "certificates": ["dns:gateway.acme.example"]},
//                "gone": {"disabled": true}}}
//
// docs/security.md has all keys.
#ifndef REPRISE_SERVICE_AUTH_TENANTS_FILE_H_
#define REPRISE_SERVICE_AUTH_TENANTS_FILE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::service {

// 0 = without limit.
struct TenantQuota {
  double weight = 0;                // share of slots and prompt rows; 0 = it is not said here
  double requests_per_second = 0;   // on average
  double request_burst = 0;         // at once after a pause; 0 = those of one second, at least 1
  int64_t tokens_per_minute = 0;    // of prompts and answers, on average; a minute's may be at once
  int64_t concurrent_requests = 0;  // calls in progress
  int64_t sessions = 0;
  int64_t stored_bytes = 0;  // of the states of its sessions and snapshots

  friend bool operator==(const TenantQuota&, const TenantQuota&) = default;
};

// Immutable, so thread-safe.
class TenantsFile {
 public:
  // Without a file: everybody is allowed, and has no limits.
  TenantsFile() = default;

  // INVALID_ARGUMENT names the key, and what is allowed for it.
  static absl::StatusOr<TenantsFile> Parse(std::string_view text);

  // Defaults for a tenant that is not listed.
  const TenantQuota& QuotaOf(const std::string& tenant) const;
  // PERMISSION_DENIED for a tenant that is disabled, or not listed where that matters.
  absl::Status CheckAllowed(const std::string& tenant) const;
  // The tenant of a certificate's name ("dns:...", as in CallCredentials); "" if none has it.
  std::string TenantOfCertificate(const std::string& name) const;

  const std::map<std::string, TenantQuota>& quotas() const { return quotas_; }
  const TenantQuota& defaults() const { return defaults_; }

 private:
  TenantQuota defaults_;
  bool refuse_unlisted_ = false;
  std::map<std::string, TenantQuota> quotas_;  // of those that are listed, with the defaults in
  std::map<std::string, bool> disabled_;
  std::map<std::string, std::string> certificates_;  // name to tenant
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_TENANTS_FILE_H_
