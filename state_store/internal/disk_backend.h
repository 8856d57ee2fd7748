// Chunks and log in a directory. docs/snapshot-format.md has the layout and the order of steps.
#ifndef REPRISE_STATE_STORE_INTERNAL_DISK_BACKEND_H_
#define REPRISE_STATE_STORE_INTERNAL_DISK_BACKEND_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "state_store/file_system.h"
#include "state_store/internal/local_backend.h"
#include "state_store/internal/log_format.h"

namespace reprise::state_store {

// What lies in a directory, read without changing it.
struct DirectoryContents {
  bool fresh = false;                       // nothing was ever stored here
  std::string checkpoint_bytes, log_bytes;  // `checkpoint` and `log` view these
  Checkpoint checkpoint;
  LogScan log;
  std::vector<StoredChunk> chunks;
  std::vector<std::string> leftovers;  // paths of temporary files and logs of other generations
  uint64_t last_generation = 0;        // highest seen
};

class DiskBackend : public LocalBackend {
 public:
  // `files` is borrowed. Takes the lock; reads everything into `contents`.
  static absl::StatusOr<std::unique_ptr<DiskBackend>> Open(FileSystem& files,
                                                           const std::string& directory,
                                                           uint64_t compact_log_bytes,
                                                           DirectoryContents* contents);

  // Goes on after the last frame of `contents.log`, which is cut there if anything follows. The
  // chunks of `unsynced` reach the device with the next Flush. For a fresh directory, and only
  // there, call Compact instead.
  absl::Status Resume(const DirectoryContents& contents, const std::vector<Sha256Digest>& unsynced);

  absl::Status PutChunk(const Sha256Digest& digest, std::string_view stored) override;
  absl::StatusOr<std::string> GetChunk(const ChunkRef& ref) override;
  absl::Status RemoveChunk(const Sha256Digest& digest) override;
  absl::StatusOr<std::vector<StoredChunk>> ListChunks() override;
  absl::Status Append(std::string_view record, bool sync) override;
  Compaction compaction() override;
  absl::Status Compact(const std::vector<std::string>& records) override;
  absl::Status Flush() override;
  uint64_t appended() override;
  uint64_t durable() override;

 private:
  // A chunk file that is not known to be on the device. After a failed fsync the kernel may call
  // the next one a success with the data gone, so a `suspect` is written anew.
  struct Unsynced {
    std::string path;
    bool suspect = false;
  };

  DiskBackend(FileSystem& files, std::string directory, uint64_t compact_log_bytes)
      : files_(files), directory_(std::move(directory)), compact_log_bytes_(compact_log_bytes) {}

  absl::Status ReadContents(DirectoryContents* contents);
  std::string ChunkPath(const Sha256Digest& digest) const;
  std::string LogPath(uint64_t generation) const;
  std::string TemporaryPath();
  absl::Status WriteWhole(const std::string& path, std::string_view bytes, bool sync);
  // Makes the directories of a chunk, and notes what must be synced for it to be found again.
  absl::Status PrepareDirs(const Sha256Digest& digest) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status SyncChunks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mu_) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status SyncChunk(const Unsynced& chunk);

  FileSystem& files_;
  const std::string directory_;
  const uint64_t compact_log_bytes_;
  std::unique_ptr<FileLock> lock_;
  std::atomic<uint64_t> temporaries_ = 0;

  // Held while chunks are synced: who gets it next must know that they have been.
  absl::Mutex sync_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  absl::Mutex mu_;
  std::shared_ptr<WritableFile> log_ ABSL_GUARDED_BY(mu_);
  uint64_t log_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t checkpoint_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t generation_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t last_generation_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t salt_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t appended_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t durable_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t chunks_durable_ ABSL_GUARDED_BY(mu_) = 0;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;  // the log's end is in doubt: compact before appending
  std::vector<Unsynced> unsynced_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> unsynced_dirs_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> known_dirs_ ABSL_GUARDED_BY(mu_);
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_DISK_BACKEND_H_
