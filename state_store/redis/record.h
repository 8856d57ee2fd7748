// A session as it lies in Redis: the fields of its hash.
//
// - rev, version, head, position, expires: plain text; all but rev for people and kReadSession
// - done: the rev of the last change, written last
// - r: the record, that is session, snapshots with their pins, ids of remembered requests
// - m:<snapshot>: a manifest (docs/snapshot-format.md)
// - q:<kind>:<id>: a remembered commit or rewind, with its answer
// - f: what the creation was answered with, if it had a request id
// - lease_token, lease_until, lease_owner: see leases.h
//
// r, m, q and f are sealed: a checksum over key, field and value stands before the value, so that a
// flipped bit, or a value under another name, is an error and never an answer.
#ifndef REPRISE_STATE_STORE_REDIS_RECORD_H_
#define REPRISE_STATE_STORE_REDIS_RECORD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/internal/mutation.h"
#include "state_store/internal/session_index.h"
#include "state_store/session.h"
#include "state_store/snapshot.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {

// What holds the chunks of a snapshot for a session: see chunk_table.h. 32 hexadecimal digits each.
struct PinUse {
  std::string pin;
  std::string user;  // empty in records of version 1, whose pins have one user and no hold

  friend bool operator==(const PinUse&, const PinUse&) = default;
};

// A snapshot that the session has as head, retains or was forked from.
struct SnapshotRow {
  uint64_t order = 0;
  std::string id;
  bool retained = false;
  PinUse use;

  friend bool operator==(const SnapshotRow&, const SnapshotRow&) = default;
};

struct RequestRow {
  RequestKind kind = RequestKind::kCommit;
  uint64_t order = 0;
  std::string request_id;

  friend bool operator==(const RequestRow&, const RequestRow&) = default;
};

struct SessionRecord {
  Session session;
  bool holds_origin = false;
  std::string uid;          // of this session among those of its name: 32 hexadecimal digits
  uint64_t next_order = 1;  // of snapshots and requests
  std::vector<SnapshotRow> snapshots;
  std::vector<RequestRow> requests;

  const SnapshotRow* FindSnapshot(std::string_view id) const;
};

std::string Seal(std::string_view key, std::string_view field, std::string_view value);
// DATA_LOSS with `error`.
absl::StatusOr<std::string_view> Unseal(std::string_view key, std::string_view field,
                                        std::string_view sealed, StoreError error);

std::string ManifestField(std::string_view snapshot_id);
std::string RequestField(RequestKind kind, std::string_view request_id);

absl::StatusOr<std::string> EncodeRecord(const SessionRecord& record);
absl::StatusOr<SessionRecord> DecodeRecord(std::string_view bytes);
absl::StatusOr<std::string> EncodeRequest(std::string_view tenant, const RequestRecord& record);
absl::StatusOr<RequestRecord> DecodeRequest(std::string_view bytes);
absl::StatusOr<std::string> EncodeSession(const Session& session);
absl::StatusOr<Session> DecodeSession(std::string_view bytes);

using Manifests = std::map<std::string, std::shared_ptr<const SnapshotManifest>>;
using Requests = std::map<std::pair<RequestKind, std::string>, RequestRecord>;

// Puts a session into `index`, where the planners of session_plan.h find it. A snapshot that is not
// in `manifests` stands there by its name only, and so do requests.
absl::Status AddToIndex(const SessionRecord& record, const Manifests& manifests,
                        const Requests& requests, SessionIndex& index);

// What a planned mutation changes in a session's hash.
struct FieldChanges {
  std::vector<std::string> deletes;
  std::vector<std::pair<std::string, std::string>> sets;  // sealed
  std::vector<SnapshotRow> dropped;
};

// Carries out the ops that concern `record` on it, and adds the record itself to the changes.
// Snapshots that come in are held by `use`.
absl::StatusOr<FieldChanges> ApplyToRecord(const Mutation& mutation, std::string_view key,
                                           const PinUse& use, SessionRecord& record);

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_RECORD_H_
