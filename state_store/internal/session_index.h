// The index of all sessions and snapshots: a state machine in memory that moves by mutations.
#ifndef REPRISE_STATE_STORE_INTERNAL_SESSION_INDEX_H_
#define REPRISE_STATE_STORE_INTERNAL_SESSION_INDEX_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "state_store/internal/mutation.h"
#include "state_store/session_store.h"

namespace reprise::state_store {

struct SnapshotEntry {
  uint64_t order = 0;
  uint64_t refs = 0;  // sessions that have it as head, retain it or hold it as origin, each counted
  std::shared_ptr<const SnapshotManifest> manifest;
};

struct ChunkEntry {
  uint64_t refs = 0;  // places in manifests
  ChunkRef ref;
};

struct SessionEntry {
  Session session;
  bool holds_origin = false;
  std::map<uint64_t, std::string> retained;  // order -> snapshot id
  std::vector<RequestRecord> requests;       // commits and rewinds, oldest first
};

struct TenantEntry {
  std::map<std::string, SessionEntry, std::less<>> sessions;
  std::map<std::string, SnapshotEntry, std::less<>> snapshots;
  absl::flat_hash_map<Sha256Digest, ChunkEntry> chunks;
  std::vector<RequestRecord> creations;  // creates, forks and imports, oldest first
  uint64_t logical_bytes = 0;
  uint64_t stored_bytes = 0;
};

// Not thread-safe.
class SessionIndex {
 public:
  // Chunks that the mutation left without references are appended to `freed`. DATA_LOSS
  // (kCorruptIndex) for a mutation that does not fit, after which the index is not to be used: on
  // replay the log is damaged, in a running store it is our bug.
  absl::Status Apply(const Mutation& mutation, std::vector<ChunkRef>* freed);

  // Null if there is none; an expired session is one like any other here.
  const TenantEntry* FindTenant(std::string_view tenant) const;
  const SessionEntry* FindSession(std::string_view tenant, std::string_view session_id) const;
  const SnapshotEntry* FindSnapshot(std::string_view tenant, std::string_view snapshot_id) const;
  const ChunkEntry* FindChunk(std::string_view tenant, const Sha256Digest& digest) const;

  const std::map<std::string, TenantEntry, std::less<>>& tenants() const { return tenants_; }
  uint64_t last_order() const { return last_order_; }

  // Mutations that bring an empty index to this state, each of moderate size.
  std::vector<Mutation> Dump() const;

  // Recounts every reference. INTERNAL with the first disagreement.
  absl::Status CheckCounts() const;

 private:
  absl::Status ApplyOp(const PutSession& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const EraseSession& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const PutSnapshot& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const EraseSnapshot& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const Retain& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const Unretain& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const PutRequest& op, std::vector<ChunkRef>* freed);
  absl::Status ApplyOp(const EraseRequest& op, std::vector<ChunkRef>* freed);

  // Adds `delta` to a snapshot's references; an empty id is nobody.
  static absl::Status Refer(TenantEntry& tenant, std::string_view snapshot_id, int delta);

  std::map<std::string, TenantEntry, std::less<>> tenants_;
  uint64_t last_order_ = 0;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_SESSION_INDEX_H_
