#include "state_store/testing/memory_blobs.h"

#include "base/status_macros.h"

namespace reprise::state_store {

class MemoryBlobs::Connection final : public BlobStore {
 public:
  explicit Connection(MemoryBlobs* blobs) : all_(*blobs) {}

  absl::Status Put(std::string_view tenant, const Sha256Digest& digest,
                   std::string_view bytes) override {
    RETURN_IF_ERROR(all_.Enter('P'));
    absl::MutexLock lock(&all_.mutex_);
    all_.blobs_[{std::string(tenant), digest}] = std::string(bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Get(std::string_view tenant, const Sha256Digest& digest) override {
    RETURN_IF_ERROR(all_.Enter('G'));
    absl::MutexLock lock(&all_.mutex_);
    const auto found = all_.blobs_.find({std::string(tenant), digest});
    if (found == all_.blobs_.end()) return absl::NotFoundError("no such blob");
    return found->second;
  }
  absl::Status Erase(std::string_view tenant, const Sha256Digest& digest) override {
    RETURN_IF_ERROR(all_.Enter('E'));
    absl::MutexLock lock(&all_.mutex_);
    all_.blobs_.erase({std::string(tenant), digest});
    return absl::OkStatus();
  }
  absl::Status AddNote(std::string_view tenant, const Sha256Digest& digest,
                       std::string_view note) override {
    RETURN_IF_ERROR(all_.Enter('A'));
    absl::MutexLock lock(&all_.mutex_);
    all_.notes_[{std::string(tenant), digest}].insert(std::string(note));
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::vector<std::string>>> Notes(
      std::string_view tenant, const std::vector<Sha256Digest>& digests) override {
    RETURN_IF_ERROR(all_.Enter('N'));
    absl::MutexLock lock(&all_.mutex_);
    std::vector<std::vector<std::string>> out;
    for (const Sha256Digest& digest : digests) {
      const auto found = all_.notes_.find({std::string(tenant), digest});
      out.emplace_back();
      if (found != all_.notes_.end()) out.back() = {found->second.begin(), found->second.end()};
    }
    return out;
  }
  BlobStats stats() const override {
    absl::MutexLock lock(&all_.mutex_);
    BlobStats stats = {.bytes = 0, .tenant_evictions = 3, .total_evictions = 5};
    for (const auto& [key, blob] : all_.blobs_) stats.bytes += static_cast<int64_t>(blob.size());
    return stats;
  }

 private:
  MemoryBlobs& all_;
};

std::unique_ptr<BlobStore> MemoryBlobs::Connect() { return std::make_unique<Connection>(this); }

absl::Status MemoryBlobs::Enter(char letter) {
  absl::MutexLock lock(&mutex_);
  log_.push_back(letter);
  const auto released = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !held_; };
  mutex_.Await(absl::Condition(&released));
  return failure_;
}

void MemoryBlobs::Fail(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  failure_ = std::move(status);
}

void MemoryBlobs::Hold() {
  absl::MutexLock lock(&mutex_);
  held_ = true;
}

void MemoryBlobs::Release() {
  absl::MutexLock lock(&mutex_);
  held_ = false;
}

void MemoryBlobs::ChangeBlobs(const std::function<void(std::string&)>& change) {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, blob] : blobs_) change(blob);
}

void MemoryBlobs::ChangeNotes(const std::function<void(std::string&)>& change) {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, notes] : notes_) {
    std::set<std::string> changed;
    for (std::string note : notes) {
      change(note);
      changed.insert(std::move(note));
    }
    notes.swap(changed);
  }
}

size_t MemoryBlobs::size() const {
  absl::MutexLock lock(&mutex_);
  return blobs_.size();
}

std::string MemoryBlobs::only_blob() const {
  absl::MutexLock lock(&mutex_);
  return blobs_.size() == 1 ? blobs_.begin()->second : "";
}

int MemoryBlobs::calls() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(log_.size());
}

std::string MemoryBlobs::log() const {
  absl::MutexLock lock(&mutex_);
  return log_;
}

}  // namespace reprise::state_store
