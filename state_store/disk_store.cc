#include "state_store/disk_store.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/file_system.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/disk_backend.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/mutation.h"

namespace reprise::state_store {
namespace {

absl::Status ValidateOptions(const DiskStoreOptions& options) {
  RETURN_IF_ERROR(ValidateStoreOptions(options.store));
  if (options.directory.empty()) {
    return MakeStoreError(StoreError::kInvalidArgument, "disk store option directory is empty");
  }
  if (options.compact_log_bytes == 0) {
    return MakeStoreError(StoreError::kInvalidArgument, "disk store option compact_log_bytes is 0");
  }
  return absl::OkStatus();
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// The chunks that `mutation` names and `index` does not yet.
std::vector<ChunkRef> NewChunks(const Mutation& mutation, const SessionIndex& index) {
  std::vector<ChunkRef> chunks;
  for (const Op& op : mutation.ops) {
    const auto* put = std::get_if<PutSnapshot>(&op);
    if (put == nullptr) continue;
    for (const SnapshotPart& part : put->manifest->parts) {
      for (const ChunkRef& ref : part.chunks) {
        if (index.FindChunk(put->manifest->tenant, ref.digest) == nullptr) chunks.push_back(ref);
      }
    }
  }
  return chunks;
}

// OK, DATA_LOSS for a chunk that is not whole, or what the device says.
absl::Status VerifyChunks(DiskBackend& backend, const std::vector<ChunkRef>& chunks) {
  for (const ChunkRef& ref : chunks) {
    ASSIGN_OR_RETURN(std::string stored, backend.GetChunk(ref));
    RETURN_IF_ERROR(DecodeChunk(std::move(stored), ref).status());
  }
  return absl::OkStatus();
}

struct Replayed {
  SessionIndex index;
  std::vector<Sha256Digest> unsynced;  // chunks of records that may not be on the device
};

// Applies checkpoint and log; shortens contents.log where an asynchronous commit reached the
// device without its chunks, as a power failure can leave it.
absl::StatusOr<Replayed> Replay(DiskBackend& backend, DirectoryContents& contents,
                                RecoveryReport& report) {
  Replayed replayed;
  std::vector<ChunkRef> freed;
  for (const std::string_view record : contents.checkpoint.records) {
    ASSIGN_OR_RETURN(const Mutation mutation, DecodeMutation(record));
    RETURN_IF_ERROR(replayed.index.Apply(mutation, &freed));
  }
  uint64_t chunks_durable = contents.checkpoint.sequence;
  for (const LogFrame& frame : contents.log.frames) {
    chunks_durable = std::max(chunks_durable, frame.chunks_durable);
  }
  std::vector<LogFrame>& frames = contents.log.frames;
  for (size_t i = 0; i < frames.size(); ++i) {
    const LogFrame& frame = frames[i];
    ASSIGN_OR_RETURN(const Mutation mutation, DecodeMutation(frame.payload));
    if (frame.sequence > chunks_durable) {
      const std::vector<ChunkRef> chunks = NewChunks(mutation, replayed.index);
      const absl::Status whole = VerifyChunks(backend, chunks);
      if (absl::IsDataLoss(whole)) {
        report.notes.push_back(Cat("log record ", frame.sequence,
                                   " never got its chunks to the device: ", whole.message()));
        contents.log.valid_bytes = frame.offset;
        frames.resize(i);
        break;
      }
      RETURN_IF_ERROR(whole);
      for (const ChunkRef& ref : chunks) replayed.unsynced.push_back(ref.digest);
    }
    RETURN_IF_ERROR(replayed.index.Apply(mutation, &freed));
    report.clean = mutation.ops.empty();
  }
  report.records = frames.size();
  return replayed;
}

// Compares chunk files with the index: which to remove, and which are not as they should be.
void MatchChunks(const SessionIndex& index, const std::vector<StoredChunk>& stored,
                 std::vector<Sha256Digest>& orphans, absl::flat_hash_set<Sha256Digest>& damaged,
                 RecoveryReport& report) {
  absl::flat_hash_map<Sha256Digest, uint64_t> lengths;
  for (const StoredChunk& chunk : stored) lengths.emplace(chunk.digest, chunk.length);
  absl::flat_hash_set<Sha256Digest> named;
  for (const auto& [name, tenant] : index.tenants()) {
    for (const auto& [digest, chunk] : tenant.chunks) {
      named.insert(digest);
      const auto it = lengths.find(digest);
      if (it != lengths.end() && it->second == chunk.ref.stored_length) continue;
      damaged.insert(digest);
      report.notes.push_back(Cat("chunk ", HexDigest(digest), " is ",
                                 it == lengths.end() ? "missing" : "of the wrong length"));
    }
  }
  for (const StoredChunk& chunk : stored) {
    if (!named.contains(chunk.digest)) orphans.push_back(chunk.digest);
  }
}

}  // namespace

absl::StatusOr<OpenedDiskStore> OpenDiskStore(const DiskStoreOptions& options) {
  RETURN_IF_ERROR(ValidateOptions(options));
  FileSystem& files = options.file_system != nullptr ? *options.file_system : PosixFileSystem();
  RecoveryReport report;
  DirectoryContents contents;
  ASSIGN_OR_RETURN(
      std::unique_ptr<DiskBackend> backend,
      DiskBackend::Open(files, options.directory, options.compact_log_bytes, &contents));
  Replayed replayed;
  absl::flat_hash_set<Sha256Digest> damaged;
  if (contents.fresh) {
    report.clean = true;
  } else {
    ASSIGN_OR_RETURN(replayed, Replay(*backend, contents, report));
    std::vector<Sha256Digest> orphans;
    MatchChunks(replayed.index, contents.chunks, orphans, damaged, report);
    // Nothing has been changed up to here; from here on nothing is refused.
    report.cut_bytes = contents.log_bytes.size() - contents.log.valid_bytes;
    if (report.cut_bytes > 0) {
      report.clean = false;
      report.notes.push_back(Cat("log cut at offset ", contents.log.valid_bytes, ", ",
                                 report.cut_bytes, " bytes removed"));
    }
    RETURN_IF_ERROR(backend->Resume(contents, replayed.unsynced));
    for (const Sha256Digest& digest : orphans) {
      RETURN_IF_ERROR(backend->RemoveChunk(digest));
      ++report.orphan_chunks;
    }
  }
  for (const std::string& path : contents.leftovers) {
    const absl::Status removed = files.Remove(path);
    if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
    ++report.temporary_files;
  }
  if (report.orphan_chunks + report.temporary_files > 0) {
    report.notes.push_back(Cat("removed ", report.orphan_chunks, " chunks that nothing named and ",
                               report.temporary_files, " leftover files"));
  }
  RETURN_IF_ERROR(contents.fresh ? backend->Compact({}) : backend->Flush());
  if (contents.fresh) RETURN_IF_ERROR(files.SyncDir(ParentOf(options.directory)));
  OpenedDiskStore opened;
  opened.report = std::move(report);
  opened.store =
      std::make_unique<LocalStore>(options.store, std::move(backend), std::move(replayed.index),
                                   damaged, options.flush_interval);
  return opened;
}

}  // namespace reprise::state_store
