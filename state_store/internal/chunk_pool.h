// Which chunks lie in a backend, who uses them, and when they may go.
#ifndef REPRISE_STATE_STORE_INTERNAL_CHUNK_POOL_H_
#define REPRISE_STATE_STORE_INTERNAL_CHUNK_POOL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "state_store/internal/local_backend.h"
#include "state_store/snapshot.h"
#include "state_store/store_options.h"

namespace reprise::state_store {

class ChunkPool;

// Chunks that must stay while a call uses them: between writing them and naming them in a
// manifest, or while reading them. Lets go when it ends.
class ChunkPins {
 public:
  explicit ChunkPins(ChunkPool& pool) : pool_(pool) {}
  ~ChunkPins();
  ChunkPins(const ChunkPins&) = delete;
  ChunkPins& operator=(const ChunkPins&) = delete;

 private:
  friend class ChunkPool;
  ChunkPool& pool_;
  std::vector<Sha256Digest> digests_;
};

// Thread-safe. A chunk is removed when no manifest names it (Commit, Free), nobody pins it, and
// the record that let go of it is durable: until then a crash could bring the old manifest back.
class ChunkPool {
 public:
  // `backend` and `options` are borrowed.
  ChunkPool(LocalBackend& backend, const StoreOptions& options)
      : backend_(backend), options_(options) {}

  // At open: a chunk that the index names; `damaged` if its file is missing or has a wrong length.
  void Adopt(const ChunkRef& ref, bool damaged);

  // Stores `raw` unless the tenant has it already, and pins it. RESOURCE_EXHAUSTED (kStoreFull).
  absl::StatusOr<ChunkRef> Store(std::string_view tenant, std::string_view raw, ChunkPins& pins);
  // Pins a chunk that the index names; the caller holds the index still.
  void Pin(const ChunkRef& ref, ChunkPins& pins);
  // The verified raw bytes of a pinned chunk. DATA_LOSS (kCorruptChunk), after which the next
  // Store of the same bytes writes them again.
  absl::StatusOr<std::string> Read(const ChunkRef& ref);

  // The index now names these chunks, which are pinned.
  void Commit(const SnapshotManifest& manifest);
  // The index no longer names them, by the record numbered `record`.
  void Free(const std::vector<ChunkRef>& refs, uint64_t record);

  // Removes what may go. A chunk whose removal fails is kept for the next call.
  void Collect();

  // INTERNAL or DATA_LOSS unless the backend holds exactly the pool's chunks and the pool's
  // committed ones are exactly `committed`. Calls in progress make it fail.
  absl::Status Check(const absl::flat_hash_map<Sha256Digest, ChunkRef>& committed);

 private:
  friend class ChunkPins;

  struct Entry {
    ChunkRef ref;  // valid if present or committed
    int pins = 0;
    bool present = false;     // the backend has it
    bool committed = false;   // the index names it
    bool damaged = false;     // to be written again at the next chance
    bool removing = false;    // Collect is at it: wait
    uint64_t free_after = 0;  // record that must be durable before it may go
  };

  void Unpin(const std::vector<Sha256Digest>& digests) ABSL_LOCKS_EXCLUDED(mu_);
  // Pins; true if the chunk need not be written, with its description in `ref`.
  bool PinOrClaim(ChunkRef& ref, bool& heal, ChunkPins& pins) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Reserve(uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);
  bool Idle(const Entry& entry) const { return entry.pins == 0 && !entry.committed; }

  LocalBackend& backend_;
  const StoreOptions& options_;
  absl::Mutex collect_mu_ ABSL_ACQUIRED_BEFORE(mu_);  // one Collect, or Check, at a time
  absl::Mutex mu_;
  absl::flat_hash_map<Sha256Digest, Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<Sha256Digest> garbage_ ABSL_GUARDED_BY(mu_);  // candidates; may repeat
  uint64_t used_bytes_ ABSL_GUARDED_BY(mu_) = 0;            // present or reserved
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_CHUNK_POOL_H_
