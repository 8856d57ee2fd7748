// Bytes that anyone may have written, into each reader of the state store: manifest, log record,
// log, checkpoint, chunk, lossy part, and the import stream of a whole store. The first byte
// chooses. Where a checksum would stop all but a few inputs at the door, it is made right first.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "state_store/chunking.h"
#include "state_store/internal/log_format.h"
#include "state_store/internal/mutation.h"
#include "state_store/internal/session_index.h"
#include "state_store/lossy.h"
#include "state_store/memory_store.h"

namespace reprise::state_store {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void PutInteger(std::string& bytes, size_t at, uint64_t v, int width) {
  for (int i = 0; i < width; ++i) bytes[at + i] = static_cast<char>(v >> (8 * i));
}

// The last eight bytes become the checksum of those before.
std::string Sealed(std::string bytes) {
  if (bytes.size() < 8) return bytes;
  const size_t n = bytes.size() - 8;
  PutInteger(bytes, n, Checksum64(std::string_view(bytes).substr(0, n)), 8);
  return bytes;
}

std::string SealedManifest(std::string bytes) {
  if (bytes.size() < 24) return bytes;
  PutInteger(bytes, 12, bytes.size(), 4);
  return Sealed(std::move(bytes));
}

void FuzzManifest(std::string_view bytes) {
  DecodeManifest(bytes).status().IgnoreError();
  const std::string sealed = SealedManifest(std::string(bytes));
  const auto manifest = DecodeManifest(sealed);
  if (!manifest.ok()) return;
  // What was accepted has one encoding only.
  const auto again = EncodeManifest(*manifest);
  Require(again.ok() && *again == sealed);
}

void FuzzMutation(std::string_view bytes) {
  const auto mutation = DecodeMutation(bytes);
  if (!mutation.ok()) return;
  Require(EncodeMutation(*mutation).ok());
  SessionIndex index;
  std::vector<ChunkRef> freed;
  index.Apply(*mutation, &freed).IgnoreError();
}

void FuzzLog(std::string_view bytes) {
  std::string log(bytes);
  if (log.size() >= kLogHeaderBytes) {
    PutInteger(log, 40, Checksum64(std::string_view(log).substr(0, 40)), 8);
  }
  const auto scan = ScanLog(log);
  if (!scan.ok()) return;
  Require(scan->valid_bytes <= log.size());
  for (const LogFrame& frame : scan->frames) DecodeMutation(frame.payload).status().IgnoreError();
}

void FuzzCheckpoint(std::string_view bytes) {
  const std::string sealed = Sealed(std::string(bytes));
  const auto checkpoint = DecodeCheckpoint(sealed);
  if (!checkpoint.ok()) return;
  for (const std::string_view record : checkpoint->records)
    DecodeMutation(record).status().IgnoreError();
}

void FuzzChunk(std::string_view bytes) {
  if (bytes.size() < 4) return;
  ChunkRef ref;
  ref.codec = ChunkCodec::kZstd;
  ref.raw_length = 1 + static_cast<uint8_t>(bytes[0]) * 256u + static_cast<uint8_t>(bytes[1]);
  const std::string stored(bytes.substr(2));
  ref.stored_length = static_cast<uint32_t>(stored.size());
  DecodeChunk(stored, ref).status().IgnoreError();
}

// u8 length of the dtype, dtype, payload.
void FuzzLossy(std::string_view bytes) {
  if (bytes.empty()) return;
  const size_t n = std::min<size_t>(bytes.size() - 1, static_cast<uint8_t>(bytes[0]));
  Snapshot snapshot;
  SnapshotPart& part = snapshot.manifest.parts.emplace_back();
  part.name = "p";
  part.dtype = bytes.substr(1, n);
  snapshot.payloads.emplace_back(bytes.substr(1 + n));
  const size_t stored = snapshot.payloads[0].size();
  part.byte_length = stored;
  const bool fits = CheckLossy(snapshot.manifest).ok();
  Require(DecodeLossy(snapshot).ok() == fits);
  Require(snapshot.payloads[0].size() <= 4 * stored);
  Require(!fits || part.byte_length == snapshot.payloads[0].size());
}

void FuzzImport(std::string_view bytes) {
  static SessionStore* const store = [] {
    StoreOptions options;
    options.max_stored_bytes = 1 << 20;
    return CreateMemoryStore(options)->release();
  }();
  // Layout: u16 length of the manifest, manifest, the rest of the stream; with the manifest's
  // checksum made right.
  std::string stream = "RPSNAP01";
  if (bytes.size() >= 2) {
    const size_t n = std::min<size_t>(
        bytes.size() - 2, static_cast<uint8_t>(bytes[0]) | static_cast<uint8_t>(bytes[1]) << 8);
    const std::string manifest = SealedManifest(std::string(bytes.substr(2, n)));
    stream.append(4, '\0');
    PutInteger(stream, 8, manifest.size(), 4);
    stream += manifest;
    stream += bytes.substr(2 + n);
  }
  std::string finished = stream + "RPSNAPND";
  const Sha256Digest digest = Sha256(finished);
  finished.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  for (const std::string& s : {std::string(bytes), stream, finished}) {
    StringSource source(s);
    const auto session = store->ImportSnapshot("t", {.id = "s"}, source);
    if (session.ok()) {
      Require(store->ReadSnapshot("t", "s", "").ok());
      Require(store->DeleteSession("t", "s").ok());
    }
    Require(*store->Stats("t") == StoreStats{});
    Require(store->CheckIntegrity().ok());
  }
}

}  // namespace
}  // namespace reprise::state_store

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise::state_store;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 7) {
    case 0:
      FuzzManifest(bytes);
      break;
    case 1:
      FuzzMutation(bytes);
      break;
    case 2:
      FuzzLog(bytes);
      break;
    case 3:
      FuzzCheckpoint(bytes);
      break;
    case 4:
      FuzzChunk(bytes);
      break;
    case 5:
      FuzzLossy(bytes);
      break;
    default:
      FuzzImport(bytes);
  }
  return 0;
}
