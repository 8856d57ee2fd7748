#include "service/auth/method_guard.h"

#include <string>

#include "absl/strings/match.h"
#include "service/auth/admission.h"

namespace reprise::service {
namespace {

grpc::Status ToPlainStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

}  // namespace

grpc::Status MethodGuard::Process(const InputMetadata& metadata, grpc::AuthContext* connection,
                                  OutputMetadata*, OutputMetadata*) {
  const auto path = metadata.find(":path");
  const absl::string_view method =
      path == metadata.end() ? absl::string_view()
                             : absl::string_view(path->second.data(), path->second.size());
  if (absl::StartsWith(method, "/reprise.v1.")) return grpc::Status::OK;
  if (open_health_ && absl::StartsWith(method, "/grpc.health.v1.Health/")) return grpc::Status::OK;
  CallCredentials credentials;
  const auto [begin, end] = metadata.equal_range("authorization");
  for (auto it = begin; it != end; ++it) {
    credentials.authorization.emplace_back(it->second.data(), it->second.size());
  }
  if (connection != nullptr) credentials.certificate_names = CertificateNames(*connection);
  const auto identity = auth_->Authenticate(credentials);
  if (!identity.ok()) return ToPlainStatus(identity.status());
  if (identity->right != Right::kAdmin) {
    return ToPlainStatus(PermissionDenied("only admins may call this method"));
  }
  return grpc::Status::OK;
}

}  // namespace reprise::service
