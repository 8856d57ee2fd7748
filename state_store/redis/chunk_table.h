// The chunks of all tenants in Redis, and who holds them.
//
// A chunk is one hash: d the stored bytes, h its header, p:<pin> for each manifest that names it,
// with the moment (server's clock, microseconds) and the session. A pin is a random name for one
// manifest in one session. Who commits pins first and names afterwards; who lets go un-names first
// and unpins afterwards; so the pins of a chunk are never fewer than the manifests that name it,
// whatever is cut off in between. What such a cut leaves pinned is found by CollectGarbage.
#ifndef REPRISE_STATE_STORE_REDIS_CHUNK_TABLE_H_
#define REPRISE_STATE_STORE_REDIS_CHUNK_TABLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/redis/client.h"
#include "state_store/redis/keys.h"
#include "state_store/snapshot.h"
#include "state_store/store_options.h"

namespace reprise::state_store::redis {

// Whose pins, and how long a call may take.
struct PinScope {
  std::string_view tenant;
  std::string_view session_id;
  std::string_view pin;
  Deadline deadline;
};

// Thread-safe. Everything passed to the constructor is borrowed.
class ChunkTable {
 public:
  ChunkTable(Client& client, const Keys& keys, const StoreOptions& options)
      : client_(client), keys_(keys), options_(options) {}

  // Stores what the tenant has not, pins all of it, and fills parts[i].chunks from payloads[i].
  // Returns the oldest pin's stamp, 0 without chunks. Lets go again on failure.
  absl::StatusOr<uint64_t> Store(const PinScope& scope, const std::vector<std::string>& payloads,
                                 std::vector<SnapshotPart>& parts, Replication* replication);
  // Pins chunks that are there. DATA_LOSS (kCorruptChunk) if one is missing or damaged.
  absl::StatusOr<uint64_t> Pin(const PinScope& scope, const SnapshotManifest& manifest);
  // Lets go, and removes what nobody holds then. Failures leave work for CollectGarbage.
  void Unpin(const PinScope& scope, const SnapshotManifest& manifest);

  // The raw bytes of all parts, verified. DATA_LOSS (kCorruptChunk).
  absl::StatusOr<std::vector<std::string>> Read(std::string_view tenant,
                                                const SnapshotManifest& manifest,
                                                Deadline deadline);

  // What stands in h. Its last field is a checksum of the others and the key.
  static std::string HeaderOf(std::string_view key, const ChunkRef& ref);

 private:
  struct Piece;

  // Fills everything but the digest.
  static bool ParseHeader(std::string_view key, std::string_view header, ChunkRef& ref);
  // Fills pieces[i].ref of those that are there; the others stay `missing`.
  absl::Status PinPieces(const PinScope& scope, std::vector<Piece>& pieces, uint64_t& oldest,
                         Replication* replication);
  absl::Status PutPieces(const PinScope& scope, std::vector<Piece*>& missing, uint64_t& oldest,
                         Replication* replication);
  absl::Status PutBatch(const PinScope& scope, const std::vector<Piece*>& batch, uint64_t& oldest,
                        Replication* replication);
  void UnpinPieces(const PinScope& scope, const std::vector<Piece>& pieces);
  absl::Status Reserve(const PinScope& scope, int64_t bytes);
  // The raw bytes of one chunk; on damage tells Redis that it is.
  absl::StatusOr<std::string> Verified(std::string_view tenant, const ChunkRef& ref,
                                       const Reply& reply, Deadline deadline);

  Client& client_;
  const Keys& keys_;
  const StoreOptions& options_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_CHUNK_TABLE_H_
