#include "state_store/chunking.h"

#include <zstd.h>

#include <utility>

#include "state_store/internal/cat.h"
#include "state_store/internal/wire.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

absl::Status Corrupt(const ChunkRef& ref, std::string_view problem) {
  return MakeStoreError(StoreError::kCorruptChunk,
                        Cat("chunk ", HexDigest(ref.digest), ": ", problem));
}

}  // namespace

std::vector<std::string_view> CutIntoChunks(std::string_view bytes, uint32_t chunk_bytes) {
  std::vector<std::string_view> chunks;
  for (; !bytes.empty(); bytes.remove_prefix(std::min<size_t>(chunk_bytes, bytes.size()))) {
    chunks.push_back(bytes.substr(0, chunk_bytes));
  }
  return chunks;
}

Sha256Digest ChunkDigest(std::string_view tenant, std::string_view raw) {
  WireWriter prefix;
  prefix.Bytes("reprise/chunk/1");
  prefix.String(tenant);
  Sha256Stream stream;
  stream.Update(prefix.out());
  stream.Update(raw);
  return stream.Finish();
}

absl::StatusOr<EncodedChunk> EncodeChunk(std::string_view raw, ChunkCodec codec, int zstd_level) {
  EncodedChunk encoded;
  if (codec == ChunkCodec::kRaw) return encoded;
  std::string stored(ZSTD_compressBound(raw.size()), '\0');
  const size_t n = ZSTD_compress(stored.data(), stored.size(), raw.data(), raw.size(), zstd_level);
  if (ZSTD_isError(n)) return absl::InternalError(Cat("zstd: ", ZSTD_getErrorName(n)));
  if (n >= raw.size()) return encoded;
  stored.resize(n);
  encoded.codec = ChunkCodec::kZstd;
  encoded.stored = std::move(stored);
  return encoded;
}

absl::StatusOr<std::string> DecodeChunk(std::string stored, const ChunkRef& ref) {
  if (stored.size() != ref.stored_length) {
    return Corrupt(ref, Cat("has ", stored.size(), " bytes, should have ", ref.stored_length));
  }
  std::string raw;
  if (ref.codec == ChunkCodec::kRaw) {
    raw = std::move(stored);
  } else {
    raw.resize(ref.raw_length);
    const size_t n = ZSTD_decompress(raw.data(), raw.size(), stored.data(), stored.size());
    if (ZSTD_isError(n)) return Corrupt(ref, ZSTD_getErrorName(n));
    raw.resize(n);
  }
  if (raw.size() != ref.raw_length) return Corrupt(ref, "decodes to another length");
  if (Checksum64(raw) != ref.checksum) return Corrupt(ref, "does not match its checksum");
  return raw;
}

}  // namespace reprise::state_store
