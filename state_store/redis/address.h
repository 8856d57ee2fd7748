// Where Redis is, as one URL:
//
//   redis://[user[:password]@]host[:port][/db]           one server; rediss:// with TLS
//   unix://[user[:password]@]/path/to/socket[?db=N]
//   redis-sentinel://[...@]host[:port],host[:port]/service[/db]   rediss-sentinel:// with TLS
//   redis-cluster://[...@]host[:port],host[:port]                 rediss-cluster:// with TLS
//
// User, password and path may hold %XX. An IPv6 host stands in brackets.
#ifndef REPRISE_STATE_STORE_REDIS_ADDRESS_H_
#define REPRISE_STATE_STORE_REDIS_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace reprise::state_store::redis {

// One listening socket: a host with a port, or a path.
struct Endpoint {
  std::string host{};
  uint16_t port = 0;
  std::string unix_path{};  // not empty: host and port mean nothing

  // "host:port", "[v6]:port" or "unix:/path"; never a password.
  std::string ToString() const;

  friend bool operator==(const Endpoint&, const Endpoint&) = default;
  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

// "host:port", "[v6]:port" or "host"; the port is `default_port` if there is none.
absl::StatusOr<Endpoint> ParseEndpoint(std::string_view text, uint16_t default_port);

enum class Topology { kSingle, kSentinel, kCluster };

struct Address {
  Topology topology = Topology::kSingle;
  std::vector<Endpoint> endpoints{};  // not empty; one for kSingle
  bool tls = false;
  std::string user{};  // empty: the default user
  std::string password{};
  int db = 0;             // 0 for kCluster
  std::string service{};  // of kSentinel: the name that the sentinels know the master by
};

// INVALID_ARGUMENT says what is wrong, without the password.
absl::StatusOr<Address> ParseAddress(std::string_view url);

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_ADDRESS_H_
