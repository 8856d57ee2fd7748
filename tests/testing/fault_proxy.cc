#include "tests/testing/fault_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/time/clock.h"

namespace reprise::testing {
namespace {

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

bool SendAll(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t n = ::send(fd, bytes, size, MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes += n;
    size -= n;
  }
  return true;
}

// So that close() sends a reset.
void Reset(UniqueFd& fd) {
  const linger now{1, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  fd.Reset();
}

}  // namespace

FaultProxy::FaultProxy(uint16_t target_port)
    : target_port_(target_port), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof address;
  if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::listen(listener_.get(), 64) != 0 ||
      ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    std::fprintf(stderr, "fault_proxy: cannot listen\n");
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Run(); });
}

FaultProxy::~FaultProxy() {
  stopping_ = true;
  acceptor_.join();
  std::vector<std::thread> connections;
  {
    absl::MutexLock lock(&mu_);
    connections.swap(connections_);
  }
  for (std::thread& connection : connections) connection.join();
}

void FaultProxy::Before(std::string text, int nth, std::function<bool()> meanwhile) {
  absl::MutexLock lock(&mu_);
  awaited_ = std::move(text);
  awaited_left_ = nth;
  meanwhile_ = std::move(meanwhile);
}

bool FaultProxy::Interrupt(std::string_view piece) {
  std::function<bool()> meanwhile;
  {
    absl::MutexLock lock(&mu_);
    if (!meanwhile_ || piece.find(awaited_) == std::string_view::npos || --awaited_left_ > 0) {
      return true;
    }
    meanwhile.swap(meanwhile_);
  }
  return meanwhile();
}

void FaultProxy::Run() {
  while (!stopping_) {
    pollfd entry{listener_.get(), POLLIN, 0};
    if (::poll(&entry, 1, 20) <= 0) continue;
    UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) continue;
    if (refuse_) {
      Reset(client);
      continue;
    }
    absl::MutexLock lock(&mu_);
    connections_.emplace_back([this, fd = std::move(client)]() mutable { Serve(std::move(fd)); });
  }
}

void FaultProxy::Serve(UniqueFd client) {
  UniqueFd server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(target_port_);
  if (::connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Reset(client);
    return;
  }
  const int on = 1;
  ::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(server.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  std::array<char, 16 << 10> buffer;
  // False: the connection is over.
  const auto forward = [&](int from, int to, std::atomic<int64_t>& left, bool drip) {
    const ssize_t n = ::recv(from, buffer.data(), drip ? 1 : buffer.size(), 0);
    if (n <= 0) return false;
    if (drip) absl::SleepFor(absl::Milliseconds(10));
    if (&left == &to_server_left_ && !Interrupt({buffer.data(), static_cast<size_t>(n)})) {
      ++cuts_;
      return false;
    }
    // A number that differs each time, spread by a multiplicative hash.
    const uint64_t draw = (random_ += 1) * 0x9E3779B97F4A7C15 >> 40;
    if (&left == &to_client_left_ && static_cast<int>(draw % 1000) < reset_per_mille_) {
      ++cuts_;
      return false;
    }
    size_t size = static_cast<size_t>(n);
    bool cut = false;
    int64_t now = left;
    while (now >= 0 && !left.compare_exchange_weak(now, now - n > 0 ? now - n : -1)) {
    }
    if (now >= 0 && n >= now) {
      cut = true;
      size = static_cast<size_t>(now);
    }
    if (!SendAll(to, buffer.data(), size)) return false;
    if (!cut) return true;
    ++cuts_;
    // What was let through has to arrive before the reset tears it down.
    absl::SleepFor(absl::Milliseconds(20));
    return false;
  };
  while (!stopping_) {
    if (black_hole_) {
      absl::SleepFor(absl::Milliseconds(5));
      continue;
    }
    pollfd entries[2] = {{client.get(), POLLIN, 0}, {server.get(), POLLIN, 0}};
    if (::poll(entries, 2, 20) <= 0) continue;
    if (black_hole_) continue;
    if (entries[0].revents != 0 && !forward(client.get(), server.get(), to_server_left_, false)) {
      break;
    }
    if (entries[1].revents != 0 && delay_micros_ > 0) {
      absl::SleepFor(absl::Microseconds(delay_micros_.load()));
    }
    if (entries[1].revents != 0 && !forward(server.get(), client.get(), to_client_left_, drip_)) {
      break;
    }
  }
  Reset(client);
  Reset(server);
}

}  // namespace reprise::testing
