// A stream of bytes to one endpoint, plain or under TLS, that never blocks past a deadline.
#ifndef REPRISE_STATE_STORE_REDIS_SOCKET_H_
#define REPRISE_STATE_STORE_REDIS_SOCKET_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "state_store/redis/address.h"

namespace reprise::state_store::redis {

// A moment on the steady clock: jumps of the wall clock neither cut calls short nor let them hang.
using Deadline = std::chrono::steady_clock::time_point;
Deadline DeadlineAfter(absl::Duration duration);
absl::Duration TimeLeft(Deadline deadline);  // not negative

struct TlsOptions {
  std::string ca_file{};      // PEM; empty: the machine's own authorities
  std::string cert_file{};    // PEM, of this client; empty: none. With key_file.
  std::string key_file{};     // PEM
  std::string server_name{};  // that certificates must be for; empty: the endpoint's host
};

// What all TLS connections of a client share. Thread-safe. The server's certificate is always
// verified; there is no way to switch that off.
class TlsContext {
 public:
  // INVALID_ARGUMENT names the file that cannot be used.
  static absl::StatusOr<std::shared_ptr<TlsContext>> Create(const TlsOptions& options);
  virtual ~TlsContext() = default;
};

// Not thread-safe.
class Socket {
 public:
  // `tls` may be null: plain. kRefused, kTls or kTimeout.
  static absl::StatusOr<std::unique_ptr<Socket>> Connect(const Endpoint& endpoint,
                                                         std::shared_ptr<TlsContext> tls,
                                                         Deadline deadline);
  virtual ~Socket() = default;

  // What is possible at once, maybe nothing: how many bytes were read or taken. kClosed.
  virtual absl::StatusOr<size_t> TryRead(absl::Span<char> buffer) = 0;
  virtual absl::StatusOr<size_t> TryWrite(std::string_view bytes) = 0;
  // Several strings as one, if the transport can; else the first. Not empty.
  virtual absl::StatusOr<size_t> TryWriteAll(absl::Span<const std::string_view> parts) {
    return TryWrite(parts.front());
  }
  // Returns when one of the two may get on, or the deadline has passed: kTimeout.
  virtual absl::Status Wait(bool for_writing, Deadline deadline) = 0;
  // Whether bytes that TryWrite took have not been handed to the system yet.
  virtual bool HasUnsent() const = 0;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_SOCKET_H_
