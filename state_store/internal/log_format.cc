#include "state_store/internal/log_format.h"

#include <optional>

#include "base/hash.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/wire.h"

namespace reprise::state_store {
namespace {

constexpr std::string_view kLogMagic = "RPSLOG01";
constexpr std::string_view kFrameMagic = "RPRC";
constexpr std::string_view kCheckpointMagic = "RPSCKPT1";
constexpr uint32_t kVersion = 1;
constexpr size_t kChecksumBytes = 8;

uint64_t FrameChecksum(uint64_t salt, uint64_t sequence, uint64_t chunks_durable,
                       std::string_view payload) {
  WireWriter w;
  w.U64(salt);
  w.U64(payload.size());
  w.U64(sequence);
  w.U64(chunks_durable);
  w.U64(Checksum64(payload));
  return Checksum64(w.out());
}

// The frame at `offset`, if it is whole and intact.
std::optional<LogFrame> FrameAt(std::string_view bytes, size_t offset, uint64_t salt) {
  WireReader r(bytes.substr(offset), StoreError::kCorruptIndex, "log");
  if (r.Bytes(kFrameMagic.size(), "frame.magic") != kFrameMagic) return std::nullopt;
  const uint32_t length = r.U32("frame.length");
  LogFrame frame;
  frame.sequence = r.U64("frame.sequence");
  frame.chunks_durable = r.U64("frame.chunks_durable");
  const uint64_t checksum = r.U64("frame.checksum");
  frame.payload = r.Bytes(length, "frame.payload");
  frame.offset = offset;
  if (!r.ok() ||
      checksum != FrameChecksum(salt, frame.sequence, frame.chunks_durable, frame.payload)) {
    return std::nullopt;
  }
  return frame;
}

}  // namespace

std::string EncodeLogHeader(const LogHeader& header) {
  WireWriter w;
  w.Bytes(kLogMagic);
  w.U32(kVersion);
  w.U32(0);
  w.U64(header.generation);
  w.U64(header.first_sequence);
  w.U64(header.salt);
  w.U64(Checksum64(w.out()));
  return w.Take();
}

std::string EncodeFrame(uint64_t salt, uint64_t sequence, uint64_t chunks_durable,
                        std::string_view payload) {
  WireWriter w;
  w.Bytes(kFrameMagic);
  w.U32(static_cast<uint32_t>(payload.size()));
  w.U64(sequence);
  w.U64(chunks_durable);
  w.U64(FrameChecksum(salt, sequence, chunks_durable, payload));
  w.Bytes(payload);
  return w.Take();
}

absl::StatusOr<LogScan> ScanLog(std::string_view bytes) {
  // The header was synced before the checkpoint named this log: it cannot be torn.
  WireReader r(bytes, StoreError::kCorruptIndex, "log");
  if (r.Bytes(kLogMagic.size(), "magic") != kLogMagic) r.Fail("magic", "is wrong");
  const uint32_t version = r.U32("version");
  r.U32("reserved");
  LogScan scan;
  scan.header.generation = r.U64("generation");
  scan.header.first_sequence = r.U64("first_sequence");
  scan.header.salt = r.U64("salt");
  const uint64_t checksum = r.U64("checksum");
  if (r.ok() && checksum != Checksum64(bytes.substr(0, kLogHeaderBytes - kChecksumBytes))) {
    r.Fail("header", "does not match its checksum");
  }
  RETURN_IF_ERROR(r.status());
  if (version != kVersion) {
    return MakeStoreError(StoreError::kUnsupportedVersion, Cat("log: version ", version));
  }

  size_t offset = kLogHeaderBytes;
  uint64_t next = scan.header.first_sequence;
  while (const std::optional<LogFrame> frame = FrameAt(bytes, offset, scan.header.salt)) {
    if (frame->sequence != next) {
      return MakeStoreError(
          StoreError::kCorruptIndex,
          Cat("log: frame at offset ", offset, " has number ", frame->sequence, ", not ", next));
    }
    scan.frames.push_back(*frame);
    offset += kFrameHeaderBytes + frame->payload.size();
    ++next;
  }
  scan.valid_bytes = offset;
  for (size_t at = bytes.find(kFrameMagic, offset + 1); at != std::string_view::npos;
       at = bytes.find(kFrameMagic, at + 1)) {
    if (FrameAt(bytes, at, scan.header.salt).has_value()) {
      return MakeStoreError(
          StoreError::kCorruptIndex,
          Cat("log: damaged from offset ", offset, ", an intact record follows at offset ", at));
    }
  }
  return scan;
}

std::string EncodeCheckpoint(uint64_t generation, uint64_t sequence,
                             const std::vector<std::string>& records) {
  WireWriter w;
  w.Bytes(kCheckpointMagic);
  w.U32(kVersion);
  w.U32(0);
  w.U64(generation);
  w.U64(sequence);
  w.U64(records.size());
  for (const std::string& record : records) w.String(record);
  w.U64(Checksum64(w.out()));
  return w.Take();
}

absl::StatusOr<Checkpoint> DecodeCheckpoint(std::string_view bytes) {
  WireReader r(bytes, StoreError::kCorruptIndex, "checkpoint");
  if (r.Bytes(kCheckpointMagic.size(), "magic") != kCheckpointMagic) r.Fail("magic", "is wrong");
  const uint32_t version = r.U32("version");
  r.U32("reserved");
  RETURN_IF_ERROR(r.status());
  if (version != kVersion) {
    return MakeStoreError(StoreError::kUnsupportedVersion, Cat("checkpoint: version ", version));
  }
  if (r.remaining() < kChecksumBytes) r.Fail("checksum", "is missing");
  RETURN_IF_ERROR(r.status());
  const std::string_view covered = bytes.substr(0, bytes.size() - kChecksumBytes);
  WireReader tail(bytes.substr(covered.size()), StoreError::kCorruptIndex, "checkpoint");
  if (tail.U64("checksum") != Checksum64(covered)) r.Fail("checksum", "does not match");

  Checkpoint checkpoint;
  checkpoint.generation = r.U64("generation");
  checkpoint.sequence = r.U64("sequence");
  const uint64_t count = r.U64("records.count");
  for (uint64_t i = 0; i < count && r.ok(); ++i) {
    checkpoint.records.push_back(r.String(UINT32_MAX, "record"));
  }
  if (r.ok() && r.remaining() != kChecksumBytes) r.Fail("records", "do not end at the checksum");
  RETURN_IF_ERROR(r.status());
  return checkpoint;
}

}  // namespace reprise::state_store
