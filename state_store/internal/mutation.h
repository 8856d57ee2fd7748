// A change of the index, as one log record. It names results, not requests: applying it needs no
// clock, no options and no decision, so a log replays to the same index on every build.
#ifndef REPRISE_STATE_STORE_INTERNAL_MUTATION_H_
#define REPRISE_STATE_STORE_INTERNAL_MUTATION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/session.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

// Numbers are frozen: they are in logs.
enum class RequestKind : uint8_t { kCreate = 1, kFork = 2, kImport = 3, kCommit = 4, kRewind = 5 };

// A finished request, kept so that a repeat gets the first answer.
struct RequestRecord {
  RequestKind kind = RequestKind::kCreate;
  std::string request_id;
  std::string session_id;  // of commits and rewinds; of the others the session that they made
  uint64_t expected_version = 0;
  std::string argument;  // what a repeat must name again: source of a fork, target of a rewind
  absl::Time time;
  Session result;
};

// Creates the session or replaces it.
struct PutSession {
  Session session;
  bool holds_origin = false;  // keeps session.parent_snapshot_id alive
};
struct EraseSession {
  std::string tenant, session_id;
};
// `order` rises with each snapshot of a store.
struct PutSnapshot {
  uint64_t order = 0;
  std::shared_ptr<const SnapshotManifest> manifest;
};
struct EraseSnapshot {
  std::string tenant, snapshot_id;
};
struct Retain {
  std::string tenant, session_id, snapshot_id;
};
struct Unretain {
  std::string tenant, session_id, snapshot_id;
};
struct PutRequest {
  std::string tenant;
  RequestRecord record;
};
struct EraseRequest {
  std::string tenant;
  RequestKind kind;
  std::string session_id, request_id;
};

using Op = std::variant<PutSession, EraseSession, PutSnapshot, EraseSnapshot, Retain, Unretain,
                        PutRequest, EraseRequest>;

// Happens whole or not at all. Empty: the mark of a clean close.
struct Mutation {
  std::vector<Op> ops;
};

// INVALID_ARGUMENT if a manifest cannot be encoded.
absl::StatusOr<std::string> EncodeMutation(const Mutation& mutation);
// DATA_LOSS (kCorruptIndex, kCorruptManifest) with field and offset.
absl::StatusOr<Mutation> DecodeMutation(std::string_view bytes);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_MUTATION_H_
