// The chunks of a snapshot on their way to Redis, named one after the other: each distinct one
// once.
#ifndef REPRISE_STATE_STORE_REDIS_SNAPSHOT_CHUNKS_H_
#define REPRISE_STATE_STORE_REDIS_SNAPSHOT_CHUNKS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/chunking.h"
#include "state_store/internal/chunk_namer.h"
#include "state_store/redis/keys.h"
#include "state_store/snapshot.h"

namespace reprise::state_store::redis {

// One distinct chunk.
struct ChunkPiece {
  std::string key{};
  ChunkRef ref{};
  std::string_view raw{};
  bool missing = true;
  std::string old_header{};  // of damaged bytes, to be replaced
  EncodedChunk encoded{};
  std::string header{};

  std::string_view stored() const {
    return encoded.codec == ChunkCodec::kRaw ? raw : std::string_view(encoded.stored);
  }
};

// For one caller. Borrows everything passed to Create.
class SnapshotChunks {
 public:
  // `there` names what is taken to be in Redis already; null: nothing is known. INVALID_ARGUMENT
  // names the part that has too many chunks.
  static absl::StatusOr<std::unique_ptr<SnapshotChunks>> Create(
      const Keys& keys, std::string_view tenant, const std::vector<std::string_view>& payloads,
      const std::vector<SnapshotPart>& parts, uint32_t chunk_bytes, const SnapshotManifest* there);

  // Names chunks until the distinct ones among them are `bytes` or `count`, or all are named. Those
  // that `there` names are `known` and described, the others `fresh`. Pointers hold as long as
  // this.
  void Next(size_t bytes, size_t count, std::vector<ChunkPiece*>& fresh,
            std::vector<ChunkPiece*>& known);
  bool done() const { return next_ == piece_of_.size(); }
  uint64_t bytes_left() const { return bytes_left_; }  // of what has no name yet

  std::deque<ChunkPiece>& pieces() { return pieces_; }
  // Fills parts[i].chunks. Once all are named, and described by whoever stored them.
  void Describe(std::vector<SnapshotPart>& parts) const;

 private:
  SnapshotChunks(const Keys& keys, std::string_view tenant, std::vector<std::string_view> chunks,
                 std::vector<size_t> ends);

  const Keys& keys_;
  const std::string tenant_;
  const std::vector<size_t> ends_;  // of each part's chunks among all
  std::map<Sha256Digest, const ChunkRef*> there_;
  std::deque<ChunkPiece> pieces_;
  std::map<Sha256Digest, size_t> index_;  // in pieces_
  std::vector<size_t> piece_of_;          // by chunk
  size_t next_ = 0;
  uint64_t bytes_left_ = 0;
  ChunkNamer namer_;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_SNAPSHOT_CHUNKS_H_
