// What only tools need of a store: see clients/cli/admin.cc.
#ifndef REPRISE_STATE_STORE_STORE_ADMIN_H_
#define REPRISE_STATE_STORE_STORE_ADMIN_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "state_store/session_store.h"

namespace reprise::state_store {

// A session as it is in one store, to be made in another.
struct SessionCopy {
  Session session;
  std::vector<SnapshotInfo> snapshots;  // all that it sees, oldest first
};

// Gives a snapshot of a copy with its bytes, as they are stored (StoreOptions::read_as_stored).
using SnapshotReader = std::function<absl::StatusOr<Snapshot>(const std::string& snapshot_id)>;

// Memory, disk and Redis stores are also this. Thread-safe; calls block.
class StoreAdmin {
 public:
  virtual ~StoreAdmin() = default;

  // Those that have, or had, sessions; in order.
  virtual absl::StatusOr<std::vector<std::string>> ListTenants() = 0;
  // All of a tenant, in order: also those that have expired or cannot be read.
  virtual absl::StatusOr<std::vector<std::string>> ListSessionIds(std::string_view tenant) = 0;

  // Makes the session with the id, version, times and snapshots that it has elsewhere, on stable
  // storage, in one step: before it nothing is to be seen but chunks. Remembered request ids do not
  // come along. ALREADY_EXISTS (kSessionExists) if there is a session of that id.
  virtual absl::StatusOr<Session> RestoreSession(const SessionCopy& copy,
                                                 const SnapshotReader& read) = 0;
};

// INVALID_ARGUMENT unless the session's ids are valid, and its head and origin among the snapshots.
absl::Status ValidateSessionCopy(const SessionCopy& copy);

// All of one session.
absl::StatusOr<SessionCopy> DescribeSession(SessionStore& store, std::string_view tenant,
                                            std::string_view session_id);

enum class CopyOutcome { kCopied, kAlreadyThere };

// Brings a session from one store to another and reads it back there, checksums and all. Both
// stores must read as stored. May be broken off and repeated at any time: a session is there whole
// or not, and one that is there as it is in `from` is not copied again. ALREADY_EXISTS if there is
// another of its name; ABORTED if it kept changing meanwhile.
absl::StatusOr<CopyOutcome> CopySession(SessionStore& from, SessionStore& to,
                                        std::string_view tenant, std::string_view session_id);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_STORE_ADMIN_H_
