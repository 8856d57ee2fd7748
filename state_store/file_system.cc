#include "state_store/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

absl::Status Failed(std::string_view what, const std::string& path) {
  const int error = errno;
  const std::string message = Cat(what, " ", path, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  const bool full = error == ENOSPC || error == EDQUOT;
  return MakeStoreError(full ? StoreError::kStoreFull : StoreError::kIoError, message);
}

absl::StatusOr<UniqueFd> Open(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) return Failed("open", path);
  return fd;
}

absl::Status SyncFd(int fd, const std::string& path) {
  return ::fsync(fd) == 0 ? absl::OkStatus() : Failed("fsync", path);
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  absl::Status Append(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("write", path_);
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override { return SyncFd(fd_.get(), path_); }
  absl::Status Truncate(uint64_t size) override {
    return ::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0 ? absl::OkStatus()
                                                                 : Failed("truncate", path_);
  }

 private:
  UniqueFd fd_;
  std::string path_;
};

// The lock belongs to the open file and ends with it, also when the process is killed.
class PosixFileLock : public FileLock {
 public:
  explicit PosixFileLock(UniqueFd fd) : fd_(std::move(fd)) {}

 private:
  UniqueFd fd_;
};

class PosixFiles : public FileSystem {
 public:
  absl::Status CreateDir(const std::string& path) override {
    if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
    return Failed("mkdir", path);
  }

  absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) override {
    const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), ::closedir);
    if (dir == nullptr) return Failed("opendir", path);
    std::vector<std::string> names;
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(dir.get());
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    if (errno != 0) return Failed("readdir", path);
    return names;
  }

  absl::StatusOr<uint64_t> FileSize(const std::string& path) override {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return Failed("stat", path);
    return static_cast<uint64_t>(info.st_size);
  }

  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override {
    ASSIGN_OR_RETURN(const UniqueFd fd, Open(path, O_RDONLY));
    struct stat info;
    if (::fstat(fd.get(), &info) != 0) return Failed("stat", path);
    std::string bytes(std::min<uint64_t>(info.st_size, max_bytes), '\0');
    size_t have = 0;
    while (have < bytes.size()) {
      const ssize_t n = ::read(fd.get(), bytes.data() + have, bytes.size() - have);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("read", path);
      if (n == 0) break;
      have += static_cast<size_t>(n);
    }
    bytes.resize(have);
    return bytes;
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              bool truncate) override {
    const int flags = O_WRONLY | O_CREAT | O_APPEND | (truncate ? O_TRUNC : 0);
    ASSIGN_OR_RETURN(UniqueFd fd, Open(path, flags));
    return std::make_unique<PosixWritableFile>(std::move(fd), path);
  }

  absl::Status SyncFile(const std::string& path) override {
    ASSIGN_OR_RETURN(const UniqueFd fd, Open(path, O_RDONLY));
    return SyncFd(fd.get(), path);
  }
  absl::Status SyncDir(const std::string& path) override {
    ASSIGN_OR_RETURN(const UniqueFd fd, Open(path, O_RDONLY | O_DIRECTORY));
    return SyncFd(fd.get(), path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return ::rename(from.c_str(), to.c_str()) == 0 ? absl::OkStatus() : Failed("rename", from);
  }
  absl::Status Remove(const std::string& path) override {
    return ::unlink(path.c_str()) == 0 ? absl::OkStatus() : Failed("unlink", path);
  }

  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    ASSIGN_OR_RETURN(UniqueFd fd, Open(path, O_RDWR | O_CREAT));
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return Failed("flock", path);
      return MakeStoreError(StoreError::kStoreLocked, Cat(path, " is held by another process"));
    }
    return std::make_unique<PosixFileLock>(std::move(fd));
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static PosixFiles* const files = new PosixFiles;
  return *files;
}

}  // namespace reprise::state_store
