// What every call of the services goes through first.
#ifndef REPRISE_SERVICE_AUTH_ADMISSION_H_
#define REPRISE_SERVICE_AUTH_ADMISSION_H_

#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "service/auth/identity.h"
#include "service/auth/quota_book.h"
#include "service/call_gate.h"
#include "service/environment.h"

namespace reprise::service {

// Held by a call while it is in progress. Move-only.
struct Admission {
  // The only way from a call to a tenant.
  Identity identity;
  CallGate::Pass pass;
  QuotaBook::Permit permit;
};

// DRAINING, UNAUTHENTICATED, PERMISSION_DENIED or QUOTA_EXCEEDED.
absl::StatusOr<Admission> Admit(Environment* environment,
                                const grpc::CallbackServerContext& context);

// The names in the certificate that the connection has shown, and TLS has verified.
std::vector<std::string> CertificateNames(const grpc::AuthContext& connection);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_ADMISSION_H_
