// state_store: bytes that last. Sessions and snapshots, in memory, on disk, later in Redis. Knows
// bytes and sessions, and nothing of models, devices or the wire.
//
//   ASSIGN_OR_RETURN(Session session, store->CreateSession(tenant, {.id = "chat-1"}));
//   ASSIGN_OR_RETURN(session, store->PutAndCommit(tenant, session.id, session.version, snapshot,
//   {})); ASSIGN_OR_RETURN(Session branch, store->Fork(tenant, {session.id}, {.id = "chat-1b"}));
//   ASSIGN_OR_RETURN(Snapshot state, store->ReadSnapshot(tenant, branch.id, ""));
#ifndef REPRISE_STATE_STORE_SESSION_STORE_H_
#define REPRISE_STATE_STORE_SESSION_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/byte_stream.h"
#include "state_store/session.h"
#include "state_store/snapshot.h"
#include "state_store/store_error.h"  // IWYU pragma: export

namespace reprise::state_store {

struct NewSessionOptions {
  std::string id{};        // empty: the store makes one up
  std::string model_id{};  // empty: taken from the first commit, or from the source of a fork
  absl::Duration ttl = absl::InfiniteDuration();  // > 0
  Labels labels{};
  std::string request_id{};  // not empty: a repeat returns the first result
};

struct SessionUpdate {
  std::optional<absl::Duration> ttl{};  // > 0, counted from now
  std::optional<Labels> labels{};       // replaces all of them
};

// Keeps a session for its caller alone, as far as the store can: see SessionStore::Hold.
class SessionHold {
 public:
  // Gives it back without waiting for anybody.
  virtual ~SessionHold() = default;
  // Gives it back before it returns, so that whoever hears of it next may have it. Blocks.
  virtual void Finish() {}
  // The shared store could not be asked: commits that must last will fail.
  virtual bool degraded() const { return false; }
};

// kAsync: in the store's memory or handed to the operating system; a crash of the machine may lose
// it. kSync: on stable storage, all legs of it, before the call returns.
enum class Durability { kAsync, kSync };

struct CommitOptions {
  Durability durability = Durability::kAsync;
  bool keep = false;         // retain this snapshot, as CreateSnapshot would
  std::string request_id{};  // not empty: a repeat returns the first result
  std::string note{};        // remembered with request_id for FindCommit, at most 256 bytes
  // The id that the snapshot gets: 32 hexadecimal digits that nobody else has. Empty: made up.
  std::string snapshot_id{};
  // For kSync: how many replicas must have it, 0..16. Negative: the store's default. Stores without
  // replicas refuse more than 0.
  int replicas = -1;
  std::string lease_token{};  // of a running lease (leases.h); empty: without one
  // The moment that the commit counts from, if it is past: when somebody acknowledged it before it
  // came here.
  absl::Time accepted = absl::InfiniteFuture();
  // Borrowed: what the caller got from Hold, and has kept since. Without it, or null, a store takes
  // what it needs for the call.
  const SessionHold* hold = nullptr;
};

// A commit that the store remembers by its request_id.
struct CommitRecord {
  Session session{};  // as the commit left it
  uint64_t expected_version = 0;
  std::string note{};
  bool waits = false;  // acknowledged, and not in the store yet
};

// What to fork from. An empty snapshot_id is the session's head.
struct ForkSource {
  std::string session_id{};
  std::string snapshot_id{};
};

struct PageRequest {
  int page_size = 0;         // 0: 100; at most 1000 are returned; negative is an error
  std::string page_token{};  // from the page before, or empty
};

struct SessionPage {
  std::vector<Session> sessions;  // ordered by id
  std::string next_page_token;    // empty: this was the last page
};

struct SnapshotPage {
  std::vector<SnapshotInfo> snapshots;  // oldest first
  std::string next_page_token;
};

struct StoreStats {
  uint64_t sessions = 0;
  uint64_t snapshots = 0;
  uint64_t chunks = 0;
  uint64_t logical_bytes = 0;  // of all snapshots, as if nothing were shared
  uint64_t stored_bytes = 0;   // of all chunks, after sharing and codec

  friend bool operator==(const StoreStats&, const StoreStats&) = default;
};

struct StoreUsage {
  uint64_t sessions = 0;
  uint64_t stored_bytes = 0;

  friend bool operator==(const StoreUsage&, const StoreUsage&) = default;
};

// Thread-safe; calls block. Each operation is one atomic step: it happens whole or not at all, and
// an error leaves everything as it was, except that an operation cut off by a failing device or a
// lost connection may turn out to have happened; repeat it with its request_id to learn which.
//
// `tenant` comes from a verified identity. Nothing is shared or visible across tenants: another
// tenant's session is SESSION_NOT_FOUND.
//
// A snapshot lives while a session has it as head, retains it, or was forked from it; then it and
// the chunks that nobody else names are deleted. From a session one sees these three kinds only.
// An empty snapshot_id means the session's head.
class SessionStore {
 public:
  virtual ~SessionStore() = default;

  virtual absl::StatusOr<Session> CreateSession(std::string_view tenant,
                                                const NewSessionOptions& options) = 0;
  virtual absl::StatusOr<Session> GetSession(std::string_view tenant,
                                             std::string_view session_id) = 0;
  virtual absl::StatusOr<SessionPage> ListSessions(std::string_view tenant,
                                                   const PageRequest& page) = 0;
  virtual absl::StatusOr<Session> UpdateSession(std::string_view tenant,
                                                std::string_view session_id,
                                                const SessionUpdate& update) = 0;
  // Forks of it live on.
  virtual absl::Status DeleteSession(std::string_view tenant, std::string_view session_id) = 0;

  // Compare-and-set: stores `snapshot` and makes it the head if the session's version is
  // `expected_version`, which then grows by one; otherwise ABORTED (kVersionMismatch).
  virtual absl::StatusOr<Session> PutAndCommit(std::string_view tenant, std::string_view session_id,
                                               uint64_t expected_version, const Snapshot& snapshot,
                                               const CommitOptions& options) = 0;

  // The same, for a store that may keep the bytes beyond the call.
  virtual absl::StatusOr<Session> CommitShared(std::string_view tenant, std::string_view session_id,
                                               uint64_t expected_version,
                                               std::shared_ptr<const Snapshot> snapshot,
                                               const CommitOptions& options) {
    return PutAndCommit(tenant, session_id, expected_version, *snapshot, options);
  }
  // What became of the commit under `request_id`; empty: there was none, or it is forgotten.
  virtual absl::StatusOr<std::optional<CommitRecord>> FindCommit(std::string_view tenant,
                                                                 std::string_view session_id,
                                                                 std::string_view request_id) = 0;

  // Retains the head. A repeat without a commit between changes nothing.
  virtual absl::StatusOr<SnapshotInfo> CreateSnapshot(std::string_view tenant,
                                                      std::string_view session_id) = 0;
  virtual absl::StatusOr<SnapshotInfo> GetSnapshot(std::string_view tenant,
                                                   std::string_view session_id,
                                                   std::string_view snapshot_id) = 0;
  // All bytes, each chunk verified: DATA_LOSS (kCorruptChunk) rather than a wrong byte.
  virtual absl::StatusOr<Snapshot> ReadSnapshot(std::string_view tenant,
                                                std::string_view session_id,
                                                std::string_view snapshot_id) = 0;
  // The same bytes, maybe shared with others who read them.
  virtual absl::StatusOr<SharedSnapshot> ReadShared(std::string_view tenant,
                                                    std::string_view session_id,
                                                    std::string_view snapshot_id) {
    absl::StatusOr<Snapshot> snapshot = ReadSnapshot(tenant, session_id, snapshot_id);
    if (!snapshot.ok()) return snapshot.status();
    return SharedSnapshot(std::make_shared<const Snapshot>(*std::move(snapshot)));
  }
  virtual absl::StatusOr<SnapshotPage> ListSnapshots(std::string_view tenant,
                                                     std::string_view session_id,
                                                     const PageRequest& page) = 0;
  // FAILED_PRECONDITION (kSnapshotIsHead) for the head. Bytes that a fork still uses stay for it.
  virtual absl::Status DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                                      std::string_view snapshot_id) = 0;

  // A new session whose head is `source`; writes no payload.
  virtual absl::StatusOr<Session> Fork(std::string_view tenant, const ForkSource& source,
                                       const NewSessionOptions& options) = 0;
  // Moves the head to one of the session's snapshots; compare-and-set as PutAndCommit.
  virtual absl::StatusOr<Session> Rewind(std::string_view tenant, std::string_view session_id,
                                         std::string_view snapshot_id, uint64_t expected_version,
                                         std::string_view request_id) = 0;

  // Writes one self-contained stream.
  virtual absl::Status ExportSnapshot(std::string_view tenant, std::string_view session_id,
                                      std::string_view snapshot_id, ByteSink& sink) = 0;
  // A new session whose head is the snapshot in `source`, now of this tenant and under a new id.
  // DATA_LOSS for a bad stream, which leaves nothing behind.
  virtual absl::StatusOr<Session> ImportSnapshot(std::string_view tenant,
                                                 const NewSessionOptions& options,
                                                 ByteSource& source) = 0;

  // Everything counted anew where others share the store: as long as the tenant has sessions.
  virtual absl::StatusOr<StoreStats> Stats(std::string_view tenant) = 0;
  // What the tenant takes, from counters that go along with each change: the same cost whatever it
  // has. While nothing is in progress these are the counts of Stats. Calls in progress count from
  // when they begin to store until they have let go; expired sessions until they are swept. Where
  // others share the store, what a crash or a lost failover left counts until garbage is collected.
  virtual absl::StatusOr<StoreUsage> Usage(std::string_view tenant) = 0;
  // Deletes the sessions whose `expires` <= now, of all tenants, and forgets old request ids.
  // Returns how many sessions.
  virtual absl::StatusOr<int64_t> SweepExpired(absl::Time now) = 0;
  // INTERNAL or DATA_LOSS with the first disagreement: reference counts = references, every chunk
  // that is named is there with its length, and no other. Meant for idle moments: calls
  // in progress may make it fail.
  virtual absl::Status CheckIntegrity() = 0;

  // Called before work on a session that is to end in commits; keep it until they are made. Null
  // where nobody else can come between. ABORTED (kSessionLeased) while another process has it.
  virtual absl::StatusOr<std::unique_ptr<SessionHold>> Hold(std::string_view tenant,
                                                            std::string_view session_id) {
    static_cast<void>(tenant), static_cast<void>(session_id);
    return nullptr;
  }
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_SESSION_STORE_H_
