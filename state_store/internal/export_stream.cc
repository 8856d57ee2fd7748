// LocalStore: one snapshot as a self-contained stream. docs/snapshot-format.md describes it.
#include <algorithm>
#include <array>
#include <utility>

#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/validate.h"
#include "state_store/internal/wire.h"

namespace reprise::state_store {
namespace {

constexpr std::string_view kMagic = "RPSNAP01";
constexpr std::string_view kTrailerMagic = "RPSNAPND";

// Hashes what passes through it.
class HashingWriter {
 public:
  explicit HashingWriter(ByteSink& sink) : sink_(sink) {}
  absl::Status Write(std::string_view bytes) {
    hash_.Update(bytes);
    return sink_.Write(bytes);
  }
  absl::Status Finish() {
    WireWriter trailer;
    trailer.Bytes(kTrailerMagic);
    hash_.Update(kTrailerMagic);
    trailer.Digest(hash_.Finish());
    return sink_.Write(trailer.out());
  }

 private:
  ByteSink& sink_;
  Sha256Stream hash_;
};

class HashingReader {
 public:
  explicit HashingReader(ByteSource& source) : source_(source) {}

  absl::Status Corrupt(std::string_view problem) const {
    return MakeStoreError(StoreError::kCorruptStream,
                          Cat("snapshot stream before offset ", offset_, ": ", problem));
  }

  // Exactly n bytes. The string grows with what really arrives, whatever n says.
  absl::StatusOr<std::string> Read(size_t n, std::string_view field) {
    std::string bytes;
    while (bytes.size() < n) {
      const size_t want = std::min(n - bytes.size(), buffer_.size());
      ASSIGN_OR_RETURN(const size_t got, source_.Read(absl::MakeSpan(buffer_.data(), want)));
      if (got == 0) return Corrupt(Cat("ends within ", field));
      if (got > want) return absl::InternalError("ByteSource returned more than it was asked for");
      bytes.append(buffer_.data(), got);
      offset_ += got;
    }
    hash_.Update(bytes);
    return bytes;
  }

  absl::Status ReadTrailer() {
    ASSIGN_OR_RETURN(const std::string magic, Read(kTrailerMagic.size(), "trailer"));
    if (magic != kTrailerMagic) return Corrupt("trailer has the wrong magic");
    const Sha256Digest expected = hash_.Finish();
    hash_ = Sha256Stream();
    ASSIGN_OR_RETURN(const std::string digest, Read(expected.size(), "trailer"));
    if (!std::equal(expected.begin(), expected.end(), digest.begin(),
                    [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); })) {
      return Corrupt("checksum of the whole does not match");
    }
    ASSIGN_OR_RETURN(const size_t more, source_.Read(absl::MakeSpan(buffer_.data(), 1)));
    return more == 0 ? absl::OkStatus() : Corrupt("goes on after its trailer");
  }

 private:
  ByteSource& source_;
  Sha256Stream hash_;
  uint64_t offset_ = 0;
  std::array<char, 64 << 10> buffer_;
};

}  // namespace

absl::Status LocalStore::ExportSnapshot(std::string_view tenant, std::string_view session_id,
                                        std::string_view snapshot_id, ByteSink& sink) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ChunkPins pins(pool_);
  ASSIGN_OR_RETURN(const auto manifest, PinSnapshot(tenant, session_id, snapshot_id, pins));
  ASSIGN_OR_RETURN(const std::string encoded, EncodeManifest(*manifest));
  HashingWriter writer(sink);
  WireWriter header;
  header.Bytes(kMagic);
  header.String(encoded);
  RETURN_IF_ERROR(writer.Write(header.out()));
  for (const SnapshotPart& part : manifest->parts) {
    for (const ChunkRef& ref : part.chunks) {
      ASSIGN_OR_RETURN(const std::string raw, pool_.Read(ref));
      RETURN_IF_ERROR(writer.Write(raw));
    }
  }
  return writer.Finish();
}

absl::StatusOr<SnapshotManifest> LocalStore::ReceiveStream(std::string_view tenant,
                                                           ByteSource& source, ChunkPins& pins) {
  HashingReader reader(source);
  ASSIGN_OR_RETURN(const std::string magic, reader.Read(kMagic.size(), "magic"));
  if (magic != kMagic) return reader.Corrupt("magic is wrong");
  ASSIGN_OR_RETURN(const std::string length_bytes, reader.Read(4, "manifest length"));
  const uint32_t length =
      WireReader(length_bytes, StoreError::kCorruptStream, "snapshot stream").U32("length");
  if (length > kMaxManifestBytes) return reader.Corrupt(Cat("manifest length is ", length));
  ASSIGN_OR_RETURN(const std::string encoded, reader.Read(length, "manifest"));
  ASSIGN_OR_RETURN(SnapshotManifest manifest, DecodeManifest(encoded));

  for (SnapshotPart& part : manifest.parts) {
    // Cut anew: whoever made the stream does not decide how many files it becomes.
    const std::vector<ChunkRef> sent = std::move(part.chunks);
    part.chunks.clear();
    std::string pending;
    for (const ChunkRef& ref : sent) {
      ASSIGN_OR_RETURN(const std::string raw, reader.Read(ref.raw_length, "part"));
      if (Checksum64(raw) != ref.checksum || ChunkDigest(manifest.tenant, raw) != ref.digest) {
        return reader.Corrupt(Cat("part \"", part.name, "\" does not match its checksum"));
      }
      pending += raw;
      const size_t whole = pending.size() - pending.size() % options_.chunk_bytes;
      RETURN_IF_ERROR(StorePart(tenant, std::string_view(pending).substr(0, whole), part, pins));
      pending.erase(0, whole);
    }
    RETURN_IF_ERROR(StorePart(tenant, pending, part, pins));
  }
  RETURN_IF_ERROR(reader.ReadTrailer());
  RETURN_IF_ERROR(CheckLossy(manifest));
  return manifest;
}

absl::StatusOr<Session> LocalStore::ImportSnapshot(std::string_view tenant,
                                                   const NewSessionOptions& options,
                                                   ByteSource& source) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  absl::StatusOr<Session> result = [&]() -> absl::StatusOr<Session> {
    ChunkPins pins(pool_);
    ASSIGN_OR_RETURN(SnapshotManifest received, ReceiveStream(tenant, source, pins));
    received.tenant = tenant;
    received.snapshot_id = MakeFreshId();
    received.parent_snapshot_id.clear();
    received.created_at = Now();
    const auto manifest = std::make_shared<const SnapshotManifest>(std::move(received));
    const std::string fresh_id = MakeFreshId();
    return Mutate(
        [&](const SessionIndex& index) {
          return PlanCreate(index, tenant, options, Origin{RequestKind::kImport, {}, manifest},
                            fresh_id, Now());
        },
        Durability::kAsync);
  }();
  pool_.Collect();
  return result;
}

}  // namespace reprise::state_store
