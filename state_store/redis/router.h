// Which server a key is to be sent to: one server, the master behind sentinels, or a cluster's
// node.
#ifndef REPRISE_STATE_STORE_REDIS_ROUTER_H_
#define REPRISE_STATE_STORE_REDIS_ROUTER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/redis/address.h"
#include "state_store/redis/connection.h"
#include "state_store/redis/socket.h"

namespace reprise::state_store::redis {

// Thread-safe.
class Router {
 public:
  virtual ~Router() = default;

  // The server of `key`; kUnready or what finding it out failed with.
  virtual absl::StatusOr<Endpoint> Locate(std::string_view key, Deadline deadline) = 0;
  // All servers that hold keys, each key once.
  virtual absl::StatusOr<std::vector<Endpoint>> Masters(Deadline deadline) = 0;
  // A command for `key` failed at `at` in a way that another server may do better.
  virtual void OnFailure(std::string_view key, const Endpoint& at, const absl::Status& status) = 0;
};

class SingleRouter final : public Router {
 public:
  explicit SingleRouter(Endpoint endpoint) : endpoint_(std::move(endpoint)) {}
  absl::StatusOr<Endpoint> Locate(std::string_view, Deadline) override { return endpoint_; }
  absl::StatusOr<std::vector<Endpoint>> Masters(Deadline) override {
    return std::vector<Endpoint>{endpoint_};
  }
  void OnFailure(std::string_view, const Endpoint&, const absl::Status&) override {}

 private:
  const Endpoint endpoint_;
};

// Asks the sentinels of `address` for the master, again after each failure. A server that a
// sentinel names is used only if it says itself (ROLE) that it is a master: a sentinel may be
// behind.
std::unique_ptr<Router> MakeSentinelRouter(const Address& address,
                                           const ConnectionOptions& sentinel,
                                           const ConnectionOptions& server);

// Keeps the slot map, learned from any node, and follows MOVED.
std::unique_ptr<Router> MakeClusterRouter(const Address& address, const ConnectionOptions& options);

// 0..16383: CRC16 of the key, or of what stands between its first '{' and the next '}' unless that
// is empty.
uint16_t KeySlot(std::string_view key);

// The target of "MOVED 3999 host:port" or "ASK 3999 host:port" in an error reply; an empty host is
// the one that answered.
struct Redirection {
  bool ask = false;
  uint16_t slot = 0;
  Endpoint target;
};
std::optional<Redirection> ParseRedirection(std::string_view message, const Endpoint& from);

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_ROUTER_H_
