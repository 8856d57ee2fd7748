// States in host memory between device slots and the store: bounded by bytes, shared and immutable.
#ifndef REPRISE_STATE_STORE_TIERS_HOST_CACHE_H_
#define REPRISE_STATE_STORE_TIERS_HOST_CACHE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

struct HostCacheStats {
  uint64_t bytes = 0, snapshots = 0;  // now
  uint64_t hits = 0, misses = 0, evictions = 0, chunk_hits = 0;
};

// Knows snapshots by tenant and id, and the chunks inside them by digest. A snapshot never changes
// under its id, so what is found is right; whether the session still has it is for the caller to
// ask. Who still holds a snapshot that is evicted keeps it.
//
// What goes first is what is cheapest to lose (Cao and Irani, "Cost-aware WWW proxy caching
// algorithms", 1997: GreedyDual-Size): each entry has the value clock + cost / bytes, where cost is
// the time that loading it takes; the lowest value is evicted and becomes the clock; a use renews
// the entry's value. Thread-safe.
class HostCache final : public ChunkSource {
 public:
  // Bytes of payloads, legs and bookkeeping over all entries. 0 keeps nothing.
  explicit HostCache(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // Counts as a use.
  std::optional<SharedSnapshot> Find(std::string_view tenant, std::string_view snapshot_id);
  // Whether it is there, without using it.
  bool Has(std::string_view tenant, std::string_view snapshot_id) const;
  // Under snapshot.manifest->snapshot_id. A second Put replaces manifest and payloads.
  void Put(std::string_view tenant, SharedSnapshot snapshot, absl::Duration load_cost);
  void Erase(std::string_view tenant, std::string_view snapshot_id);

  SharedBytes FindChunk(std::string_view tenant, const ChunkRef& ref) override;

  HostCacheStats stats() const;

 private:
  using Key = std::pair<std::string, std::string>;        // tenant, snapshot id
  using ChunkKey = std::pair<std::string, Sha256Digest>;  // tenant, digest
  using ByValue = std::set<std::pair<double, const Key*>>;
  struct Entry {
    SharedSnapshot snapshot;
    uint64_t bytes = 0;
    double cost_per_byte = 0;  // microseconds
    double value = 0;
  };
  struct Place {
    const Key* owner;
    std::string_view bytes;
  };
  using Entries = std::map<Key, Entry>;

  void Remove(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Renew(Entries::value_type& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  template <typename Visit>  // visit(ChunkKey, bytes) for each chunk that the manifest names
  static void ForEachChunk(const std::string& tenant, const SharedSnapshot& snapshot, Visit visit);

  const uint64_t max_bytes_;
  mutable absl::Mutex mu_;
  Entries entries_ ABSL_GUARDED_BY(mu_);
  ByValue by_value_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<ChunkKey, Place> chunks_ ABSL_GUARDED_BY(mu_);
  double clock_ ABSL_GUARDED_BY(mu_) = 0;
  HostCacheStats stats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TIERS_HOST_CACHE_H_
