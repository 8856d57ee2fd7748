// The chunks of all tenants in Redis, and who holds them.
//
// A chunk is one hash: d the stored bytes, h its header, p:<pin> for each pin on it, with the
// moment (server's clock, microseconds) and the session that set it. A pin is a random name for all
// chunks of one snapshot; its hold, a hash of its own, lists the sessions that use it. So a fork
// adds itself to one hold, however large the state is. Who commits pins first and names afterwards;
// who lets go un-names first, then leaves the hold, and the last to leave unpins; so what a
// manifest names is pinned, whatever is cut off in between. What such a cut leaves is found by
// CollectGarbage.
#ifndef REPRISE_STATE_STORE_REDIS_CHUNK_TABLE_H_
#define REPRISE_STATE_STORE_REDIS_CHUNK_TABLE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/redis/client.h"
#include "state_store/redis/keys.h"
#include "state_store/redis/snapshot_chunks.h"
#include "state_store/snapshot.h"
#include "state_store/store_options.h"

namespace reprise::state_store::redis {

// DATA_LOSS (kCorruptChunk).
absl::Status CorruptChunk(const Sha256Digest& digest, std::string_view problem);

// Whose pins, and how long a call may take.
struct PinScope {
  std::string_view tenant;
  std::string_view session_id;
  std::string_view pin;
  std::string_view user;  // of the pin: a name that only this one manifest of this session has
  Deadline deadline;
};

// Chunks that are to be stored, pinned and named in one round trip.
struct PreparedChunks {
  std::vector<std::string> keys;
  std::vector<std::string> headers;  // headers[i] belongs to keys[i]
  std::vector<std::string> sent;     // keys of those whose bytes are sent
};

// Thread-safe. Everything passed to the constructor is borrowed.
class ChunkTable {
 public:
  // `known` may be null. In a cluster scripts cannot count for the tenant, so its counters follow
  // in a command of their own; what a crash leaves uncounted is found by CollectGarbage.
  ChunkTable(Client& client, const Keys& keys, const StoreOptions& options, ChunkSource* known,
             bool is_cluster)
      : client_(client), keys_(keys), options_(options), known_(known), is_cluster_(is_cluster) {}

  // Stores what the tenant has not, pins all of it, and fills parts[i].chunks from payloads[i].
  // Returns the oldest stamp of pins and hold, 0 without any. Lets go again on failure.
  absl::StatusOr<uint64_t> Store(const PinScope& scope,
                                 const std::vector<std::string_view>& payloads,
                                 std::vector<SnapshotPart>& parts, Replication* replication);

  // The same in pieces. First the chunks; see SnapshotChunks.
  absl::StatusOr<std::unique_ptr<SnapshotChunks>> Cut(std::string_view tenant,
                                                      const std::vector<std::string_view>& payloads,
                                                      const std::vector<SnapshotPart>& parts,
                                                      const SnapshotManifest* there) const;
  // Whether the server is asked for chunks that nothing is known of before their bytes are sent.
  enum class Trust { kAsk, kSend };
  // Then all of them but for the last keep_back bytes or so, as above.
  absl::StatusOr<uint64_t> Store(const PinScope& scope, SnapshotChunks& chunks,
                                 Replication* replication, Trust trust, uint64_t keep_back);
  // And the next few of the rest: commands that bring their bytes, and what kCommit has to be told.
  absl::Status Prepare(SnapshotChunks& chunks, PreparedChunks& prepared,
                       std::vector<Command>& commands) const;

  // Uses a pin that is there: its stamp, or 0 if there is no hold on it.
  absl::StatusOr<uint64_t> Share(const PinScope& scope);
  // Pins chunks that are there. DATA_LOSS (kCorruptChunk) if one is missing or damaged.
  absl::StatusOr<uint64_t> Pin(const PinScope& scope, const SnapshotManifest& manifest);
  // Leaves the pin; if nobody uses it any more, unpins, and removes what has no pin then. Failures
  // leave work for CollectGarbage.
  void Unpin(const PinScope& scope, const SnapshotManifest& manifest);
  // The same as commands that do nothing unless the session at `session_key` has the revision
  // `rev`; the first answers -1 then. To be run in their order.
  std::vector<Command> UnpinCommands(const PinScope& scope, const SnapshotManifest& manifest,
                                     const std::string& session_key, const std::string& rev) const;
  // Takes away bytes of `prepared` that came to be in Redis and that nobody pinned.
  void Discard(const PinScope& scope, const PreparedChunks& prepared);

  // One of the scripts of chunks that count, without `tail`.
  Command Counting(const Script& script, std::string_view tenant, std::string key,
                   std::vector<std::string> arguments) const;
  // In a cluster, what the scripts' answers said is to be counted.
  absl::Status Count(std::string_view tenant, int64_t bytes, Deadline deadline);

  // The raw bytes of all parts, verified. DATA_LOSS (kCorruptChunk).
  absl::StatusOr<std::vector<std::string>> Read(std::string_view tenant,
                                                const SnapshotManifest& manifest,
                                                Deadline deadline);

  // What stands in h. Its last field is a checksum of the others and the key.
  static std::string HeaderOf(std::string_view key, const ChunkRef& ref);

 private:
  static constexpr size_t kBatchCommands = 512;  // of one pipeline

  using Piece = ChunkPiece;
  struct Progress;

  // Fills everything but the digest.
  static bool ParseHeader(std::string_view key, std::string_view header, ChunkRef& ref);
  // False if it cannot be read or is of other bytes than `piece` has.
  static bool ReadHeader(std::string_view header, Piece& piece);
  static absl::Status ReadPinned(const Answer& answer, Piece& piece, Progress& progress);
  static absl::Status ReadPut(const Answer& answer, Piece& piece, Progress& progress);
  // What of `piece` is to be stored, and its header.
  absl::Status Encode(Piece& piece) const;
  // One round trip, or a few: takes the hold if it is not taken, sends the bytes of `puts`, pins
  // `pins`. What is there now is not `missing` any more.
  absl::Status Exchange(const PinScope& scope, const std::vector<Piece*>& puts,
                        const std::vector<Piece*>& pins, Progress& progress);
  // Puts that may replace bytes, through a script.
  absl::Status Replace(const PinScope& scope, Piece& piece, Progress& progress);
  // Of its distinct chunks.
  std::vector<std::string> ChunkKeys(std::string_view tenant,
                                     const SnapshotManifest& manifest) const;
  // Whether it was the last one.
  absl::StatusOr<bool> DropHold(const PinScope& scope);
  void UnpinKeys(const PinScope& scope, const std::vector<std::string>& keys);
  absl::Status Reserve(const PinScope& scope, int64_t bytes);
  // The raw bytes of one chunk; on damage tells Redis that it is.
  absl::StatusOr<std::string> Verified(std::string_view tenant, const ChunkRef& ref, Reply reply,
                                       Deadline deadline);

  Client& client_;
  const Keys& keys_;
  const StoreOptions& options_;
  ChunkSource* const known_;
  const bool is_cluster_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_CHUNK_TABLE_H_
