#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/router.h"

namespace reprise::state_store::redis {
namespace {

constexpr size_t kSlots = 16384;

// CRC-16/XMODEM, which the cluster specification names.
constexpr std::array<uint16_t, 256> MakeCrcTable() {
  std::array<uint16_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc << 1) ^ ((crc & 0x8000) ? 0x1021 : 0);
    table[byte] = static_cast<uint16_t>(crc);
  }
  return table;
}
constexpr std::array<uint16_t, 256> kCrcTable = MakeCrcTable();

class ClusterRouter final : public Router {
 public:
  ClusterRouter(const Address& address, const ConnectionOptions& options)
      : options_(options), seeds_(address.endpoints) {}

  absl::StatusOr<Endpoint> Locate(std::string_view key, Deadline deadline) override {
    const uint16_t slot = KeySlot(key);
    absl::MutexLock lock(&mu_);
    if (stale_) RETURN_IF_ERROR(Refresh(deadline));
    const int node = slots_[slot];
    if (node < 0) {
      stale_ = true;
      return MakeRedisError(RedisError::kUnready, Outcome::kNotDone,
                            Cat("no node serves slot ", slot));
    }
    return nodes_[node];
  }

  absl::StatusOr<std::vector<Endpoint>> Masters(Deadline deadline) override {
    absl::MutexLock lock(&mu_);
    // Whoever walks over all keys wants the map of now.
    RETURN_IF_ERROR(Refresh(deadline));
    std::set<int> serving(slots_.begin(), slots_.end());
    if (*serving.begin() < 0) {
      return MakeRedisError(RedisError::kUnready, Outcome::kNotDone, "some slots have no node");
    }
    std::vector<Endpoint> masters;
    for (const int node : serving) masters.push_back(nodes_[node]);
    return masters;
  }

  void OnFailure(std::string_view key, const Endpoint& at, const absl::Status& status) override {
    absl::MutexLock lock(&mu_);
    const auto redirection =
        GetRedisError(status) == RedisError::kMoved
            ? ParseRedirection({status.message().data(), status.message().size()}, at)
            : std::nullopt;
    if (!redirection.has_value()) {
      stale_ = true;
      return;
    }
    if (redirection->ask) return;
    slots_[KeySlot(key)] = NodeIndex(redirection->target);
    // One slot moved, so others may have.
    stale_ = true;
  }

 private:
  int NodeIndex(const Endpoint& endpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto it = std::find(nodes_.begin(), nodes_.end(), endpoint);
    if (it != nodes_.end()) return static_cast<int>(it - nodes_.begin());
    nodes_.push_back(endpoint);
    return static_cast<int>(nodes_.size()) - 1;
  }

  absl::Status Refresh(Deadline deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    std::vector<Endpoint> candidates = nodes_;
    for (const Endpoint& seed : seeds_) {
      if (std::find(candidates.begin(), candidates.end(), seed) == candidates.end()) {
        candidates.push_back(seed);
      }
    }
    absl::Status failure = absl::OkStatus();
    for (const Endpoint& node : candidates) {
      failure = LearnFrom(node, deadline);
      if (failure.ok()) return failure;
      if (TimeLeft(deadline) == absl::ZeroDuration()) break;
    }
    return Prefixed(failure, "learning the cluster's slots");
  }

  absl::Status LearnFrom(const Endpoint& node, Deadline deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ASSIGN_OR_RETURN(const auto connection, Connection::Connect(node, options_, deadline));
    const Deadline soon = std::min(deadline, DeadlineAfter(options_.connect_timeout));
    ASSIGN_OR_RETURN(const Reply reply, connection->Call({"CLUSTER", "SLOTS"}, soon));
    ASSIGN_OR_RETURN(const auto* ranges, reply.Array("CLUSTER SLOTS"));
    std::vector<int> slots(kSlots, -1);
    std::vector<Endpoint> before = std::move(nodes_);
    nodes_.clear();
    const absl::Status read = ReadRanges(*ranges, node, slots);
    // A node that has just been reset or has lost the others knows nothing.
    if (!read.ok() || nodes_.empty()) {
      nodes_ = std::move(before);
      if (!read.ok()) return read;
      return MakeRedisError(RedisError::kUnready, Outcome::kNotDone,
                            Cat(node.ToString(), " knows no slots"));
    }
    slots_ = std::move(slots);
    stale_ = false;
    return absl::OkStatus();
  }

  absl::Status ReadRanges(const std::vector<Reply>& ranges, const Endpoint& node,
                          std::vector<int>& slots) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (const Reply& range : ranges) {
      ASSIGN_OR_RETURN(const auto* fields, range.Array("CLUSTER SLOTS", 3));
      ASSIGN_OR_RETURN(const int64_t first, (*fields)[0].Integer("CLUSTER SLOTS"));
      ASSIGN_OR_RETURN(const int64_t last, (*fields)[1].Integer("CLUSTER SLOTS"));
      ASSIGN_OR_RETURN(const auto* master, (*fields)[2].Array("CLUSTER SLOTS", 2));
      ASSIGN_OR_RETURN(const int64_t port, (*master)[1].Integer("CLUSTER SLOTS"));
      if (first < 0 || last >= static_cast<int64_t>(kSlots) || first > last || port < 1 ||
          port > 65535) {
        return MakeRedisError(RedisError::kProtocol, Outcome::kNotDone,
                              "CLUSTER SLOTS gave a bad range");
      }
      Endpoint endpoint;
      // Nil or empty: the address that we asked.
      endpoint.host = (*master)[0].text.empty() ? node.host : (*master)[0].text;
      endpoint.port = static_cast<uint16_t>(port);
      const int index = NodeIndex(endpoint);
      std::fill(slots.begin() + first, slots.begin() + last + 1, index);
    }
    return absl::OkStatus();
  }

  const ConnectionOptions options_;
  const std::vector<Endpoint> seeds_;
  absl::Mutex mu_;
  std::vector<Endpoint> nodes_ ABSL_GUARDED_BY(mu_);
  std::vector<int> slots_ ABSL_GUARDED_BY(mu_) = std::vector<int>(kSlots, -1);  // index in nodes_
  bool stale_ ABSL_GUARDED_BY(mu_) = true;
};

}  // namespace

uint16_t KeySlot(std::string_view key) {
  const size_t open = key.find('{');
  if (open != std::string_view::npos) {
    const size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) {
      key = key.substr(open + 1, close - open - 1);
    }
  }
  uint16_t crc = 0;
  for (const char c : key) {
    crc = static_cast<uint16_t>(crc << 8 ^ kCrcTable[(crc >> 8 ^ static_cast<uint8_t>(c)) & 0xFF]);
  }
  return crc % kSlots;
}

std::optional<Redirection> ParseRedirection(std::string_view message, const Endpoint& from) {
  Redirection redirection;
  size_t at = message.find("MOVED ");
  if (at == std::string_view::npos) {
    at = message.find("ASK ");
    redirection.ask = true;
  }
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = message.substr(message.find(' ', at) + 1);
  const size_t space = rest.find(' ');
  uint32_t slot = 0;
  if (space == std::string_view::npos || !absl::SimpleAtoi(ToAbsl(rest.substr(0, space)), &slot) ||
      slot >= kSlots) {
    return std::nullopt;
  }
  redirection.slot = static_cast<uint16_t>(slot);
  rest = rest.substr(space + 1);
  // "host:port", ":port", and IPv6 without brackets.
  const size_t colon = rest.rfind(':');
  uint32_t port = 0;
  if (colon == std::string_view::npos || !absl::SimpleAtoi(ToAbsl(rest.substr(colon + 1)), &port) ||
      port == 0 || port > 65535) {
    return std::nullopt;
  }
  redirection.target.host = colon == 0 ? from.host : std::string(rest.substr(0, colon));
  redirection.target.port = static_cast<uint16_t>(port);
  return redirection;
}

std::unique_ptr<Router> MakeClusterRouter(const Address& address,
                                          const ConnectionOptions& options) {
  return std::make_unique<ClusterRouter>(address, options);
}

}  // namespace reprise::state_store::redis
