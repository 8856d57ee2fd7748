// A snapshot: the whole state of a conversation at one token position. docs/snapshot-format.md has
// the bytes of the manifest and of the export stream, field by field.
#ifndef REPRISE_STATE_STORE_SNAPSHOT_H_
#define REPRISE_STATE_STORE_SNAPSHOT_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/hash.h"

namespace reprise::state_store {

inline constexpr uint32_t kManifestVersion = 1;

// Bounds on what a manifest may hold. A writer that exceeds one gets INVALID_ARGUMENT, a reader
// DATA_LOSS. They may be raised in a later format version, never lowered.
inline constexpr size_t kMaxTenantBytes = 128;
inline constexpr size_t kMaxIdBytes = 64;
inline constexpr size_t kMaxNameBytes = 256;  // model id, part and leg names, fingerprints
inline constexpr size_t kMaxParts = 1 << 16;
inline constexpr size_t kMaxShapeDims = 8;
inline constexpr size_t kMaxChunksPerPart = 1 << 20;
inline constexpr size_t kMaxChunkBytes = 16 << 20;
inline constexpr size_t kMaxLegs = 64;
inline constexpr size_t kMaxLegBytes = 1 << 20;
inline constexpr size_t kMaxLabels = 64;
inline constexpr size_t kMaxLabelBytes = 4096;  // of a key, and of a value
inline constexpr size_t kMaxManifestBytes = 64 << 20;

// Numbers are frozen: they are in manifests.
enum class ChunkCodec : uint8_t { kRaw = 0, kZstd = 1 };

// One piece of a part, as it lies in the store.
struct ChunkRef {
  Sha256Digest digest{};       // of (tenant, raw bytes): see ChunkDigest in chunking.h
  uint32_t raw_length = 0;     // bytes, 1..kMaxChunkBytes
  uint32_t stored_length = 0;  // bytes after the codec
  ChunkCodec codec = ChunkCodec::kRaw;
  uint64_t checksum = 0;  // XXH3 of the raw bytes, checked on every read

  friend bool operator==(const ChunkRef&, const ChunkRef&) = default;
};

// One tensor of the state.
struct SnapshotPart {
  std::string name;             // e.g. "layers.3.kv_window.k"; unique in its manifest
  std::string dtype;            // e.g. "bf16"; the store does not read it
  std::vector<uint64_t> shape;  // outermost first; the store does not read it
  uint64_t byte_length = 0;
  std::vector<ChunkRef> chunks;  // in order; filled by the store

  friend bool operator==(const SnapshotPart&, const SnapshotPart&) = default;
};

// Fields marked (store) are filled by the store at commit, whatever the caller put there.
struct SnapshotManifest {
  uint32_t format_version = kManifestVersion;  // (store)
  std::string snapshot_id;                     // (store)
  std::string parent_snapshot_id;   // (store) the head it replaced; may be gone, or empty
  std::string tenant;               // (store)
  std::string model_id;             // not empty
  std::string weights_fingerprint;  // hex SHA-256
  std::string tokenizer_fingerprint;
  std::string layout_digest;
  uint32_t grid_tokens = 64;    // tokens between two grid states
  std::string kernel_order_id;  // order of operations that the bits depend on
  uint64_t position = 0;        // tokens that the state has consumed
  uint64_t token_count = 0;     // tokens of the conversation, >= position
  Sha256Digest token_hash{};    // per-token SHA-256 chain over token_count tokens
  absl::Time created_at;        // (store) whole microseconds
  std::vector<SnapshotPart> parts;
  std::map<std::string, std::string> legs;    // opaque: "sampler", "detokenizer", "pending_tokens"
  std::map<std::string, std::string> labels;  // the user's

  // Bytes of all parts before any codec.
  uint64_t LogicalBytes() const;

  friend bool operator==(const SnapshotManifest&, const SnapshotManifest&) = default;
};

// A manifest with its bytes: payloads[i] belongs to manifest.parts[i] and has its byte_length.
struct Snapshot {
  SnapshotManifest manifest;
  std::vector<std::string> payloads;
};

// The same, immutable and shared.
struct SharedSnapshot {
  SharedSnapshot() = default;
  explicit SharedSnapshot(std::shared_ptr<const Snapshot> snapshot)
      : manifest(snapshot, &snapshot->manifest), payloads(snapshot, &snapshot->payloads) {}

  std::shared_ptr<const SnapshotManifest> manifest{};
  std::shared_ptr<const std::vector<std::string>> payloads{};
};

// Bytes inside something that lives as long as anybody holds them.
struct SharedBytes {
  std::shared_ptr<const void> owner{};  // null: there are none
  std::string_view bytes{};
};

// Where chunks may be found without asking a store. Thread-safe.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // The raw bytes, whose digest has been verified; or none.
  virtual SharedBytes FindChunk(std::string_view tenant, const ChunkRef& ref) = 0;
};

// INVALID_ARGUMENT with the field's name when a bound above is exceeded, a name is empty or used
// twice, or a part's chunks do not add up to its length.
absl::Status ValidateManifest(const SnapshotManifest& manifest);

// Version 1 of the encoding. Fails as ValidateManifest.
absl::StatusOr<std::string> EncodeManifest(const SnapshotManifest& manifest);

// Reads bytes that anyone may have written: DATA_LOSS (kCorruptManifest) with field and offset, or
// UNIMPLEMENTED (kUnsupportedVersion); never more memory than a small multiple of `bytes`.
absl::StatusOr<SnapshotManifest> DecodeManifest(std::string_view bytes);

// 32 hexadecimal digits that nobody else has.
std::string MakeSnapshotId();

// Extends a token hash by one token: SHA-256(previous, token as 4 bytes little endian). The hash
// of no tokens is all zeros.
Sha256Digest ExtendTokenHash(const Sha256Digest& previous, int32_t token);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_SNAPSHOT_H_
