// The second port: /metrics for Prometheus, /healthz and /readyz for whoever starts and stops the
// process. Plain HTTP/1.1 without credentials; it shows nothing of requests or sessions.
#ifndef REPRISE_SERVICE_HTTP_PROBE_SERVER_H_
#define REPRISE_SERVICE_HTTP_PROBE_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace reprise::service {

// Called on the server's threads; must be thread-safe and must not block for long.
struct ProbePages {
  struct Answer {
    bool ok = true;    // 200, else 503
    std::string text;  // why
  };
  std::function<std::string()> metrics;
  std::function<Answer()> healthz, readyz;
};

// Thread-safe.
class ProbeServer {
 public:
  // `listen` is HOST:PORT, an IPv6 host in brackets; port 0 picks a free one. UNAVAILABLE when it
  // cannot listen there.
  static absl::StatusOr<std::unique_ptr<ProbeServer>> Start(const std::string& listen,
                                                            ProbePages pages);
  // Waits for answers in progress.
  ~ProbeServer();

  int port() const;

 private:
  class Impl;
  explicit ProbeServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_HTTP_PROBE_SERVER_H_
