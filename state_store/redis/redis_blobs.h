// A BlobStore in Redis: one server, sentinels or a cluster.
#ifndef REPRISE_STATE_STORE_REDIS_REDIS_BLOBS_H_
#define REPRISE_STATE_STORE_REDIS_REDIS_BLOBS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/blob_store.h"
#include "state_store/redis/client.h"

namespace reprise::state_store::redis {

struct RedisBlobOptions {
  ClientOptions client{};
  std::string key_prefix = "reprise:1:";  // as RedisStoreOptions has it
  // After its last Put a blob goes. 1 ms to 10 years; counted by the servers' clocks.
  absl::Duration ttl = absl::Hours(1);
  // Of all blobs of one tenant, and of all tenants together; the oldest go first. > 0. Each server
  // keeps its own, so those that share blobs should have the same. Blobs that are being written are
  // beyond it for that moment.
  int64_t max_tenant_bytes = int64_t{1} << 30;
  int64_t max_total_bytes = int64_t{4} << 30;
  // Of one call with all its tries. > 0; DEADLINE_EXCEEDED or UNAVAILABLE past it.
  absl::Duration timeout = absl::Milliseconds(250);
};

// INVALID_ARGUMENT names the option. Connects to nothing yet.
absl::StatusOr<std::unique_ptr<BlobStore>> MakeRedisBlobs(const RedisBlobOptions& options);

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_REDIS_BLOBS_H_
