#include "clients/cli/security.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/loopback.h"
#include "base/status_macros.h"
#include "clients/cli/env.h"
#include "clients/cli/errors.h"

namespace reprise::cli {

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const SecurityOptions& options) {
  if (!options.encrypted()) {
    if (!options.server_name.empty()) return UsageError("--server-name needs --tls or --ca");
    return grpc::InsecureChannelCredentials();
  }
  if (options.certificate.empty() != options.key.empty()) {
    return UsageError("--cert and --key go together");
  }
  grpc::SslCredentialsOptions ssl;
  if (!options.ca.empty()) {
    ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadInput(options.ca));
  }
  if (!options.certificate.empty()) {
    ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadInput(options.certificate));
    ASSIGN_OR_RETURN(ssl.pem_private_key, ReadInput(options.key));
  }
  return grpc::SslCredentials(ssl);
}

absl::Status CheckTokenIsSafe(const SecurityOptions& options, const std::string& server) {
  if (options.token.empty() || options.encrypted()) return absl::OkStatus();
  if (IsLoopback(server) || absl::StartsWith(server, "unix:")) return absl::OkStatus();
  return UsageError(
      absl::StrCat("the token would go to ", server, " in the open: use --tls or --ca"));
}

}  // namespace reprise::cli
