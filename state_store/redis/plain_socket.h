// The TCP or Unix socket under a connection.
#ifndef REPRISE_STATE_STORE_REDIS_PLAIN_SOCKET_H_
#define REPRISE_STATE_STORE_REDIS_PLAIN_SOCKET_H_

#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "state_store/redis/address.h"
#include "state_store/redis/socket.h"

namespace reprise::state_store::redis {

class PlainSocket final : public Socket {
 public:
  static absl::StatusOr<std::unique_ptr<PlainSocket>> Connect(const Endpoint& endpoint,
                                                              Deadline deadline);

  absl::StatusOr<size_t> TryRead(absl::Span<char> buffer) override;
  absl::StatusOr<size_t> TryWrite(std::string_view bytes) override;
  absl::StatusOr<size_t> TryWriteAll(absl::Span<const std::string_view> parts) override;
  absl::Status Wait(bool for_writing, Deadline deadline) override;
  bool HasUnsent() const override { return false; }

 private:
  explicit PlainSocket(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

// PlainSocket::Connect, then a handshake.
absl::StatusOr<std::unique_ptr<Socket>> ConnectTls(const Endpoint& endpoint,
                                                   std::shared_ptr<TlsContext> context,
                                                   Deadline deadline);

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_PLAIN_SOCKET_H_
