// TLS for the server's port, from PEM files that may be replaced while it runs.
#ifndef REPRISE_SERVICE_TLS_CREDENTIALS_H_
#define REPRISE_SERVICE_TLS_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/unique_fd.h"
#include "service/server_options.h"

namespace reprise::service {

// gRPC watches files by itself, but takes whatever it finds there: a certificate that does not fit
// its key would end all new connections. So the files are checked here, and what passes is laid
// down in memory, where gRPC looks for it each second. TLS 1.2 and 1.3.
//
// Thread-safe. Must outlive the gRPC server.
class TlsCredentials {
 public:
  // INVALID_ARGUMENT names the flag whose file cannot be used, and why.
  static absl::StatusOr<std::unique_ptr<TlsCredentials>> Create(const TlsSettings& settings);

  // Reads the files again. New connections get what is in them within two seconds, those that are
  // open go on. After an error those get what they got before.
  absl::Status Reload();

  std::shared_ptr<grpc::ServerCredentials> credentials() const { return credentials_; }
  // The files' paths.
  std::vector<std::string> files() const;

 private:
  // What gRPC sees of one file: a path that never changes, and always leads to a whole content.
  class Staged {
   public:
    absl::Status Put(const std::string& content);
    std::string path() const;

   private:
    UniqueFd fd_;
  };

  explicit TlsCredentials(const TlsSettings& settings) : settings_(settings) {}

  const TlsSettings settings_;
  absl::Mutex mutex_;
  Staged key_ ABSL_GUARDED_BY(mutex_), certificate_ ABSL_GUARDED_BY(mutex_);
  Staged client_ca_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<grpc::ServerCredentials> credentials_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TLS_CREDENTIALS_H_
