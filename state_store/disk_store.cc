#include "state_store/disk_store.h"

#include <algorithm>
#include <utility>
#include <vector>

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

struct Replayed {
  SessionIndex index;
  size_t frames = 0;   // of the log, applied
  bool clean = false;  // the last of them is the mark of a clean close
  // Chunks that came with records which may not be on the device, by tenant.
  std::vector<std::pair<std::string, ChunkRef>> unsynced;
  // Frames up to which, of these chunks, only whole ones are named.
  size_t whole_frames = 0;
  std::string bad_chunk;  // why it is less than `frames`
};

// Adds the chunks that `mutation` names and the index does not yet.
void AddNewChunks(const Mutation& mutation, Replayed& replayed) {
  for (const Op& op : mutation.ops) {
    const auto* put = std::get_if<PutSnapshot>(&op);
    if (put == nullptr) continue;
    const std::string& tenant = put->manifest->tenant;
    for (const SnapshotPart& part : put->manifest->parts) {
      for (const ChunkRef& ref : part.chunks) {
        if (replayed.index.FindChunk(tenant, ref.digest) == nullptr) {
          replayed.unsynced.emplace_back(tenant, ref);
        }
      }
    }
  }
}

// Applies the checkpoint and the first `max_frames` frames. A power failure can leave asynchronous
// commits in the log without their chunks: the chunks that no record vouches for are read here.
absl::StatusOr<Replayed> Replay(DiskBackend& backend, const DirectoryContents& contents,
                                size_t max_frames) {
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
  std::vector<std::pair<std::string, Sha256Digest>> bad;
  for (const LogFrame& frame : contents.log.frames) {
    if (replayed.frames == max_frames) break;
    ASSIGN_OR_RETURN(const Mutation mutation, DecodeMutation(frame.payload));
    if (frame.sequence > chunks_durable) {
      const size_t before = replayed.unsynced.size();
      AddNewChunks(mutation, replayed);
      for (size_t i = before; i < replayed.unsynced.size(); ++i) {
        const auto& [tenant, ref] = replayed.unsynced[i];
        absl::StatusOr<std::string> stored = backend.GetChunk(ref);
        if (stored.ok()) stored = DecodeChunk(*std::move(stored), ref);
        if (absl::IsDataLoss(stored.status())) {
          bad.emplace_back(tenant, ref.digest);
          replayed.bad_chunk = std::string(stored.status().message());
        } else {
          RETURN_IF_ERROR(stored.status());
        }
      }
    }
    RETURN_IF_ERROR(replayed.index.Apply(mutation, &freed));
    replayed.clean = mutation.ops.empty();
    ++replayed.frames;
    // A chunk that a later record let go of may rightly be gone already.
    const auto named = [&](const auto& chunk) {
      return replayed.index.FindChunk(chunk.first, chunk.second) != nullptr;
    };
    if (std::none_of(bad.begin(), bad.end(), named)) replayed.whole_frames = replayed.frames;
  }
  return replayed;
}

// Replays all of the log that has its chunks, and shortens contents.log to that.
absl::StatusOr<Replayed> Recover(DiskBackend& backend, DirectoryContents& contents,
                                 RecoveryReport& report) {
  ASSIGN_OR_RETURN(Replayed replayed, Replay(backend, contents, SIZE_MAX));
  if (replayed.whole_frames < replayed.frames) {
    const LogFrame& first_lost = contents.log.frames[replayed.whole_frames];
    report.notes.push_back(
        Cat("log record ", first_lost.sequence,
            " and later never got their chunks to the device: ", replayed.bad_chunk));
    contents.log.valid_bytes = first_lost.offset;
    contents.log.frames.resize(replayed.whole_frames);
    ASSIGN_OR_RETURN(replayed, Replay(backend, contents, replayed.whole_frames));
  }
  report.records = replayed.frames;
  report.clean = replayed.clean;
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
    ASSIGN_OR_RETURN(replayed, Recover(*backend, contents, report));
    std::vector<Sha256Digest> orphans;
    MatchChunks(replayed.index, contents.chunks, orphans, damaged, report);
    // Nothing has been changed up to here; from here on nothing is refused.
    report.cut_bytes = contents.log_bytes.size() - contents.log.valid_bytes;
    if (report.cut_bytes > 0) {
      report.clean = false;
      report.notes.push_back(Cat("log cut at offset ", contents.log.valid_bytes, ", ",
                                 report.cut_bytes, " bytes removed"));
    }
    std::vector<Sha256Digest> unsynced;
    for (const auto& [tenant, ref] : replayed.unsynced) unsynced.push_back(ref.digest);
    RETURN_IF_ERROR(backend->Resume(contents, unsynced));
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
