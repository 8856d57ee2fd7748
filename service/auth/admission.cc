#include "service/auth/admission.h"

#include <grpc/grpc_security_constants.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/auth/authenticator.h"
#include "service/log_fields.h"

namespace reprise::service {
namespace {

absl::StatusOr<Identity> IdentityOf(const Authenticator& auth,
                                    const grpc::CallbackServerContext& context) {
  CallCredentials credentials;
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) {
    credentials.authorization.emplace_back(it->second.data(), it->second.size());
  }
  if (auth.required()) {
    if (const auto connection = context.auth_context(); connection != nullptr) {
      credentials.certificate_names = CertificateNames(*connection);
    }
  }
  return auth.Authenticate(credentials);
}

}  // namespace

absl::StatusOr<Admission> Admit(Environment* environment,
                                const grpc::CallbackServerContext& context) {
  Admission admission;
  ASSIGN_OR_RETURN(admission.pass, environment->gate.Enter());
  auto identity = IdentityOf(*environment->auth, context);
  if (!identity.ok()) {
    environment->log->debug("refused: {} from {}", ForLog(identity.status()),
                            ForLog(context.peer()));
    return identity.status();
  }
  admission.identity = *std::move(identity);
  auto permit = environment->quotas->Admit(admission.identity.tenant);
  if (!permit.ok()) {
    environment->log->debug("refused: {} to {}", ForLog(permit.status()),
                            ForLog(admission.identity.tenant));
    return permit.status();
  }
  admission.places.call = *std::move(permit);
  return admission;
}

std::vector<std::string> CertificateNames(const grpc::AuthContext& connection) {
  constexpr std::pair<const char*, const char*> kNames[] = {
      {GRPC_PEER_URI_PROPERTY_NAME, "uri:"},
      {GRPC_PEER_DNS_PROPERTY_NAME, "dns:"},
      {GRPC_PEER_EMAIL_PROPERTY_NAME, "email:"},
      {GRPC_X509_CN_PROPERTY_NAME, "cn:"},
  };
  std::vector<std::string> names;
  // A connection without TLS has none of these, and TLS keeps them only if it has verified them.
  for (const auto& [property, prefix] : kNames) {
    for (const grpc::string_ref& value : connection.FindPropertyValues(property)) {
      names.push_back(absl::StrCat(prefix, std::string(value.data(), value.size())));
    }
  }
  return names;
}

}  // namespace reprise::service
