// What each operation does to the index: pure functions from the index and a request to a mutation
// and an answer. Whoever applies the mutation must have kept the index unchanged since.
#ifndef REPRISE_STATE_STORE_INTERNAL_SESSION_PLAN_H_
#define REPRISE_STATE_STORE_INTERNAL_SESSION_PLAN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/internal/session_index.h"
#include "state_store/store_admin.h"

namespace reprise::state_store {

struct Plan {
  Mutation mutation;  // empty when a repeated request gets its first answer
  Session session;
};

// A session that is there and has not expired: NOT_FOUND otherwise.
absl::StatusOr<const SessionEntry*> FindLive(const SessionIndex& index, std::string_view tenant,
                                             std::string_view session_id, absl::Time now);

// A snapshot that `session` may see: its head, retained or origin. An empty id is the head.
absl::StatusOr<const SnapshotEntry*> FindVisible(const SessionIndex& index,
                                                 const SessionEntry& session,
                                                 std::string_view snapshot_id);

SnapshotInfo MakeInfo(const SessionEntry& session, const SnapshotEntry& snapshot);

// Where the head of a new session comes from.
struct Origin {
  RequestKind kind = RequestKind::kCreate;
  ForkSource source{};                                 // of a fork
  std::shared_ptr<const SnapshotManifest> imported{};  // of an import; has its final ids
};

// `fresh_id` is used if the options name none.
absl::StatusOr<Plan> PlanCreate(const SessionIndex& index, std::string_view tenant,
                                const NewSessionOptions& options, const Origin& origin,
                                std::string_view fresh_id, absl::Time now);
// `manifests[i]`, of copy.snapshots[i], may be null if the index has that snapshot: ABORTED
// (kVersionMismatch) if it has not.
absl::StatusOr<Plan> PlanRestore(
    const SessionIndex& index, const SessionCopy& copy,
    const std::vector<std::shared_ptr<const SnapshotManifest>>& manifests, absl::Time now);
absl::StatusOr<Plan> PlanUpdate(const SessionIndex& index, std::string_view tenant,
                                std::string_view session_id, const SessionUpdate& update,
                                absl::Time now);
absl::StatusOr<Plan> PlanDelete(const SessionIndex& index, std::string_view tenant,
                                std::string_view session_id);

struct CommitRequest {
  std::string_view tenant;
  std::string_view session_id;
  uint64_t expected_version = 0;
  std::string_view request_id;
  int max_requests = 1;  // remembered per session
  absl::Time now;
  std::string_view note{};  // of a commit
};
// With a null manifest only checks the request: an empty mutation and, when it is a repeat
// (session.version != 0), the first answer.
absl::StatusOr<Plan> PlanCommit(const SessionIndex& index, const CommitRequest& request,
                                std::string_view model_id,
                                std::shared_ptr<const SnapshotManifest> manifest, bool keep);
// What is remembered of a commit; empty if nothing is.
absl::StatusOr<std::optional<CommitRecord>> FindRemembered(const SessionIndex& index,
                                                           std::string_view tenant,
                                                           std::string_view session_id,
                                                           std::string_view request_id,
                                                           absl::Time now);
absl::StatusOr<Plan> PlanRewind(const SessionIndex& index, const CommitRequest& request,
                                std::string_view snapshot_id);

absl::StatusOr<Plan> PlanRetainHead(const SessionIndex& index, std::string_view tenant,
                                    std::string_view session_id, absl::Time now);
absl::StatusOr<Plan> PlanDeleteSnapshot(const SessionIndex& index, std::string_view tenant,
                                        std::string_view session_id, std::string_view snapshot_id,
                                        absl::Time now);

// Forgets the requests older than `before`, of all tenants.
Mutation PlanForgetRequests(const SessionIndex& index, absl::Time before);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_SESSION_PLAN_H_
