#include "state_store/testing/faulty_file_system.h"

#include <utility>

#include "base/status_macros.h"

namespace reprise::state_store {
namespace {

class FaultyFile : public WritableFile {
 public:
  FaultyFile(std::unique_ptr<WritableFile> base, std::string path,
             const FaultyFileSystem::Hook& hook)
      : base_(std::move(base)), path_(std::move(path)), hook_(hook) {}

  absl::Status Append(std::string_view bytes) override {
    const size_t half = bytes.size() / 2;
    if (const absl::Status status = hook_({"append", path_}); !status.ok()) {
      base_->Append(bytes.substr(0, half)).IgnoreError();
      return status;
    }
    return base_->Append(bytes);
  }
  absl::Status Sync() override {
    RETURN_IF_ERROR(hook_({"sync", path_}));
    return base_->Sync();
  }
  absl::Status Truncate(uint64_t size) override {
    RETURN_IF_ERROR(hook_({"truncate", path_}));
    return base_->Truncate(size);
  }

 private:
  std::unique_ptr<WritableFile> base_;
  std::string path_;
  const FaultyFileSystem::Hook& hook_;
};

}  // namespace

bool ChangesDisk(const FileOp& op) {
  return op.what != "list" && op.what != "size" && op.what != "read" && op.what != "lock";
}

absl::Status FaultyFileSystem::CreateDir(const std::string& path) {
  RETURN_IF_ERROR(hook_({"create_dir", path}));
  return base_.CreateDir(path);
}
absl::StatusOr<std::vector<std::string>> FaultyFileSystem::ListDir(const std::string& path) {
  RETURN_IF_ERROR(hook_({"list", path}));
  return base_.ListDir(path);
}
absl::StatusOr<uint64_t> FaultyFileSystem::FileSize(const std::string& path) {
  RETURN_IF_ERROR(hook_({"size", path}));
  return base_.FileSize(path);
}
absl::StatusOr<std::string> FaultyFileSystem::ReadFile(const std::string& path,
                                                       uint64_t max_bytes) {
  RETURN_IF_ERROR(hook_({"read", path}));
  return base_.ReadFile(path, max_bytes);
}
absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::OpenForAppend(
    const std::string& path, bool truncate) {
  RETURN_IF_ERROR(hook_({"open", path}));
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, base_.OpenForAppend(path, truncate));
  return std::make_unique<FaultyFile>(std::move(file), path, hook_);
}
absl::Status FaultyFileSystem::SyncFile(const std::string& path) {
  RETURN_IF_ERROR(hook_({"sync_file", path}));
  return base_.SyncFile(path);
}
absl::Status FaultyFileSystem::SyncDir(const std::string& path) {
  RETURN_IF_ERROR(hook_({"sync_dir", path}));
  return base_.SyncDir(path);
}
absl::Status FaultyFileSystem::Rename(const std::string& from, const std::string& to) {
  RETURN_IF_ERROR(hook_({"rename", to}));
  return base_.Rename(from, to);
}
absl::Status FaultyFileSystem::Remove(const std::string& path) {
  RETURN_IF_ERROR(hook_({"remove", path}));
  return base_.Remove(path);
}
absl::StatusOr<std::unique_ptr<FileLock>> FaultyFileSystem::Lock(const std::string& path) {
  RETURN_IF_ERROR(hook_({"lock", path}));
  return base_.Lock(path);
}

}  // namespace reprise::state_store
