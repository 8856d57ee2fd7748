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
#include "service/transfer_limit.h"

namespace reprise::service {

// Held by a call while it is in progress. Move-only.
struct Admission {
  // What others of the tenant, or of all, wait for.
  struct Places {
    QuotaBook::Permit call;
    QuotaBook::Reservation room;  // for what the call stores
    TransferLimit::Permit transfer;
  };

  // Just before the client hears of the end: it may come back that moment.
  void GiveBack() { places = {}; }

  // The only way from a call to a tenant.
  Identity identity;
  CallGate::Pass pass;
  Places places;
};

// DRAINING, UNAUTHENTICATED, PERMISSION_DENIED or QUOTA_EXCEEDED.
absl::StatusOr<Admission> Admit(Environment* environment,
                                const grpc::CallbackServerContext& context);

// The names in the certificate that the connection has shown, and TLS has verified.
std::vector<std::string> CertificateNames(const grpc::AuthContext& connection);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_ADMISSION_H_
