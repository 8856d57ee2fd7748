// prefix_cache: states of token prefixes, kept so that the next request with the same beginning
// does not compute it again.
//
// A prompt is a path in a radix tree; a state lies at the exact token after which it was taken, so
// that a hit needs no block boundary. What is found is bit for bit what computing the prefix gives
// (docs/numerics.md), whoever computed it.
//
// Partitions. Tenants share nothing: each has its own tree, lock, counters and bytes, and a lookup
// never touches another's. Within a tenant, prefixes are apart by model (weights, layout, numerics)
// and by context (the state that the tokens follow). The one thing that tenants compete for is the
// total of bytes: what a tenant holds beyond its guaranteed share may have to make room for others.
//
// Bytes. The images and the paths that lead to them count, each tenant's and all together; both
// caps hold at any time. Who holds an image that is evicted keeps it alive, uncounted.
//
// Eviction takes the entry with the least worth:
//
//   worth = log2(saved * (1 + min(hits, 15)) / bytes) + last use / half_life
//
// where `saved` is the number of tokens between the entry and the next kept prefix above it: what
// would have to be computed again without it. So worth per byte halves with every half_life without
// a use, and no entry needs to be looked at for that: O(log n). `saved` is as of the last use; when
// a prefix above went meanwhile, it is corrected as soon as the entry is about to be chosen.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_CACHE_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_CACHE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "scheduler/prefix_cache/prefix_spill.h"
#include "scheduler/prefix_cache/prefix_stats.h"

namespace reprise::scheduler {

struct PrefixCacheOptions {
  // Of all tenants together, and of one. > 0. A tenant's cap beyond the total means the total.
  int64_t max_bytes = int64_t{1} << 30;
  int64_t max_tenant_bytes = std::numeric_limits<int64_t>::max();
  // A tenant's own cap instead of max_tenant_bytes; 0 = it has no cache. Must be thread-safe and
  // must not block. Null = all alike.
  std::function<int64_t(const std::string& tenant)> tenant_bytes;
  // Others never make a tenant evict below this, or below its equal part of max_bytes if that is
  // less. It protects whole states: a share that is smaller than one protects nothing.
  int64_t guaranteed_tenant_bytes = std::numeric_limits<int64_t>::max();
  // The part of a tenant's cap that the paths may take. In (0, 1].
  double path_share = 1.0 / 16;
  // An entry that nobody used for this long is gone. > 0.
  absl::Duration ttl = absl::Hours(1);
  // See the worth of an entry above. > 0.
  absl::Duration half_life = absl::Minutes(5);
  // Takes evicted states that save at least spill_min_tokens, and, if it shares, those that are
  // kept as well. Null = they are dropped.
  std::shared_ptr<PrefixSpill> spill;
  int64_t spill_min_tokens = 256;
};

// Where a path begins.
struct PrefixScope {
  std::string tenant;
  // Names weights, layout and numerics; states of different models never meet.
  std::string model;
  // Names exactly the state that the tokens follow: two states of one name must be the same bits.
  // Empty: they follow nothing.
  std::string context;
};

struct PrefixMatch {
  StateImage image;    // null: nothing to reuse
  int64_t tokens = 0;  // that it has consumed beyond the context
  // Why it is not more: kNone if this is the longest that was ever kept here.
  PrefixMiss miss = PrefixMiss::kNone;
  // The length of the beginning that this prompt has in common with others before it.
  int64_t known = 0;
};

class TenantCache;

// Thread-safe. Owned by shared_ptr, so that fetches from the spill may outlive their caller.
class PrefixCache : public std::enable_shared_from_this<PrefixCache> {
 public:
  // `clock` is borrowed. INVALID_ARGUMENT names the option.
  static absl::StatusOr<std::shared_ptr<PrefixCache>> Create(const Clock* clock,
                                                             const PrefixCacheOptions& options);
  ~PrefixCache();

  // The longest kept prefix of at most `most` tokens. Remembers the prompt, so that the next one
  // learns where the two part.
  PrefixMatch Lookup(const PrefixScope& scope, absl::Span<const int32_t> tokens, int64_t most);

  // Keeps the state that has consumed all of `tokens`. True when the cache has it now. One that is
  // there already counts as used. `image` must not be null, `tokens` not empty.
  bool Insert(const PrefixScope& scope, absl::Span<const int32_t> tokens, StateImage image);

  // Whether the state of all of `tokens` is kept here; counts as a use of it.
  bool Touch(const PrefixScope& scope, absl::Span<const int32_t> tokens);
  // The length of a spilled state that is longer than what Lookup would find, or 0. Counts nothing.
  int64_t FindSpilled(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                      int64_t most) const;
  // Gets the state of all of `tokens` back from the spill, keeps it, and hands it to `done`, on any
  // thread: NOT_FOUND, or what the spill says; DATA_LOSS when it has not `image_bytes`, and is
  // erased there.
  void Fetch(const PrefixScope& scope, std::vector<int32_t> tokens, int64_t image_bytes,
             std::function<void(absl::StatusOr<StateImage>)> done);

  // The same of the longest state along the first `most` tokens, this replica's or another's, that
  // saves something over what is kept here. False: there is none, or nobody to ask, and `done` is
  // not called. Else it is, once whatever there was is kept here.
  bool FetchLongest(const PrefixScope& scope, absl::Span<const int32_t> tokens, int64_t most,
                    int64_t image_bytes, std::function<void()> done);

  // Drops every state along `tokens`, here and in the spill: one of them is not sound.
  void Erase(const PrefixScope& scope, absl::Span<const int32_t> tokens);
  // Drops what the tenant has here; its counters stay.
  void Clear(const std::string& tenant);
  // Drops what has expired. Lookups never see it, but until then it takes room.
  void Sweep();

  PrefixCacheStats TenantStats(const std::string& tenant) const;
  // Over all tenants; for operators, not for tenants.
  PrefixCacheStats TotalStats() const;
  bool has_spill() const { return options_.spill != nullptr; }
  // Whether other replicas find what is kept here.
  bool shares() const { return has_spill() && options_.spill->shares(); }
  const PrefixCacheOptions& options() const { return options_; }

  // INTERNAL unless all that is counted and linked agrees and no cap is exceeded.
  absl::Status CheckIntegrity() const;

 private:
  struct Tenant;
  class Change;
  PrefixCache(const Clock* clock, const PrefixCacheOptions& options)
      : clock_(clock), options_(options) {}

  std::shared_ptr<Tenant> FindTenant(const std::string& tenant) const;
  std::shared_ptr<Tenant> FindOrAddTenant(const std::string& tenant);
  void DropIdleTenants() ABSL_EXCLUSIVE_LOCKS_REQUIRED(tenants_mutex_);
  std::vector<std::shared_ptr<Tenant>> Tenants() const;
  int64_t TenantCap(const std::string& tenant) const;
  // The path, and with an image the state at its end.
  bool Grow(Tenant& tenant, const PrefixScope& scope, absl::Span<const int32_t> tokens,
            StateImage image, bool from_spill = false);
  absl::StatusOr<StateImage> TakeFetched(const PrefixScope& scope, const SpillPath& path,
                                         int64_t length, int64_t image_bytes,
                                         absl::StatusOr<StateImage> image);
  // Frees at least `bytes` of all that is held, for `tenant`. False when nothing may go.
  bool MakeTotalRoom(Tenant& tenant, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);

  const Clock* const clock_;
  const PrefixCacheOptions options_;

  // Locks are taken in this order: grow, tenants or one tenant's.
  absl::Mutex grow_mutex_;  // whoever adds bytes
  mutable absl::Mutex tenants_mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<Tenant>> tenants_
      ABSL_GUARDED_BY(tenants_mutex_);
  std::atomic<int64_t> bytes_ = 0;  // grows only under grow_mutex_
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_CACHE_H_
