#include "scheduler/prefix_cache/testing/memory_spill.h"

namespace reprise::scheduler {
namespace {

Sha256Digest Digest(const SpillPath& path) {
  return SpillDigest(path.tenant, path.root, path.tokens);
}

}  // namespace

void MemorySpill::Put(SpillPath path, StateImage image) {
  absl::MutexLock lock(&mutex_);
  images_[{path.tenant, Digest(path)}] = std::move(image);
}

absl::StatusOr<StateImage> MemorySpill::FindImage(const SpillPath& path) const {
  const auto found = images_.find({path.tenant, Digest(path)});
  if (found == images_.end()) return absl::NotFoundError("not spilled");
  return found->second;
}

void MemorySpill::Get(SpillPath path, std::function<void(absl::StatusOr<StateImage>)> done) {
  absl::StatusOr<StateImage> found = absl::UnknownError("");
  {
    absl::MutexLock lock(&mutex_);
    if (held_) {
      waiting_.emplace_back(std::move(path), std::move(done));
      return;
    }
    found = FindImage(path);
  }
  done(std::move(found));
}

void MemorySpill::Erase(SpillPath path) {
  absl::MutexLock lock(&mutex_);
  images_.erase({path.tenant, Digest(path)});
}

void MemorySpill::Hold() {
  absl::MutexLock lock(&mutex_);
  held_ = true;
}

void MemorySpill::Release() {
  std::vector<std::pair<SpillPath, std::function<void(absl::StatusOr<StateImage>)>>> waiting;
  {
    absl::MutexLock lock(&mutex_);
    held_ = false;
    waiting.swap(waiting_);
  }
  for (auto& [path, done] : waiting) Get(std::move(path), std::move(done));
}

void MemorySpill::Lose() {
  absl::MutexLock lock(&mutex_);
  images_.clear();
}

void MemorySpill::Truncate(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, image] : images_) {
    image = std::make_shared<const Bytes>(image->begin(), image->begin() + bytes);
  }
}

size_t MemorySpill::size() const {
  absl::MutexLock lock(&mutex_);
  return images_.size();
}

int MemorySpill::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(waiting_.size());
}

}  // namespace reprise::scheduler
