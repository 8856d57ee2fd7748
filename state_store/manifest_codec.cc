// Version 1 of the manifest's bytes. The numbers here are frozen; docs/snapshot-format.md is their
// description.
#include <string>
#include <utility>

#include "base/hash.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/wire.h"
#include "state_store/snapshot.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

constexpr std::string_view kMagic = "RPMANIF1";
constexpr size_t kHeaderBytes = 16;  // magic, version, length
constexpr size_t kChecksumBytes = 8;
constexpr size_t kChunkRefBytes = 32 + 4 + 4 + 1 + 8;
constexpr size_t kMinPartBytes = 4 + 4 + 4 + 8 + 4;

void WritePart(const SnapshotPart& part, WireWriter& w) {
  w.String(part.name);
  w.String(part.dtype);
  w.U32(static_cast<uint32_t>(part.shape.size()));
  for (const uint64_t dim : part.shape) w.U64(dim);
  w.U64(part.byte_length);
  w.U32(static_cast<uint32_t>(part.chunks.size()));
  for (const ChunkRef& chunk : part.chunks) {
    w.Digest(chunk.digest);
    w.U32(chunk.raw_length);
    w.U32(chunk.stored_length);
    w.U8(static_cast<uint8_t>(chunk.codec));
    w.U64(chunk.checksum);
  }
}

SnapshotPart ReadPart(WireReader& r) {
  SnapshotPart part;
  part.name = r.String(kMaxNameBytes, "part.name");
  part.dtype = r.String(kMaxNameBytes, "part.dtype");
  const uint32_t dims = r.Count(kMaxShapeDims, 8, "part.shape.count");
  for (uint32_t i = 0; i < dims; ++i) part.shape.push_back(r.U64("part.shape"));
  part.byte_length = r.U64("part.byte_length");
  const uint32_t chunks = r.Count(kMaxChunksPerPart, kChunkRefBytes, "part.chunks.count");
  part.chunks.reserve(chunks);
  for (uint32_t i = 0; i < chunks && r.ok(); ++i) {
    ChunkRef chunk;
    chunk.digest = r.Digest("chunk.digest");
    chunk.raw_length = r.U32("chunk.raw_length");
    chunk.stored_length = r.U32("chunk.stored_length");
    const uint8_t codec = r.U8("chunk.codec");
    if (codec > static_cast<uint8_t>(ChunkCodec::kZstd)) {
      r.Fail("chunk.codec", Cat("is ", int{codec}));
    }
    chunk.codec = static_cast<ChunkCodec>(codec);
    chunk.checksum = r.U64("chunk.checksum");
    part.chunks.push_back(chunk);
  }
  return part;
}

}  // namespace

absl::StatusOr<std::string> EncodeManifest(const SnapshotManifest& m) {
  RETURN_IF_ERROR(ValidateManifest(m));
  WireWriter w;
  w.Bytes(kMagic);
  w.U32(kManifestVersion);
  w.U32(0);  // length, set below
  w.String(m.snapshot_id);
  w.String(m.parent_snapshot_id);
  w.String(m.tenant);
  w.String(m.model_id);
  w.String(m.weights_fingerprint);
  w.String(m.tokenizer_fingerprint);
  w.String(m.layout_digest);
  w.U32(m.grid_tokens);
  w.String(m.kernel_order_id);
  w.U64(m.position);
  w.U64(m.token_count);
  w.Digest(m.token_hash);
  w.Time(m.created_at);
  w.U32(static_cast<uint32_t>(m.parts.size()));
  for (const SnapshotPart& part : m.parts) WritePart(part, w);
  w.Map(m.legs);
  w.Map(m.labels);
  const size_t length = w.size() + kChecksumBytes;
  if (length > kMaxManifestBytes) {
    return MakeStoreError(StoreError::kInvalidArgument, Cat("manifest has ", length, " bytes"));
  }
  for (int i = 0; i < 4; ++i) w.out()[12 + i] = static_cast<char>(length >> (8 * i));
  w.U64(Checksum64(w.out()));
  return w.Take();
}

absl::StatusOr<SnapshotManifest> DecodeManifest(std::string_view bytes) {
  WireReader r(bytes, StoreError::kCorruptManifest, "manifest");
  if (r.Bytes(kMagic.size(), "magic") != kMagic) r.Fail("magic", "is wrong");
  const uint32_t version = r.U32("format_version");
  const uint32_t length = r.U32("length");
  RETURN_IF_ERROR(r.status());
  if (version != kManifestVersion) {
    return MakeStoreError(
        StoreError::kUnsupportedVersion,
        Cat("manifest: format_version ", version, ", this build reads ", kManifestVersion));
  }
  if (length != bytes.size() || length > kMaxManifestBytes ||
      length < kHeaderBytes + kChecksumBytes) {
    r.Fail("length", Cat("is ", length, ", there are ", bytes.size(), " bytes"));
    return r.status();
  }
  const std::string_view covered = bytes.substr(0, length - kChecksumBytes);
  WireReader tail(bytes.substr(covered.size()), StoreError::kCorruptManifest, "manifest");
  if (tail.U64("checksum") != Checksum64(covered)) {
    return MakeStoreError(StoreError::kCorruptManifest,
                          Cat("manifest: checksum at offset ", covered.size(), " does not match"));
  }

  WireReader body(covered, StoreError::kCorruptManifest, "manifest");
  body.Bytes(kHeaderBytes, "header");
  SnapshotManifest m;
  m.format_version = version;
  m.snapshot_id = body.String(kMaxIdBytes, "snapshot_id");
  m.parent_snapshot_id = body.String(kMaxIdBytes, "parent_snapshot_id");
  m.tenant = body.String(kMaxTenantBytes, "tenant");
  m.model_id = body.String(kMaxNameBytes, "model_id");
  m.weights_fingerprint = body.String(kMaxNameBytes, "weights_fingerprint");
  m.tokenizer_fingerprint = body.String(kMaxNameBytes, "tokenizer_fingerprint");
  m.layout_digest = body.String(kMaxNameBytes, "layout_digest");
  m.grid_tokens = body.U32("grid_tokens");
  m.kernel_order_id = body.String(kMaxNameBytes, "kernel_order_id");
  m.position = body.U64("position");
  m.token_count = body.U64("token_count");
  m.token_hash = body.Digest("token_hash");
  m.created_at = body.Time("created_at");
  const uint32_t parts = body.Count(kMaxParts, kMinPartBytes, "parts.count");
  for (uint32_t i = 0; i < parts && body.ok(); ++i) m.parts.push_back(ReadPart(body));
  m.legs = body.Map(kMaxLegs, kMaxNameBytes, kMaxLegBytes, "legs");
  m.labels = body.Map(kMaxLabels, kMaxLabelBytes, kMaxLabelBytes, "labels");
  body.End();
  RETURN_IF_ERROR(body.status());
  if (const absl::Status valid = ValidateManifest(m); !valid.ok()) {
    return MakeStoreError(StoreError::kCorruptManifest, Cat("manifest: ", valid.message()));
  }
  return m;
}

}  // namespace reprise::state_store
