#include "state_store/redis/record_cache.h"

namespace reprise::state_store::redis {
namespace {

// A manifest of more chunks than this is read anew: all entries together stay below some megabytes.
constexpr size_t kMaxChunks = 4096;

size_t ChunksOf(const SnapshotManifest& manifest) {
  size_t chunks = 0;
  for (const SnapshotPart& part : manifest.parts) chunks += part.chunks.size();
  return chunks;
}

}  // namespace

std::shared_ptr<const KnownRecord> RecordCache::Find(const std::string& key) {
  absl::MutexLock lock(&mu_);
  const auto place = places_.find(key);
  if (place == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, place->second);
  return place->second->second;
}

void RecordCache::Put(const std::string& key, KnownRecord known) {
  if (known.head == nullptr || ChunksOf(*known.head) > kMaxChunks) return Forget(key);
  auto entry = std::make_shared<const KnownRecord>(std::move(known));
  absl::MutexLock lock(&mu_);
  const auto place = places_.find(key);
  if (place != places_.end()) {
    place->second->second = std::move(entry);
    entries_.splice(entries_.begin(), entries_, place->second);
    return;
  }
  entries_.emplace_front(key, std::move(entry));
  places_[key] = entries_.begin();
  if (entries_.size() <= capacity_) return;
  places_.erase(entries_.back().first);
  entries_.pop_back();
}

void RecordCache::Forget(const std::string& key) {
  absl::MutexLock lock(&mu_);
  const auto place = places_.find(key);
  if (place == places_.end()) return;
  entries_.erase(place->second);
  places_.erase(place);
}

}  // namespace reprise::state_store::redis
