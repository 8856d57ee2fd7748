#include "state_store/testing/simulated_disk.h"

#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

std::string ParentOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

}  // namespace

class SimulatedDisk::File : public WritableFile {
 public:
  File(SimulatedDisk& disk, std::shared_ptr<Inode> inode, uint64_t generation)
      : disk_(disk), inode_(std::move(inode)), generation_(generation) {}

  absl::Status Append(std::string_view bytes) override {
    absl::MutexLock lock(&disk_.mu_);
    RETURN_IF_ERROR(disk_.Alive(generation_));
    inode_->bytes += bytes;
    return absl::OkStatus();
  }
  absl::Status Sync() override {
    absl::MutexLock lock(&disk_.mu_);
    RETURN_IF_ERROR(disk_.Alive(generation_));
    inode_->lasting = inode_->bytes;
    return absl::OkStatus();
  }
  absl::Status Truncate(uint64_t size) override {
    absl::MutexLock lock(&disk_.mu_);
    RETURN_IF_ERROR(disk_.Alive(generation_));
    inode_->bytes.resize(size);
    return absl::OkStatus();
  }

 private:
  SimulatedDisk& disk_;
  std::shared_ptr<Inode> inode_;
  uint64_t generation_;
};

class SimulatedDisk::Held : public FileLock {
 public:
  Held(SimulatedDisk& disk, std::string path, uint64_t generation)
      : disk_(disk), path_(std::move(path)), generation_(generation) {}
  ~Held() override {
    absl::MutexLock lock(&disk_.mu_);
    if (generation_ == disk_.generation_) disk_.locks_.erase(path_);
  }

 private:
  SimulatedDisk& disk_;
  std::string path_;
  uint64_t generation_;
};

SimulatedDisk::SimulatedDisk() {
  names_["/disk"] = nullptr;
  lasting_names_ = names_;
}
SimulatedDisk::~SimulatedDisk() = default;

absl::Status SimulatedDisk::Alive(uint64_t generation) const {
  if (powered_ && generation == generation_) return absl::OkStatus();
  return MakeStoreError(StoreError::kIoError, "simulated disk has no power");
}

absl::StatusOr<std::shared_ptr<SimulatedDisk::Inode>> SimulatedDisk::Find(
    const std::string& path) const {
  RETURN_IF_ERROR(Alive(generation_));
  const auto it = names_.find(path);
  if (it == names_.end() || it->second == nullptr) return absl::NotFoundError(path);
  return it->second;
}

void SimulatedDisk::CutPower() {
  absl::MutexLock lock(&mu_);
  powered_ = false;
}

void SimulatedDisk::RestorePower(std::mt19937_64& random) {
  absl::MutexLock lock(&mu_);
  Names survived;
  std::set<std::string> paths;
  for (const auto& [path, inode] : names_) paths.insert(path);
  for (const auto& [path, inode] : lasting_names_) paths.insert(path);
  for (const std::string& path : paths) {
    const Names& from = random() % 2 == 0 ? names_ : lasting_names_;
    const auto it = from.find(path);
    // Sorted, so a directory has been decided before what is in it.
    if (it == from.end()) continue;
    if (path != "/disk" && survived.count(ParentOf(path)) == 0) continue;
    survived.insert(*it);
  }
  std::set<Inode*> done;
  for (auto& [path, inode] : survived) {
    if (inode == nullptr || !done.insert(inode.get()).second) continue;
    std::string& bytes = inode->bytes;
    const std::string& lasting = inode->lasting;
    switch (random() % 4) {
      case 0:
        break;
      case 1:
        bytes = lasting;
        break;
      case 2:
        if (bytes.size() > lasting.size()) {
          bytes.resize(lasting.size() + random() % (bytes.size() - lasting.size()));
        }
        break;
      default:
        for (size_t i = lasting.size(); i < bytes.size(); ++i) bytes[i] = '\0';
    }
    inode->lasting = bytes;
  }
  names_ = survived;
  lasting_names_ = std::move(survived);
  locks_.clear();
  ++generation_;
  powered_ = true;
}

std::vector<std::string> SimulatedDisk::AllFiles() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> files;
  for (const auto& [path, inode] : names_) {
    if (inode != nullptr) files.push_back(path);
  }
  return files;
}

std::string SimulatedDisk::Contents(const std::string& path) const {
  absl::MutexLock lock(&mu_);
  return names_.at(path)->bytes;
}

void SimulatedDisk::Overwrite(const std::string& path, const std::string& bytes) {
  absl::MutexLock lock(&mu_);
  auto inode = std::make_shared<Inode>();
  inode->bytes = inode->lasting = bytes;
  names_[path] = lasting_names_[path] = std::move(inode);
}

void SimulatedDisk::Delete(const std::string& path) {
  absl::MutexLock lock(&mu_);
  names_.erase(path);
  lasting_names_.erase(path);
}

absl::Status SimulatedDisk::CreateDir(const std::string& path) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(Alive(generation_));
  if (names_.count(path) != 0) return absl::OkStatus();
  if (names_.count(ParentOf(path)) == 0) return absl::NotFoundError(path);
  names_.emplace(path, nullptr);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SimulatedDisk::ListDir(const std::string& path) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(Alive(generation_));
  if (names_.count(path) == 0) return absl::NotFoundError(path);
  std::vector<std::string> names;
  for (auto it = names_.upper_bound(path + "/"); it != names_.end(); ++it) {
    if (it->first.compare(0, path.size() + 1, path + "/") != 0) break;
    if (ParentOf(it->first) == path) names.push_back(it->first.substr(path.size() + 1));
  }
  return names;
}

absl::StatusOr<uint64_t> SimulatedDisk::FileSize(const std::string& path) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const auto inode, Find(path));
  return inode->bytes.size();
}

absl::StatusOr<std::string> SimulatedDisk::ReadFile(const std::string& path, uint64_t max_bytes) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const auto inode, Find(path));
  return inode->bytes.substr(0, max_bytes);
}

absl::StatusOr<std::unique_ptr<WritableFile>> SimulatedDisk::OpenForAppend(const std::string& path,
                                                                           bool truncate) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(Alive(generation_));
  if (names_.count(ParentOf(path)) == 0) return absl::NotFoundError(path);
  std::shared_ptr<Inode>& inode = names_[path];
  if (inode == nullptr) inode = std::make_shared<Inode>();
  if (truncate) inode->bytes.clear();
  return std::make_unique<File>(*this, inode, generation_);
}

absl::Status SimulatedDisk::SyncFile(const std::string& path) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const auto inode, Find(path));
  inode->lasting = inode->bytes;
  return absl::OkStatus();
}

absl::Status SimulatedDisk::SyncDir(const std::string& path) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(Alive(generation_));
  const auto inside = [&](const std::string& name) {
    return name.size() > path.size() && ParentOf(name) == path;
  };
  for (auto it = lasting_names_.begin(); it != lasting_names_.end();) {
    it = inside(it->first) && names_.count(it->first) == 0 ? lasting_names_.erase(it)
                                                           : std::next(it);
  }
  for (const auto& [name, inode] : names_) {
    if (inside(name)) lasting_names_[name] = inode;
  }
  return absl::OkStatus();
}

absl::Status SimulatedDisk::Rename(const std::string& from, const std::string& to) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(auto inode, Find(from));
  names_.erase(from);
  names_[to] = std::move(inode);
  return absl::OkStatus();
}

absl::Status SimulatedDisk::Remove(const std::string& path) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(Find(path).status());
  names_.erase(path);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FileLock>> SimulatedDisk::Lock(const std::string& path) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(Alive(generation_));
  names_.emplace(path, std::make_shared<Inode>());
  if (!locks_.insert(path).second) {
    return MakeStoreError(StoreError::kStoreLocked, Cat(path, " is held"));
  }
  return std::make_unique<Held>(*this, path, generation_);
}

}  // namespace reprise::state_store
