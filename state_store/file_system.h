// The few file operations that the disk store is made of, so that tests can fail each of them.
#ifndef REPRISE_STATE_STORE_FILE_SYSTEM_H_
#define REPRISE_STATE_STORE_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::state_store {

// A file open for appending; closed when it goes. Append and Sync may run at the same time in two
// threads.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // After an error some of `bytes` may be there.
  virtual absl::Status Append(std::string_view bytes) = 0;
  virtual absl::Status Sync() = 0;
  virtual absl::Status Truncate(uint64_t size) = 0;
};

// Held while it lives.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

// Thread-safe. Errors: NOT_FOUND without a StoreError for a missing file, kStoreFull when the
// device or the quota is exhausted, kIoError for the rest.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual absl::Status CreateDir(const std::string& path) = 0;  // OK if it is there
  // Names, without "." and "..", unordered.
  virtual absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) = 0;
  virtual absl::StatusOr<uint64_t> FileSize(const std::string& path) = 0;
  // At most max_bytes from the beginning.
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) = 0;
  // Makes the file if it is missing; `truncate` empties it.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                                      bool truncate) = 0;
  virtual absl::Status SyncFile(const std::string& path) = 0;
  virtual absl::Status SyncDir(const std::string& path) = 0;
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
  // FAILED_PRECONDITION (kStoreLocked) if someone holds it.
  virtual absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
};

// The machine's own; lives as long as the process.
FileSystem& PosixFileSystem();

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_FILE_SYSTEM_H_
