// Sessions in Redis: one server, a master behind sentinels, or a cluster; shared by any number of
// replicas of the service. docs/durability.md says what may be lost when.
//
//   ASSIGN_OR_RETURN(auto store, RedisStore::Create({.client = {.url = "redis://10.0.0.1"}}));
//
// keys.h has the layout, record.h the session's hash, chunk_table.h the chunks and their pins.
// All operations of SessionStore are planned by the same functions as in the embedded stores, on
// the session's record, and take effect by one script on the session's key: a compare-and-set on a
// revision that changes with everything that the session undergoes. A call that loses the race for
// the revision plans again, so the session's version alone decides who is aborted.
#ifndef REPRISE_STATE_STORE_REDIS_REDIS_STORE_H_
#define REPRISE_STATE_STORE_REDIS_REDIS_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/leases.h"
#include "state_store/redis/client.h"
#include "state_store/session_store.h"
#include "state_store/store_admin.h"
#include "state_store/store_options.h"

namespace reprise::state_store::redis {

struct RedisStoreOptions {
  static constexpr int kMaxReplicas = 16;  // that a commit may wait for

  ClientOptions client{};
  // max_stored_bytes is a cap per tenant here. Expiry of sessions goes by `clock`, of leases and
  // pins by the servers' clocks.
  StoreOptions store{};
  std::string key_prefix =
      "reprise:1:";  // of all keys, without braces; the 1 is the layout's version
  // Asked before Redis when a snapshot is read; may be null.
  std::shared_ptr<ChunkSource> known_chunks{};
  // Of one call with all its tries, > 0. Past it: UNAVAILABLE or DEADLINE_EXCEEDED.
  absl::Duration operation_timeout = absl::Seconds(15);
  // kSync commits return when so many replicas have them, 0..kMaxReplicas; 0: when the master has.
  int sync_replicas = 0;
  absl::Duration sync_timeout = absl::Seconds(2);  // > 0; too few by then: UNAVAILABLE
  // A pin that no manifest names is garbage after this; a commit that takes longer than a quarter
  // of it pins again. > 0, and far above the difference between servers' clocks.
  absl::Duration pin_grace = absl::Hours(1);
  // In a cluster, what a session lets go of is kept so long: a failover may bring the session back
  // without bringing back its chunks. On one replication stream the order protects it. >= 0.
  absl::Duration cluster_release_delay = absl::Minutes(1);
};

struct GarbageReport {
  int64_t chunks_seen = 0;
  int64_t pins_dropped = 0;
  int64_t holds_dropped = 0;  // users of pins, that is
  int64_t index_repairs = 0;
  int64_t fields_dropped = 0;    // of sessions
  int64_t counts_corrected = 0;  // of tenants
};

// Thread-safe; calls block.
class RedisStore : public StoreAdmin, public SessionStore, public LeaseTable {
 public:
  // INVALID_ARGUMENT names the option. Connects to nothing yet.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Create(const RedisStoreOptions& options);

  // Walks over all keys: drops pins that no manifest names and that are older than pin_grace, and
  // mends the tenants' lists of sessions and their counters (Usage). Any number of replicas may do
  // so at any time.
  virtual absl::StatusOr<GarbageReport> CollectGarbage() = 0;

  // Connections idle or in use, and in use alone.
  virtual std::pair<int, int> ConnectionCounts() const = 0;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_REDIS_STORE_H_
