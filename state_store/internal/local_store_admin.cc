// LocalStore: what only tools need.
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/local_store.h"

namespace reprise::state_store {

absl::StatusOr<std::vector<std::string>> LocalStore::ListTenants() {
  std::vector<std::string> names;
  absl::ReaderMutexLock lock(&mu_);
  for (const auto& [name, tenant] : index_.tenants()) names.push_back(name);
  return names;
}

absl::StatusOr<std::vector<std::string>> LocalStore::ListSessionIds(std::string_view tenant) {
  std::vector<std::string> ids;
  absl::ReaderMutexLock lock(&mu_);
  if (const TenantEntry* entry = index_.FindTenant(tenant)) {
    for (const auto& [id, session] : entry->sessions) ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<Session> LocalStore::RestoreSession(const SessionCopy& copy,
                                                   const SnapshotReader& read) {
  RETURN_IF_ERROR(ValidateSessionCopy(copy));
  const std::string& tenant = copy.session.tenant;
  absl::StatusOr<Session> result = [&]() -> absl::StatusOr<Session> {
    ChunkPins pins(pool_);
    std::vector<std::shared_ptr<const SnapshotManifest>> manifests;
    for (const SnapshotInfo& info : copy.snapshots) {
      const std::string& id = info.manifest.snapshot_id;
      {
        absl::ReaderMutexLock lock(&mu_);
        if (index_.FindSnapshot(tenant, id) != nullptr) {
          manifests.push_back(nullptr);
          continue;
        }
      }
      ASSIGN_OR_RETURN(const Snapshot snapshot, read(id));
      RETURN_IF_ERROR(CheckPayloads(snapshot));
      auto manifest = std::make_shared<SnapshotManifest>(snapshot.manifest);
      for (size_t i = 0; i < manifest->parts.size(); ++i) {
        manifest->parts[i].chunks.clear();
        RETURN_IF_ERROR(StorePart(tenant, snapshot.payloads[i], manifest->parts[i], pins));
      }
      RETURN_IF_ERROR(ValidateManifest(*manifest));
      manifests.push_back(std::move(manifest));
    }
    return Mutate(
        [&](const SessionIndex& index) { return PlanRestore(index, copy, manifests, Now()); },
        Durability::kSync);
  }();
  if (!result.ok()) pool_.Collect();
  return result;
}

}  // namespace reprise::state_store
