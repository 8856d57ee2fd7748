#include "state_store/internal/session_index.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"

namespace reprise::state_store {
namespace {

absl::Status Misfit(std::string_view what, std::string_view id) {
  return MakeStoreError(StoreError::kCorruptIndex, Cat("record: ", what, " \"", id, "\""));
}

bool IsCreation(RequestKind kind) {
  return kind == RequestKind::kCreate || kind == RequestKind::kFork || kind == RequestKind::kImport;
}

}  // namespace

absl::Status SessionIndex::Apply(const Mutation& mutation, std::vector<ChunkRef>* freed) {
  for (const Op& op : mutation.ops) {
    RETURN_IF_ERROR(std::visit([&](const auto& o) { return ApplyOp(o, freed); }, op));
  }
  return absl::OkStatus();
}

absl::Status SessionIndex::Refer(TenantEntry& tenant, std::string_view snapshot_id, int delta) {
  if (snapshot_id.empty()) return absl::OkStatus();
  const auto it = tenant.snapshots.find(snapshot_id);
  if (it == tenant.snapshots.end()) return Misfit("refers to a missing snapshot", snapshot_id);
  if (delta < 0 && it->second.refs == 0) return Misfit("lets go of a free snapshot", snapshot_id);
  it->second.refs += delta;
  return absl::OkStatus();
}

absl::Status SessionIndex::ApplyOp(const PutSession& op, std::vector<ChunkRef>*) {
  TenantEntry& tenant = tenants_[op.session.tenant];
  SessionEntry& entry = tenant.sessions[op.session.id];
  if (op.session.version < entry.session.version) return Misfit("version goes back", op.session.id);
  // Take before letting go, so that a count does not pass through zero.
  RETURN_IF_ERROR(Refer(tenant, op.session.head_snapshot_id, +1));
  if (op.holds_origin) RETURN_IF_ERROR(Refer(tenant, op.session.parent_snapshot_id, +1));
  RETURN_IF_ERROR(Refer(tenant, entry.session.head_snapshot_id, -1));
  if (entry.holds_origin) RETURN_IF_ERROR(Refer(tenant, entry.session.parent_snapshot_id, -1));
  entry.session = op.session;
  entry.holds_origin = op.holds_origin;
  return absl::OkStatus();
}

absl::Status SessionIndex::ApplyOp(const EraseSession& op, std::vector<ChunkRef>*) {
  TenantEntry& tenant = tenants_[op.tenant];
  const auto it = tenant.sessions.find(op.session_id);
  if (it == tenant.sessions.end()) return Misfit("erases a missing session", op.session_id);
  const SessionEntry& entry = it->second;
  RETURN_IF_ERROR(Refer(tenant, entry.session.head_snapshot_id, -1));
  if (entry.holds_origin) RETURN_IF_ERROR(Refer(tenant, entry.session.parent_snapshot_id, -1));
  for (const auto& [order, id] : entry.retained) RETURN_IF_ERROR(Refer(tenant, id, -1));
  tenant.sessions.erase(it);
  return absl::OkStatus();
}

absl::Status SessionIndex::ApplyOp(const PutSnapshot& op, std::vector<ChunkRef>*) {
  const SnapshotManifest& manifest = *op.manifest;
  TenantEntry& tenant = tenants_[manifest.tenant];
  SnapshotEntry& entry = tenant.snapshots[manifest.snapshot_id];
  if (entry.manifest != nullptr) return Misfit("snapshot is there twice", manifest.snapshot_id);
  entry.order = op.order;
  entry.manifest = op.manifest;
  last_order_ = std::max(last_order_, op.order);
  tenant.logical_bytes += manifest.LogicalBytes();
  for (const SnapshotPart& part : manifest.parts) {
    for (const ChunkRef& ref : part.chunks) {
      ChunkEntry& chunk = tenant.chunks[ref.digest];
      if (chunk.refs++ == 0) {
        chunk.ref = ref;
        tenant.stored_bytes += ref.stored_length;
      } else if (!(chunk.ref == ref)) {
        return Misfit("two descriptions of chunk", HexDigest(ref.digest));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SessionIndex::ApplyOp(const EraseSnapshot& op, std::vector<ChunkRef>* freed) {
  TenantEntry& tenant = tenants_[op.tenant];
  const auto it = tenant.snapshots.find(op.snapshot_id);
  if (it == tenant.snapshots.end()) return Misfit("erases a missing snapshot", op.snapshot_id);
  if (it->second.refs != 0) return Misfit("erases a snapshot in use", op.snapshot_id);
  const SnapshotManifest& manifest = *it->second.manifest;
  tenant.logical_bytes -= manifest.LogicalBytes();
  for (const SnapshotPart& part : manifest.parts) {
    for (const ChunkRef& ref : part.chunks) {
      const auto chunk = tenant.chunks.find(ref.digest);
      if (--chunk->second.refs != 0) continue;
      tenant.stored_bytes -= ref.stored_length;
      freed->push_back(ref);
      tenant.chunks.erase(chunk);
    }
  }
  tenant.snapshots.erase(it);
  return absl::OkStatus();
}

absl::Status SessionIndex::ApplyOp(const Retain& op, std::vector<ChunkRef>*) {
  TenantEntry& tenant = tenants_[op.tenant];
  const auto session = tenant.sessions.find(op.session_id);
  const auto snapshot = tenant.snapshots.find(op.snapshot_id);
  if (session == tenant.sessions.end() || snapshot == tenant.snapshots.end()) {
    return Misfit("retains what is missing", op.snapshot_id);
  }
  if (!session->second.retained.emplace(snapshot->second.order, op.snapshot_id).second) {
    return Misfit("retains twice", op.snapshot_id);
  }
  return Refer(tenant, op.snapshot_id, +1);
}

absl::Status SessionIndex::ApplyOp(const Unretain& op, std::vector<ChunkRef>*) {
  TenantEntry& tenant = tenants_[op.tenant];
  const auto session = tenant.sessions.find(op.session_id);
  const auto snapshot = tenant.snapshots.find(op.snapshot_id);
  if (session == tenant.sessions.end() || snapshot == tenant.snapshots.end() ||
      session->second.retained.erase(snapshot->second.order) == 0) {
    return Misfit("lets go of what it does not retain", op.snapshot_id);
  }
  return Refer(tenant, op.snapshot_id, -1);
}

absl::Status SessionIndex::ApplyOp(const PutRequest& op, std::vector<ChunkRef>*) {
  TenantEntry& tenant = tenants_[op.tenant];
  if (IsCreation(op.record.kind)) {
    tenant.creations.push_back(op.record);
    return absl::OkStatus();
  }
  const auto session = tenant.sessions.find(op.record.session_id);
  if (session == tenant.sessions.end())
    return Misfit("request of a missing session", op.record.session_id);
  session->second.requests.push_back(op.record);
  return absl::OkStatus();
}

absl::Status SessionIndex::ApplyOp(const EraseRequest& op, std::vector<ChunkRef>*) {
  TenantEntry& tenant = tenants_[op.tenant];
  std::vector<RequestRecord>* records = &tenant.creations;
  if (!IsCreation(op.kind)) {
    const auto session = tenant.sessions.find(op.session_id);
    if (session == tenant.sessions.end())
      return Misfit("request of a missing session", op.session_id);
    records = &session->second.requests;
  }
  const auto it = std::find_if(records->begin(), records->end(), [&](const RequestRecord& r) {
    return r.kind == op.kind && r.request_id == op.request_id;
  });
  if (it == records->end()) return Misfit("erases a missing request", op.request_id);
  records->erase(it);
  return absl::OkStatus();
}

const TenantEntry* SessionIndex::FindTenant(std::string_view tenant) const {
  const auto it = tenants_.find(tenant);
  return it == tenants_.end() ? nullptr : &it->second;
}

const SessionEntry* SessionIndex::FindSession(std::string_view tenant,
                                              std::string_view session_id) const {
  const TenantEntry* entry = FindTenant(tenant);
  if (entry == nullptr) return nullptr;
  const auto it = entry->sessions.find(session_id);
  return it == entry->sessions.end() ? nullptr : &it->second;
}

const SnapshotEntry* SessionIndex::FindSnapshot(std::string_view tenant,
                                                std::string_view snapshot_id) const {
  const TenantEntry* entry = FindTenant(tenant);
  if (entry == nullptr) return nullptr;
  const auto it = entry->snapshots.find(snapshot_id);
  return it == entry->snapshots.end() ? nullptr : &it->second;
}

const ChunkEntry* SessionIndex::FindChunk(std::string_view tenant,
                                          const Sha256Digest& digest) const {
  const TenantEntry* entry = FindTenant(tenant);
  if (entry == nullptr) return nullptr;
  const auto it = entry->chunks.find(digest);
  return it == entry->chunks.end() ? nullptr : &it->second;
}

std::vector<Mutation> SessionIndex::Dump() const {
  std::vector<Mutation> dump;
  for (const auto& [name, tenant] : tenants_) {
    for (const auto& [id, snapshot] : tenant.snapshots) {
      dump.push_back({{PutSnapshot{snapshot.order, snapshot.manifest}}});
    }
    for (const auto& [id, entry] : tenant.sessions) {
      Mutation mutation{{PutSession{entry.session, entry.holds_origin}}};
      for (const auto& [order, snapshot_id] : entry.retained) {
        mutation.ops.push_back(Retain{name, id, snapshot_id});
      }
      for (const RequestRecord& record : entry.requests) {
        mutation.ops.push_back(PutRequest{name, record});
      }
      dump.push_back(std::move(mutation));
    }
    for (const RequestRecord& record : tenant.creations) {
      dump.push_back({{PutRequest{name, record}}});
    }
  }
  return dump;
}

absl::Status SessionIndex::CheckCounts() const {
  for (const auto& [name, tenant] : tenants_) {
    std::map<std::string_view, uint64_t> snapshot_refs;
    for (const auto& [id, entry] : tenant.sessions) {
      if (!entry.session.head_snapshot_id.empty()) ++snapshot_refs[entry.session.head_snapshot_id];
      if (entry.holds_origin) ++snapshot_refs[entry.session.parent_snapshot_id];
      for (const auto& [order, snapshot_id] : entry.retained) ++snapshot_refs[snapshot_id];
    }
    absl::flat_hash_map<Sha256Digest, uint64_t> chunk_refs;
    uint64_t logical = 0, stored = 0;
    for (const auto& [id, entry] : tenant.snapshots) {
      const uint64_t refs = snapshot_refs[id];
      if (refs == 0 || refs != entry.refs) {
        return absl::InternalError(
            Cat("snapshot ", id, " of ", name, ": ", refs, " references, counted ", entry.refs));
      }
      logical += entry.manifest->LogicalBytes();
      for (const SnapshotPart& part : entry.manifest->parts) {
        for (const ChunkRef& ref : part.chunks) ++chunk_refs[ref.digest];
      }
    }
    if (snapshot_refs.size() != tenant.snapshots.size()) {
      return absl::InternalError(Cat("sessions of ", name, " name snapshots that are missing"));
    }
    for (const auto& [digest, entry] : tenant.chunks) {
      if (entry.refs != chunk_refs[digest]) {
        return absl::InternalError(Cat("chunk ", HexDigest(digest), ": ", chunk_refs[digest],
                                       " references, counted ", entry.refs));
      }
      stored += entry.ref.stored_length;
    }
    if (chunk_refs.size() != tenant.chunks.size() || logical != tenant.logical_bytes ||
        stored != tenant.stored_bytes) {
      return absl::InternalError(Cat("byte counts of ", name, " are off"));
    }
  }
  return absl::OkStatus();
}

}  // namespace reprise::state_store
