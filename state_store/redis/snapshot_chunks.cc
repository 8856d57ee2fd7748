#include "state_store/redis/snapshot_chunks.h"

#include <utility>

#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {

SnapshotChunks::SnapshotChunks(const Keys& keys, std::string_view tenant,
                               std::vector<std::string_view> chunks, std::vector<size_t> ends)
    : keys_(keys),
      tenant_(tenant),
      ends_(std::move(ends)),
      piece_of_(chunks.size()),
      namer_(tenant, std::move(chunks)) {
  for (const std::string_view chunk : namer_.chunks()) bytes_left_ += chunk.size();
}

absl::StatusOr<std::unique_ptr<SnapshotChunks>> SnapshotChunks::Create(
    const Keys& keys, std::string_view tenant, const std::vector<std::string_view>& payloads,
    const std::vector<SnapshotPart>& parts, uint32_t chunk_bytes, const SnapshotManifest* there) {
  std::vector<std::string_view> chunks;
  std::vector<size_t> ends;
  for (size_t p = 0; p < parts.size(); ++p) {
    const auto cut = CutIntoChunks(payloads[p], chunk_bytes);
    if (cut.size() > kMaxChunksPerPart) {
      return MakeStoreError(StoreError::kInvalidArgument,
                            Cat("part \"", parts[p].name, "\" has too many chunks"));
    }
    chunks.insert(chunks.end(), cut.begin(), cut.end());
    ends.push_back(chunks.size());
  }
  std::unique_ptr<SnapshotChunks> result(
      new SnapshotChunks(keys, tenant, std::move(chunks), std::move(ends)));
  if (there != nullptr) {
    for (const SnapshotPart& part : there->parts) {
      for (const ChunkRef& ref : part.chunks) result->there_[ref.digest] = &ref;
    }
  }
  return result;
}

void SnapshotChunks::Next(size_t bytes, size_t count, std::vector<ChunkPiece*>& fresh,
                          std::vector<ChunkPiece*>& known) {
  for (size_t named = 0, added = 0; !done() && added < count && named < bytes; ++next_) {
    const ChunkName& name = namer_.At(next_);
    const std::string_view raw = namer_.chunks()[next_];
    bytes_left_ -= raw.size();
    const auto [it, is_new] = index_.try_emplace(name.digest, pieces_.size());
    piece_of_[next_] = it->second;
    if (!is_new) continue;
    ChunkPiece& piece = pieces_.emplace_back();
    piece.key = keys_.Chunk(tenant_, name.digest);
    piece.ref.digest = name.digest;
    piece.ref.checksum = name.checksum;
    piece.raw = raw;
    piece.ref.raw_length = static_cast<uint32_t>(raw.size());
    named += raw.size();
    ++added;
    const auto at = there_.find(name.digest);
    const bool same = at != there_.end() && at->second->checksum == name.checksum;
    if (same) piece.ref = *at->second;
    (same ? known : fresh).push_back(&piece);
  }
}

void SnapshotChunks::Describe(std::vector<SnapshotPart>& parts) const {
  for (size_t p = 0, next = 0; p < parts.size(); ++p) {
    parts[p].chunks.clear();
    for (; next < ends_[p]; ++next) parts[p].chunks.push_back(pieces_[piece_of_[next]].ref);
  }
}

}  // namespace reprise::state_store::redis
