// A session: a durable conversation, as every backend keeps it.
#ifndef REPRISE_STATE_STORE_SESSION_H_
#define REPRISE_STATE_STORE_SESSION_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

using Labels = std::map<std::string, std::string>;

struct Session {
  std::string tenant;
  std::string id;
  uint64_t version = 0;          // 1 when created; +1 with each commit and rewind, nothing else
  std::string head_snapshot_id;  // empty: nothing committed yet
  uint64_t position = 0;         // of the head
  uint64_t token_count = 0;      // of the head
  std::string model_id;          // may be empty until the first commit; then it does not change
  absl::Time created;
  absl::Time updated;                             // last change of any kind
  absl::Duration ttl = absl::InfiniteDuration();  // infinite: does not expire
  absl::Time expires = absl::InfiniteFuture();  // ttl after the last create, commit, rewind, update
  Labels labels;
  std::string parent_session_id;   // set when forked; names only, the parent may be gone
  std::string parent_snapshot_id;  // the fork's origin, kept alive for Rewind while the fork lives

  friend bool operator==(const Session&, const Session&) = default;
};

// A snapshot as seen from one session.
struct SnapshotInfo {
  SnapshotManifest manifest;
  bool is_head = false;    // of that session
  bool retained = false;   // named by that session: survives when the head moves on
  bool is_origin = false;  // the session was forked from it
};

// [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?
bool IsValidSessionId(std::string_view id);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_SESSION_H_
