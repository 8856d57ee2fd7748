// How the bytes of a part become chunks, and back.
#ifndef REPRISE_STATE_STORE_CHUNKING_H_
#define REPRISE_STATE_STORE_CHUNKING_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

// Views of `bytes` of chunk_bytes each, the last maybe shorter. Cut at fixed offsets: a ring block
// that did not change stays at its place, so it keeps its address.
std::vector<std::string_view> CutIntoChunks(std::string_view bytes, uint32_t chunk_bytes);

// The address of a chunk: SHA-256 over ("reprise/chunk/1", u32 length of the tenant, tenant, raw
// bytes), so that equal bytes of two tenants have two addresses and neither can tell that the
// other has them.
Sha256Digest ChunkDigest(std::string_view tenant, std::string_view raw);

struct EncodedChunk {
  ChunkCodec codec = ChunkCodec::kRaw;  // kRaw also where the codec would not have saved a byte
  std::string stored;                   // empty if kRaw: the raw bytes are stored as they are
};
absl::StatusOr<EncodedChunk> EncodeChunk(std::string_view raw, ChunkCodec codec, int zstd_level);

// The raw bytes, verified against lengths and checksum of `ref`: DATA_LOSS (kCorruptChunk).
absl::StatusOr<std::string> DecodeChunk(std::string stored, const ChunkRef& ref);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_CHUNKING_H_
