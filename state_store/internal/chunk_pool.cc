#include "state_store/internal/chunk_pool.h"

#include <utility>

#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store {

ChunkPins::~ChunkPins() { pool_.Unpin(digests_); }

void ChunkPool::Adopt(const ChunkRef& ref, bool damaged) {
  absl::MutexLock lock(&mu_);
  Entry& entry = entries_[ref.digest];
  entry.ref = ref;
  entry.present = true;
  entry.committed = true;
  entry.damaged = damaged;
  used_bytes_ += ref.stored_length;
}

bool ChunkPool::PinOrClaim(ChunkRef& ref, bool& heal, ChunkPins& pins) {
  absl::MutexLock lock(&mu_);
  const auto settled = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    const auto it = entries_.find(ref.digest);
    return it == entries_.end() || !it->second.removing;
  };
  mu_.Await(absl::Condition(&settled));
  Entry& entry = entries_[ref.digest];
  ++entry.pins;
  pins.digests_.push_back(ref.digest);
  heal = entry.present && entry.damaged;
  if (entry.present) ref = entry.ref;
  return entry.present && !heal;
}

absl::Status ChunkPool::Reserve(uint64_t bytes) {
  for (int attempt = 0;; ++attempt) {
    {
      absl::MutexLock lock(&mu_);
      const uint64_t cap = options_.max_stored_bytes;
      if (cap == 0 || (used_bytes_ <= cap && bytes <= cap - used_bytes_)) {
        used_bytes_ += bytes;
        return absl::OkStatus();
      }
      if (attempt == 1) {
        return MakeStoreError(StoreError::kStoreFull, Cat("store holds ", used_bytes_, " of ", cap,
                                                          " bytes, ", bytes, " more do not fit"));
      }
    }
    // Garbage may only be waiting for its record to reach the device.
    RETURN_IF_ERROR(backend_.Flush());
    Collect();
  }
}

absl::StatusOr<ChunkRef> ChunkPool::Store(std::string_view tenant, std::string_view raw,
                                          ChunkPins& pins) {
  ChunkRef ref;
  ref.digest = ChunkDigest(tenant, raw);
  bool heal = false;
  if (PinOrClaim(ref, heal, pins)) return ref;

  ASSIGN_OR_RETURN(const EncodedChunk encoded,
                   EncodeChunk(raw, heal ? ref.codec : options_.codec, options_.zstd_level));
  const std::string_view stored = encoded.codec == ChunkCodec::kRaw ? raw : encoded.stored;
  if (heal) {
    // Manifests describe the old bytes, so only equal ones can take their place.
    if (encoded.codec != ref.codec || stored.size() != ref.stored_length) {
      return MakeStoreError(
          StoreError::kCorruptChunk,
          Cat("chunk ", HexDigest(ref.digest), " is damaged and cannot be written as it was"));
    }
    RETURN_IF_ERROR(backend_.PutChunk(ref.digest, stored));
    absl::MutexLock lock(&mu_);
    entries_[ref.digest].damaged = false;
    return ref;
  }
  ref.raw_length = static_cast<uint32_t>(raw.size());
  ref.stored_length = static_cast<uint32_t>(stored.size());
  ref.codec = encoded.codec;
  ref.checksum = Checksum64(raw);
  RETURN_IF_ERROR(Reserve(ref.stored_length));
  const absl::Status put = backend_.PutChunk(ref.digest, stored);
  absl::MutexLock lock(&mu_);
  Entry& entry = entries_[ref.digest];
  // Two callers may write the same bytes at once; the second finds it present.
  if (!put.ok() || entry.present) used_bytes_ -= ref.stored_length;
  RETURN_IF_ERROR(put);
  if (!entry.present) {
    entry.ref = ref;
    entry.present = true;
  }
  return entry.ref;
}

void ChunkPool::Pin(const ChunkRef& ref, ChunkPins& pins) {
  absl::MutexLock lock(&mu_);
  ++entries_[ref.digest].pins;
  pins.digests_.push_back(ref.digest);
}

void ChunkPool::Unpin(const std::vector<Sha256Digest>& digests) {
  absl::MutexLock lock(&mu_);
  for (const Sha256Digest& digest : digests) {
    const auto it = entries_.find(digest);
    Entry& entry = it->second;
    --entry.pins;
    if (!Idle(entry)) continue;
    if (entry.present) {
      garbage_.push_back(digest);
    } else {
      entries_.erase(it);
    }
  }
}

absl::StatusOr<std::string> ChunkPool::Read(const ChunkRef& ref) {
  absl::StatusOr<std::string> stored = backend_.GetChunk(ref);
  absl::StatusOr<std::string> raw =
      stored.ok() ? DecodeChunk(*std::move(stored), ref) : stored.status();
  if (GetStoreError(raw.status()) == StoreError::kCorruptChunk) {
    absl::MutexLock lock(&mu_);
    entries_[ref.digest].damaged = true;
  }
  return raw;
}

void ChunkPool::Commit(const SnapshotManifest& manifest) {
  absl::MutexLock lock(&mu_);
  for (const SnapshotPart& part : manifest.parts) {
    for (const ChunkRef& ref : part.chunks) entries_[ref.digest].committed = true;
  }
}

void ChunkPool::Free(const std::vector<ChunkRef>& refs, uint64_t record) {
  absl::MutexLock lock(&mu_);
  for (const ChunkRef& ref : refs) {
    Entry& entry = entries_[ref.digest];
    entry.committed = false;
    entry.free_after = record;
    if (Idle(entry)) garbage_.push_back(ref.digest);
  }
}

void ChunkPool::Collect() {
  // A record that failed may still lie in the log, and come back with a crash: it needs its chunks.
  if (backend_.compaction() == Compaction::kRequired) return;
  absl::MutexLock collect_lock(&collect_mu_);
  std::vector<Sha256Digest> doomed;
  const uint64_t durable = backend_.durable();
  {
    absl::MutexLock lock(&mu_);
    std::vector<Sha256Digest> later;
    for (const Sha256Digest& digest : garbage_) {
      const auto it = entries_.find(digest);
      if (it == entries_.end() || it->second.removing || !Idle(it->second)) continue;
      if (it->second.free_after > durable) {
        later.push_back(digest);
        continue;
      }
      it->second.removing = true;
      doomed.push_back(digest);
    }
    garbage_ = std::move(later);
  }
  for (const Sha256Digest& digest : doomed) {
    const absl::Status removed = backend_.RemoveChunk(digest);
    absl::MutexLock lock(&mu_);
    const auto it = entries_.find(digest);
    if (removed.ok()) {
      used_bytes_ -= it->second.ref.stored_length;
      entries_.erase(it);
    } else {
      it->second.removing = false;
      garbage_.push_back(digest);
    }
  }
}

absl::Status ChunkPool::Check(const absl::flat_hash_map<Sha256Digest, ChunkRef>& committed) {
  absl::MutexLock collect_lock(&collect_mu_);
  ASSIGN_OR_RETURN(const std::vector<StoredChunk> stored, backend_.ListChunks());
  absl::MutexLock lock(&mu_);
  uint64_t used = 0, named = 0;
  for (const auto& [digest, entry] : entries_) {
    const std::string name = Cat("chunk ", HexDigest(digest));
    if (entry.pins != 0) return absl::InternalError(Cat(name, " is pinned"));
    if (entry.committed != committed.contains(digest)) {
      return absl::InternalError(Cat(name, " is free here and named there, or the reverse"));
    }
    named += entry.committed;
    used += entry.ref.stored_length;
  }
  if (named != committed.size()) return absl::InternalError("manifests name unknown chunks");
  if (used != used_bytes_) {
    return absl::InternalError(Cat("chunks have ", used, " bytes, counted ", used_bytes_));
  }
  for (const StoredChunk& chunk : stored) {
    const auto it = entries_.find(chunk.digest);
    if (it == entries_.end()) {
      return absl::InternalError(Cat("chunk ", HexDigest(chunk.digest), " is left over"));
    }
    if (chunk.length != it->second.ref.stored_length) {
      return MakeStoreError(StoreError::kCorruptChunk,
                            Cat("chunk ", HexDigest(chunk.digest), " has ", chunk.length,
                                " bytes, not ", it->second.ref.stored_length));
    }
  }
  if (stored.size() != entries_.size()) {
    return MakeStoreError(StoreError::kCorruptChunk,
                          Cat(entries_.size() - stored.size(), " chunks are missing"));
  }
  return absl::OkStatus();
}

}  // namespace reprise::state_store
