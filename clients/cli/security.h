// How the client proves who it is, and knows whom it talks to.
#ifndef REPRISE_CLIENTS_CLI_SECURITY_H_
#define REPRISE_CLIENTS_CLI_SECURITY_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace reprise::cli {

// PEM files; empty: none.
struct SecurityOptions {
  bool tls = false;         // with the machine's authorities, unless `ca` names others
  std::string ca;           // implies TLS, as the two below do
  std::string certificate;  // of this client, with key
  std::string key;
  std::string server_name;  // that the server's certificate must be for; empty: the address' host
  std::string token;        // bearer token

  bool encrypted() const { return tls || !ca.empty() || !certificate.empty() || !key.empty(); }
};

// NOT_FOUND names the file that cannot be read; INVALID_ARGUMENT flags that do not go together.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const SecurityOptions& options);

// INVALID_ARGUMENT if the token would leave this machine in the open.
absl::Status CheckTokenIsSafe(const SecurityOptions& options, const std::string& server);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_SECURITY_H_
