// Whose call it is.
#ifndef REPRISE_SERVICE_TENANT_H_
#define REPRISE_SERVICE_TENANT_H_

#include <grpcpp/server_context.h>

#include <string>

namespace reprise::service {

// The only way from a call to a tenant. Every call has the same one until identities are verified.
inline std::string TenantOf(const grpc::CallbackServerContext& /*context*/) { return "default"; }

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TENANT_H_
