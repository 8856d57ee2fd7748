// LocalStore: snapshots by name, statistics, sweeping, integrity.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/page_token.h"
#include "state_store/internal/validate.h"

namespace reprise::state_store {

absl::StatusOr<SnapshotInfo> LocalStore::CreateSnapshot(std::string_view tenant,
                                                        std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const Session session, Mutate(
                                              [&](const SessionIndex& index) {
                                                return PlanRetainHead(index, tenant, session_id,
                                                                      Now());
                                              },
                                              Durability::kAsync));
  return GetSnapshot(tenant, session_id, session.head_snapshot_id);
}

absl::StatusOr<SnapshotInfo> LocalStore::GetSnapshot(std::string_view tenant,
                                                     std::string_view session_id,
                                                     std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  absl::ReaderMutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index_, tenant, session_id, Now()));
  ASSIGN_OR_RETURN(const SnapshotEntry* snapshot, FindVisible(index_, *entry, snapshot_id));
  return MakeInfo(*entry, *snapshot);
}

absl::StatusOr<std::shared_ptr<const SnapshotManifest>> LocalStore::PinSnapshot(
    std::string_view tenant, std::string_view session_id, std::string_view snapshot_id,
    ChunkPins& pins) {
  absl::ReaderMutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index_, tenant, session_id, Now()));
  ASSIGN_OR_RETURN(const SnapshotEntry* snapshot, FindVisible(index_, *entry, snapshot_id));
  for (const SnapshotPart& part : snapshot->manifest->parts) {
    for (const ChunkRef& ref : part.chunks) pool_.Pin(ref, pins);
  }
  return snapshot->manifest;
}

absl::StatusOr<Snapshot> LocalStore::ReadSnapshot(std::string_view tenant,
                                                  std::string_view session_id,
                                                  std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  Snapshot snapshot;
  ChunkPins pins(pool_);
  ASSIGN_OR_RETURN(const auto manifest, PinSnapshot(tenant, session_id, snapshot_id, pins));
  snapshot.manifest = *manifest;
  for (const SnapshotPart& part : manifest->parts) {
    std::string bytes;
    bytes.reserve(part.byte_length);
    for (const ChunkRef& ref : part.chunks) {
      absl::StatusOr<std::string> raw = pool_.Read(ref);
      if (!raw.ok()) return Prefixed(raw.status(), Cat("part \"", part.name, "\""));
      bytes += *raw;
    }
    snapshot.payloads.push_back(std::move(bytes));
  }
  if (!options_.read_as_stored) RETURN_IF_ERROR(DecodeLossy(snapshot));
  return snapshot;
}

absl::StatusOr<SnapshotPage> LocalStore::ListSnapshots(std::string_view tenant,
                                                       std::string_view session_id,
                                                       const PageRequest& page) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const size_t size, CheckedPageSize(page));
  const std::string scope = Cat("snapshots/", tenant.size(), "/", tenant, "/", session_id);
  uint64_t after = 0;
  if (!page.page_token.empty()) {
    ASSIGN_OR_RETURN(const std::string cursor, ReadPageToken(page_key_, scope, page.page_token));
    if (!absl::SimpleAtoi(cursor, &after)) {
      return MakeStoreError(StoreError::kInvalidPageToken, "page token has no position");
    }
  }
  SnapshotPage result;
  absl::ReaderMutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index_, tenant, session_id, Now()));
  std::map<uint64_t, std::string_view> visible(entry->retained.begin(), entry->retained.end());
  const auto add = [&](const std::string& id) ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    if (id.empty()) return;
    visible.emplace(index_.FindSnapshot(tenant, id)->order, id);
  };
  add(entry->session.head_snapshot_id);
  if (entry->holds_origin) add(entry->session.parent_snapshot_id);
  uint64_t last = 0;
  for (auto it = visible.upper_bound(after); it != visible.end(); ++it) {
    if (result.snapshots.size() == size) {
      result.next_page_token = MakePageToken(page_key_, scope, Cat(last));
      break;
    }
    last = it->first;
    result.snapshots.push_back(MakeInfo(*entry, *index_.FindSnapshot(tenant, it->second)));
  }
  return result;
}

absl::Status LocalStore::DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                                        std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  return Mutate(
             [&](const SessionIndex& index) {
               return PlanDeleteSnapshot(index, tenant, session_id, snapshot_id, Now());
             },
             Durability::kAsync)
      .status();
}

absl::StatusOr<StoreStats> LocalStore::Stats(std::string_view tenant) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  StoreStats stats;
  absl::ReaderMutexLock lock(&mu_);
  if (const TenantEntry* entry = index_.FindTenant(tenant)) {
    stats.sessions = entry->sessions.size();
    stats.snapshots = entry->snapshots.size();
    stats.chunks = entry->chunks.size();
    stats.logical_bytes = entry->logical_bytes;
    stats.stored_bytes = entry->stored_bytes;
  }
  return stats;
}

absl::StatusOr<StoreUsage> LocalStore::Usage(std::string_view tenant) {
  ASSIGN_OR_RETURN(const StoreStats stats, Stats(tenant));
  return StoreUsage{stats.sessions, stats.stored_bytes};
}

absl::StatusOr<int64_t> LocalStore::SweepExpired(absl::Time now) {
  std::vector<std::pair<std::string, std::string>> expired;
  {
    absl::ReaderMutexLock lock(&mu_);
    for (const auto& [name, tenant] : index_.tenants()) {
      for (const auto& [id, entry] : tenant.sessions) {
        if (entry.session.expires <= now) expired.emplace_back(name, id);
      }
    }
  }
  int64_t swept = 0;
  for (const auto& [tenant, id] : expired) {
    bool erased = false;
    RETURN_IF_ERROR(
        Mutate(
            [&, &tenant = tenant, &id = id](const SessionIndex& index) -> absl::StatusOr<Plan> {
              // Someone may have given it more time, or deleted it, since the list was made.
              const SessionEntry* entry = index.FindSession(tenant, id);
              if (entry == nullptr || entry->session.expires > now) return Plan{};
              erased = true;
              return PlanDelete(index, tenant, id);
            },
            Durability::kAsync)
            .status());
    swept += erased;
  }
  RETURN_IF_ERROR(Mutate(
                      [&](const SessionIndex& index) -> absl::StatusOr<Plan> {
                        return Plan{PlanForgetRequests(index, now - options_.request_id_ttl), {}};
                      },
                      Durability::kAsync)
                      .status());
  return swept;
}

absl::Status LocalStore::CheckIntegrity() {
  absl::MutexLock commit_lock(&commit_mu_);
  absl::flat_hash_map<Sha256Digest, ChunkRef> named;
  {
    absl::ReaderMutexLock lock(&mu_);
    RETURN_IF_ERROR(index_.CheckCounts());
    for (const auto& [name, tenant] : index_.tenants()) {
      for (const auto& [digest, chunk] : tenant.chunks) named.emplace(digest, chunk.ref);
    }
  }
  return pool_.Check(named);
}

}  // namespace reprise::state_store
