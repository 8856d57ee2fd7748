#include "state_store/tiers/host_cache.h"

#include <algorithm>
#include <memory>

namespace reprise::state_store {
namespace {

// Map nodes, manifest fields and what a chunk costs in the index, roughly.
constexpr uint64_t kEntryBytes = 1024;
constexpr uint64_t kPartBytes = 256;
constexpr uint64_t kChunkBytes = 160;

uint64_t CountBytes(const SharedSnapshot& snapshot) {
  uint64_t bytes = kEntryBytes;
  for (const std::string& payload : *snapshot.payloads) bytes += payload.size();
  for (const SnapshotPart& part : snapshot.manifest->parts) {
    bytes += kPartBytes + kChunkBytes * part.chunks.size();
  }
  for (const auto& [name, leg] : snapshot.manifest->legs) bytes += name.size() + leg.size();
  return bytes;
}

}  // namespace

template <typename Visit>
void HostCache::ForEachChunk(const std::string& tenant, const SharedSnapshot& snapshot,
                             Visit visit) {
  const std::vector<SnapshotPart>& parts = snapshot.manifest->parts;
  for (size_t p = 0; p < parts.size() && p < snapshot.payloads->size(); ++p) {
    const std::string_view payload = (*snapshot.payloads)[p];
    size_t offset = 0;
    for (const ChunkRef& ref : parts[p].chunks) {
      // A manifest that does not fit its payloads names nothing that can be found here.
      if (ref.raw_length > payload.size() - offset) break;
      visit(ChunkKey(tenant, ref.digest), payload.substr(offset, ref.raw_length));
      offset += ref.raw_length;
    }
  }
}

void HostCache::Renew(Entries::value_type& entry) {
  by_value_.erase({entry.second.value, &entry.first});
  entry.second.value = clock_ + entry.second.cost_per_byte;
  by_value_.emplace(entry.second.value, &entry.first);
}

void HostCache::Remove(Entries::iterator entry) {
  ForEachChunk(entry->first.first, entry->second.snapshot,
               [&](const ChunkKey& key, std::string_view) {
                 const auto place = chunks_.find(key);
                 if (place != chunks_.end() && place->second.owner == &entry->first) {
                   chunks_.erase(place);
                 }
               });
  by_value_.erase({entry->second.value, &entry->first});
  stats_.bytes -= entry->second.bytes;
  entries_.erase(entry);
}

std::optional<SharedSnapshot> HostCache::Find(std::string_view tenant,
                                              std::string_view snapshot_id) {
  absl::MutexLock lock(&mu_);
  const auto entry = entries_.find(Key(tenant, snapshot_id));
  if (entry == entries_.end()) {
    ++stats_.misses;
    return std::nullopt;
  }
  ++stats_.hits;
  Renew(*entry);
  return entry->second.snapshot;
}

bool HostCache::Has(std::string_view tenant, std::string_view snapshot_id) const {
  absl::MutexLock lock(&mu_);
  return entries_.count(Key(tenant, snapshot_id)) != 0;
}

void HostCache::Put(std::string_view tenant, SharedSnapshot snapshot, absl::Duration load_cost) {
  const uint64_t bytes = CountBytes(snapshot);
  const Key key(tenant, snapshot.manifest->snapshot_id);
  absl::MutexLock lock(&mu_);
  if (const auto old = entries_.find(key); old != entries_.end()) Remove(old);
  if (bytes > max_bytes_) return;
  while (stats_.bytes + bytes > max_bytes_) {
    const auto [value, cheapest] = *by_value_.begin();
    clock_ = std::max(clock_, value);
    ++stats_.evictions;
    Remove(entries_.find(*cheapest));
  }
  const auto entry = entries_.emplace(key, Entry{std::move(snapshot), bytes}).first;
  stats_.bytes += bytes;
  entry->second.cost_per_byte = absl::ToDoubleMicroseconds(load_cost) / static_cast<double>(bytes);
  Renew(*entry);
  ForEachChunk(key.first, entry->second.snapshot, [&](ChunkKey chunk, std::string_view raw) {
    chunks_.try_emplace(std::move(chunk), Place{&entry->first, raw});
  });
}

void HostCache::Erase(std::string_view tenant, std::string_view snapshot_id) {
  absl::MutexLock lock(&mu_);
  const auto entry = entries_.find(Key(tenant, snapshot_id));
  if (entry != entries_.end()) Remove(entry);
}

SharedBytes HostCache::FindChunk(std::string_view tenant, const ChunkRef& ref) {
  absl::MutexLock lock(&mu_);
  const auto place = chunks_.find(ChunkKey(tenant, ref.digest));
  if (place == chunks_.end() || place->second.bytes.size() != ref.raw_length) return {};
  const auto entry = entries_.find(*place->second.owner);
  ++stats_.chunk_hits;
  Renew(*entry);
  return {entry->second.snapshot.payloads, place->second.bytes};
}

HostCacheStats HostCache::stats() const {
  absl::MutexLock lock(&mu_);
  HostCacheStats stats = stats_;
  stats.snapshots = entries_.size();
  return stats;
}

}  // namespace reprise::state_store
