#include "state_store/redis/plain_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"

namespace reprise::state_store::redis {
namespace {

// Of one TryWriteAll.
constexpr size_t kMostParts = 16;

absl::Status Closed(std::string_view problem) {
  return MakeRedisError(RedisError::kClosed, Outcome::kUnknown, problem);
}

absl::Status Refused(const Endpoint& endpoint, std::string_view problem) {
  return MakeRedisError(RedisError::kRefused, Outcome::kNotDone,
                        Cat(endpoint.ToString(), ": ", problem));
}

std::string ErrnoText(int error) {
  char buffer[128];
  return ::strerror_r(error, buffer, sizeof buffer);
}

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

absl::StatusOr<std::vector<SocketAddress>> Resolve(const Endpoint& endpoint) {
  std::vector<SocketAddress> addresses;
  if (!endpoint.unix_path.empty()) {
    sockaddr_un unix_address{};
    if (endpoint.unix_path.size() >= sizeof unix_address.sun_path) {
      return Refused(endpoint, "path is too long for a socket");
    }
    unix_address.sun_family = AF_UNIX;
    endpoint.unix_path.copy(unix_address.sun_path, endpoint.unix_path.size());
    SocketAddress& address = addresses.emplace_back();
    std::memcpy(&address.storage, &unix_address, sizeof unix_address);
    address.length = sizeof unix_address;
    return addresses;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error =
      ::getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &list);
  if (error != 0) return Refused(endpoint, ::gai_strerror(error));
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    SocketAddress& address = addresses.emplace_back();
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.length = entry->ai_addrlen;
  }
  ::freeaddrinfo(list);
  return addresses;
}

absl::Status Poll(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int64_t left = absl::ToInt64Milliseconds(TimeLeft(deadline) + absl::Microseconds(999));
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Closed(Cat("poll: ", ErrnoText(errno)));
    if (ready == 0 && TimeLeft(deadline) == absl::ZeroDuration()) {
      return MakeRedisError(RedisError::kTimeout, Outcome::kUnknown, "no answer in time");
    }
  }
}

void SetOption(int fd, int level, int name, int value) {
  // None of them is needed for correctness.
  (void)::setsockopt(fd, level, name, &value, sizeof value);
}

absl::StatusOr<UniqueFd> ConnectOne(const Endpoint& endpoint, const SocketAddress& address,
                                    Deadline deadline) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Refused(endpoint, ErrnoText(errno));
  const auto* raw = reinterpret_cast<const sockaddr*>(&address.storage);
  if (::connect(fd.get(), raw, address.length) != 0) {
    if (errno != EINPROGRESS && errno != EAGAIN) return Refused(endpoint, ErrnoText(errno));
    const absl::Status connected = Poll(fd.get(), POLLOUT, deadline);
    if (!connected.ok()) {
      return MakeRedisError(RedisError::kTimeout, Outcome::kNotDone,
                            Cat(endpoint.ToString(), ": not connected in time"));
    }
    int error = 0;
    socklen_t length = sizeof error;
    (void)::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return Refused(endpoint, ErrnoText(error));
  }
  if (address.storage.ss_family != AF_UNIX) {
    SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    // So that idle connections to a host that vanished are found out.
    SetOption(fd.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
    SetOption(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, 15);
    SetOption(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL, 5);
    SetOption(fd.get(), IPPROTO_TCP, TCP_KEEPCNT, 3);
  }
  return fd;
}

}  // namespace

Deadline DeadlineAfter(absl::Duration duration) {
  duration = std::clamp(duration, absl::ZeroDuration(), absl::Hours(24));
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(duration);
}

absl::Duration TimeLeft(Deadline deadline) {
  const auto left = deadline - std::chrono::steady_clock::now();
  return std::max(absl::FromChrono(left), absl::ZeroDuration());
}

absl::StatusOr<std::unique_ptr<PlainSocket>> PlainSocket::Connect(const Endpoint& endpoint,
                                                                  Deadline deadline) {
  ASSIGN_OR_RETURN(const std::vector<SocketAddress> addresses, Resolve(endpoint));
  absl::Status failure = Refused(endpoint, "has no address");
  for (const SocketAddress& address : addresses) {
    absl::StatusOr<UniqueFd> fd = ConnectOne(endpoint, address, deadline);
    if (fd.ok()) return std::unique_ptr<PlainSocket>(new PlainSocket(*std::move(fd)));
    failure = fd.status();
  }
  return failure;
}

absl::StatusOr<size_t> PlainSocket::TryRead(absl::Span<char> buffer) {
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (n > 0) return static_cast<size_t>(n);
    if (n == 0) return Closed("the server closed the connection");
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) return Closed(ErrnoText(errno));
  }
}

absl::StatusOr<size_t> PlainSocket::TryWrite(std::string_view bytes) {
  for (;;) {
    const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) return Closed(ErrnoText(errno));
  }
}

absl::StatusOr<size_t> PlainSocket::TryWriteAll(absl::Span<const std::string_view> parts) {
  std::array<iovec, kMostParts> vectors{};
  const size_t count = std::min(parts.size(), vectors.size());
  for (size_t i = 0; i < count; ++i) {
    vectors[i] = {const_cast<char*>(parts[i].data()), parts[i].size()};
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = count;
  for (;;) {
    const ssize_t n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) return Closed(ErrnoText(errno));
  }
}

absl::Status PlainSocket::Wait(bool for_writing, Deadline deadline) {
  return Poll(fd_.get(), static_cast<short>(for_writing ? POLLIN | POLLOUT : POLLIN), deadline);
}

absl::StatusOr<std::unique_ptr<Socket>> Socket::Connect(const Endpoint& endpoint,
                                                        std::shared_ptr<TlsContext> tls,
                                                        Deadline deadline) {
  if (tls != nullptr) return ConnectTls(endpoint, std::move(tls), deadline);
  return PlainSocket::Connect(endpoint, deadline);
}

}  // namespace reprise::state_store::redis
