// StoreImpl: what only tools need.
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_impl.h"

namespace reprise::state_store::redis {

absl::StatusOr<std::vector<std::string>> StoreImpl::ListTenants() { return Tenants(NewDeadline()); }

absl::StatusOr<std::vector<std::string>> StoreImpl::ListSessionIds(std::string_view tenant) {
  std::vector<std::string> ids;
  for (;;) {
    ASSIGN_OR_RETURN(const std::vector<std::string> page,
                     ListedAfter(tenant, ids.empty() ? "" : ids.back(), 1000, NewDeadline()));
    if (page.empty()) return ids;
    ids.insert(ids.end(), page.begin(), page.end());
  }
}

absl::StatusOr<Session> StoreImpl::RestoreSession(const SessionCopy& copy,
                                                  const SnapshotReader& read) {
  RETURN_IF_ERROR(ValidateSessionCopy(copy));
  const Session& session = copy.session;
  const std::string& tenant = session.tenant;
  const std::string key = keys_.Session(tenant, session.id);
  ASSIGN_OR_RETURN(const Loaded target, Load(tenant, session.id, Wanted{}, NewDeadline()));
  if (target.exists && target.record.session.expires > Now()) {
    return MakeStoreError(StoreError::kSessionExists,
                          Cat("session \"", session.id, "\" is there already"));
  }
  SessionRecord record;
  record.uid = NewToken();
  Change change;
  change.expected_rev = target.rev;
  change.new_rev = NewToken();
  change.replace = true;
  std::vector<std::pair<PinUse, std::shared_ptr<const SnapshotManifest>>> pinned;
  Replication replication = ReplicationFor({.durability = Durability::kSync});
  bool in_doubt = false;
  // Each step has its own time, for a session may have many snapshots.
  const absl::Status restored = [&]() -> absl::Status {
    Mutation mutation;
    for (const SnapshotInfo& info : copy.snapshots) {
      ASSIGN_OR_RETURN(const Snapshot snapshot, read(info.manifest.snapshot_id));
      RETURN_IF_ERROR(CheckPayloads(snapshot));
      auto manifest = std::make_shared<SnapshotManifest>(snapshot.manifest);
      const PinUse use{NewToken(), NewToken()};
      Replication chunks = replication;
      ASSIGN_OR_RETURN(const uint64_t stamp,
                       chunks_.Store({tenant, session.id, use.pin, use.user, NewDeadline()},
                                     {snapshot.payloads.begin(), snapshot.payloads.end()},
                                     manifest->parts, &chunks));
      pinned.emplace_back(use, manifest);
      RETURN_IF_ERROR(CheckReplicas(chunks));
      if (stamp != 0 && (change.oldest_pin == 0 || stamp < change.oldest_pin)) {
        change.oldest_pin = stamp;
      }
      ASSIGN_OR_RETURN(const FieldChanges fields,
                       ApplyToRecord({{PutSnapshot{0, manifest}}}, key, use, record));
      // The manifest's field comes first, then those of the record as it is so far.
      change.fields.sets.push_back(fields.sets.front());
      record.holds_origin = record.holds_origin || info.is_origin;
      if (info.retained) {
        mutation.ops.push_back(Retain{tenant, session.id, info.manifest.snapshot_id});
      }
    }
    mutation.ops.push_back(PutSession{session, record.holds_origin});
    ASSIGN_OR_RETURN(const FieldChanges fields, ApplyToRecord(mutation, key, {}, record));
    change.fields.sets.insert(change.fields.sets.end(), fields.sets.begin(), fields.sets.end());
    const Deadline deadline = NewDeadline();
    RETURN_IF_ERROR(AddToLists(tenant, session.id, session.expires, deadline));
    const absl::StatusOr<ApplyResult> applied =
        Apply(tenant, session.id, change, deadline, &replication);
    in_doubt = GetOutcome(applied.status()) == Outcome::kUnknown;
    RETURN_IF_ERROR(applied.status());
    if (applied->what == Applied::kStalePins) {
      return MakeRedisError(RedisError::kUnready, Outcome::kNotDone,
                            "it took so long that the first pins are too old; again, it is faster");
    }
    if (applied->what == Applied::kConflict) {
      in_doubt = applied->unsure;
      return MakeStoreError(StoreError::kSessionExists,
                            Cat("session \"", session.id, "\" has just been made"));
    }
    in_doubt = true;  // there, whatever the replicas say
    LetGo(tenant, session.id, target.record.snapshots, applied->let_go, deadline);
    return CheckReplicas(replication);
  }();
  if (restored.ok()) return session;
  if (!in_doubt) {
    for (const auto& [use, manifest] : pinned) {
      chunks_.Unpin({tenant, session.id, use.pin, use.user, NewDeadline()}, *manifest);
    }
  }
  return restored;
}

}  // namespace reprise::state_store::redis
