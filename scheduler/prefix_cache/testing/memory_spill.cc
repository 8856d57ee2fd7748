#include "scheduler/prefix_cache/testing/memory_spill.h"

namespace reprise::scheduler {

void MemorySpill::Put(const SpillKey& key, StateImage image) {
  absl::MutexLock lock(&mutex_);
  images_[{key.tenant, key.digest}] = std::move(image);
}

absl::StatusOr<StateImage> MemorySpill::Find(const SpillKey& key) const {
  const auto found = images_.find({key.tenant, key.digest});
  if (found == images_.end()) return absl::NotFoundError("not spilled");
  return found->second;
}

void MemorySpill::Get(const SpillKey& key, std::function<void(absl::StatusOr<StateImage>)> done) {
  absl::StatusOr<StateImage> found = absl::UnknownError("");
  {
    absl::MutexLock lock(&mutex_);
    if (held_) {
      waiting_.emplace_back(key, std::move(done));
      return;
    }
    found = Find(key);
  }
  done(std::move(found));
}

void MemorySpill::Erase(const SpillKey& key) {
  absl::MutexLock lock(&mutex_);
  images_.erase({key.tenant, key.digest});
}

void MemorySpill::Hold() {
  absl::MutexLock lock(&mutex_);
  held_ = true;
}

void MemorySpill::Release() {
  std::vector<std::pair<SpillKey, std::function<void(absl::StatusOr<StateImage>)>>> waiting;
  {
    absl::MutexLock lock(&mutex_);
    held_ = false;
    waiting.swap(waiting_);
  }
  for (auto& [key, done] : waiting) Get(key, std::move(done));
}

void MemorySpill::Lose() {
  absl::MutexLock lock(&mutex_);
  images_.clear();
}

void MemorySpill::Truncate(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, image] : images_) {
    image = std::make_shared<const std::vector<uint8_t>>(image->begin(), image->begin() + bytes);
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
