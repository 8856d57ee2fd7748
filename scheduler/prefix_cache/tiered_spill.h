// The spill of a server: host memory, and behind it a store that replicas share.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_TIERED_SPILL_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_TIERED_SPILL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "scheduler/prefix_cache/prefix_spill.h"
#include "state_store/blob_store.h"

namespace reprise::scheduler {

struct TieredSpillOptions {
  // Evicted states in host memory, those unused for longest going first. 0 = none.
  int64_t max_host_bytes = int64_t{1} << 30;
  // Of these, states of one tenant: beyond it its own go. 0 = tenants have none there; unset = all.
  std::optional<int64_t> max_tenant_host_bytes;
  // States on their way to the store; more are dropped. >= 0.
  int64_t max_queued_bytes = int64_t{256} << 20;
  // Requests that wait for the store; more compute at once. >= 1.
  int max_waiting = 256;
  // One that has waited this long for its turn is not asked for any more. > 0.
  absl::Duration timeout = absl::Milliseconds(250);
  // After a failure the store is left alone this long. >= 0.
  absl::Duration pause = absl::Seconds(1);
  // The store does not answer (its first failure), or does again (OK). On a thread of the spill's.
  std::function<void(const absl::Status&)> on_store;
};

struct TieredSpillStats {
  // Gauges: entries and bytes. What went to make room, in the tenant's share or in all.
  int64_t host_entries = 0, host_bytes = 0, host_evictions = 0, host_hits = 0;
  int64_t queued_bytes = 0;
  int64_t shared = 0, share_drops = 0;  // states written to the store; that were not taken
  // States that the store gave; questions to which it had no answer; calls that failed.
  int64_t store_hits = 0, store_misses = 0, store_failures = 0;
  int64_t damaged = 0;           // blobs that were not what had been put
  state_store::BlobStats store;  // of the store as it says itself
};

// Evicted states stay in host memory. What the cache keeps is also written to the store, by a
// thread of its own, in an envelope (spill_envelope.h) that proves on the way back that not a bit
// is wrong and that the state is the one asked for; what does not prove it is erased and counts as
// absent. Reads have another thread. A store that is slow or dead costs the requests that ask it at
// most `timeout` each and one call of the store, and the steps nothing.
//
// How a replica finds what another left without knowing its length: each state of length L has a
// note, "L:digest", under the digest of its path's first A(L) tokens, where A rounds down to four
// significant bits (anchors below). A reader asks for the notes of all anchors of its prompt, about
// eight for each doubling of its length, in one round trip, and computes the digests of the lengths
// that they name, longest first, until one is its own.
class TieredSpill final : public PrefixSpill {
 public:
  // `clock` is borrowed; `store` may be null. INVALID_ARGUMENT names the option.
  static absl::StatusOr<std::shared_ptr<TieredSpill>> Create(
      const Clock* clock, const TieredSpillOptions& options,
      std::unique_ptr<state_store::BlobStore> store);
  // Answers what waits with CANCELLED; states that are not written yet are dropped.
  ~TieredSpill() override;

  void Put(SpillPath path, StateImage image) override;
  void Get(SpillPath path, std::function<void(absl::StatusOr<StateImage>)> done) override;
  void Erase(SpillPath path) override;
  bool shares() const override;
  void Share(SpillPath path, StateImage image) override;
  void Find(SpillPath path, int64_t beyond, int64_t known,
            std::function<void(absl::StatusOr<Found>)> done) override;

  TieredSpillStats stats() const;
  // Waits until all that was queued for the store before has been tried.
  void Flush();

 private:
  struct Core;
  explicit TieredSpill(std::shared_ptr<Core> core);

  const std::shared_ptr<Core> core_;
  // Last; empty without a store.
  std::thread reader_, writer_;
};

// The lengths 1, 2, .. 16, 18, .. 32, 36, .. that are at most `length`, ascending; and for each a
// digest of the path's first so many tokens. Frozen.
std::vector<int64_t> AnchorLengths(int64_t length);
std::vector<Sha256Digest> AnchorDigests(const SpillPath& path, const std::vector<int64_t>& lengths);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_TIERED_SPILL_H_
