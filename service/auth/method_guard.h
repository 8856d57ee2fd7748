// Authentication for services that are gRPC's own: reflection and health.
#ifndef REPRISE_SERVICE_AUTH_METHOD_GUARD_H_
#define REPRISE_SERVICE_AUTH_METHOD_GUARD_H_

#include <grpcpp/security/auth_metadata_processor.h>

#include "service/auth/authenticator.h"

namespace reprise::service {

// gRPC asks it before each call, of any service. Those of reprise.v1 pass, for they go through
// Admit, which can say more; health passes if it is open; all else is for admins. Works on
// connections with TLS only. Thread-safe.
class MethodGuard final : public grpc::AuthMetadataProcessor {
 public:
  // Borrowed; must outlive the gRPC server.
  MethodGuard(const Authenticator* auth, bool open_health)
      : auth_(auth), open_health_(open_health) {}

  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* connection,
                       OutputMetadata* consumed, OutputMetadata* response) override;

 private:
  const Authenticator* const auth_;
  const bool open_health_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_METHOD_GUARD_H_
