#include <atomic>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_backend.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

class MemoryBackend : public LocalBackend {
 public:
  absl::Status PutChunk(const Sha256Digest& digest, std::string_view stored) override {
    auto bytes = std::make_shared<const std::string>(stored);
    absl::MutexLock lock(&mu_);
    chunks_[digest] = std::move(bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> GetChunk(const ChunkRef& ref) override {
    std::shared_ptr<const std::string> bytes;
    {
      absl::MutexLock lock(&mu_);
      const auto it = chunks_.find(ref.digest);
      if (it != chunks_.end()) bytes = it->second;
    }
    if (bytes == nullptr) {
      return MakeStoreError(StoreError::kCorruptChunk,
                            Cat("chunk ", HexDigest(ref.digest), " is missing"));
    }
    return *bytes;
  }

  absl::Status RemoveChunk(const Sha256Digest& digest) override {
    absl::MutexLock lock(&mu_);
    chunks_.erase(digest);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<StoredChunk>> ListChunks() override {
    absl::MutexLock lock(&mu_);
    std::vector<StoredChunk> list;
    for (const auto& [digest, bytes] : chunks_) list.push_back({digest, bytes->size()});
    return list;
  }

  absl::Status Append(std::string_view, bool) override {
    ++appended_;
    return absl::OkStatus();
  }
  Compaction compaction() override { return Compaction::kNone; }
  absl::Status Compact(const std::vector<std::string>&) override { return absl::OkStatus(); }
  absl::Status Flush() override { return absl::OkStatus(); }
  uint64_t appended() override { return appended_; }
  uint64_t durable() override { return appended_; }

 private:
  absl::Mutex mu_;
  absl::flat_hash_map<Sha256Digest, std::shared_ptr<const std::string>> chunks_
      ABSL_GUARDED_BY(mu_);
  std::atomic<uint64_t> appended_ = 0;
};

}  // namespace

std::unique_ptr<LocalBackend> MakeMemoryBackend() { return std::make_unique<MemoryBackend>(); }

}  // namespace reprise::state_store
