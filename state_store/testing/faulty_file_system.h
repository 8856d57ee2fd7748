// A file system that asks a hook before each operation.
#ifndef REPRISE_STATE_STORE_TESTING_FAULTY_FILE_SYSTEM_H_
#define REPRISE_STATE_STORE_TESTING_FAULTY_FILE_SYSTEM_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "state_store/file_system.h"

namespace reprise::state_store {

// What is about to happen: "create_dir", "list", "size", "read", "open", "append", "sync",
// "truncate", "sync_file", "sync_dir", "rename" (path is the target), "remove", "lock".
struct FileOp {
  std::string_view what;
  std::string path;
};

// Whether the operation writes, so that a crash before it differs from one after it.
bool ChangesDisk(const FileOp& op);

// Passes everything on to `base` (borrowed) unless the hook returns an error, or does not return.
// An append that the hook fails has written half of its bytes. As thread-safe as its hook.
class FaultyFileSystem : public FileSystem {
 public:
  using Hook = std::function<absl::Status(const FileOp&)>;

  FaultyFileSystem(FileSystem& base, Hook hook) : base_(base), hook_(std::move(hook)) {}

  absl::Status CreateDir(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) override;
  absl::StatusOr<uint64_t> FileSize(const std::string& path) override;
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              bool truncate) override;
  absl::Status SyncFile(const std::string& path) override;
  absl::Status SyncDir(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override;

 private:
  FileSystem& base_;
  Hook hook_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TESTING_FAULTY_FILE_SYSTEM_H_
