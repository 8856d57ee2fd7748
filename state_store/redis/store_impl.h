// RedisStore as it is. redis_store.cc has the changes, store_commit.cc commits, store_reads.cc the
// reads, store_create.cc
// what makes sessions, store_sweep.cc lists and expiry, store_integrity.cc the check of everything,
// store_garbage.cc what crashes leave.
#ifndef REPRISE_STATE_STORE_REDIS_STORE_IMPL_H_
#define REPRISE_STATE_STORE_REDIS_STORE_IMPL_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "state_store/internal/session_plan.h"
#include "state_store/redis/chunk_table.h"
#include "state_store/redis/keys.h"
#include "state_store/redis/record.h"
#include "state_store/redis/record_cache.h"
#include "state_store/redis/redis_store.h"

namespace reprise::state_store::redis {

// Which of a session's fields a call needs beside the record.
struct Wanted {
  bool head = false;  // the head's manifest
  std::vector<std::string> snapshots{};
  std::optional<std::pair<RequestKind, std::string>> request{};
  bool creation = false;
};

// A session as it was at one moment.
struct Loaded {
  bool exists = false;
  std::string rev{};
  SessionRecord record{};
  Manifests manifests{};
  Requests requests{};
  std::optional<Session> creation{};
};

// One compare-and-set of a session's record.
struct Change {
  std::string expected_rev{};
  std::string new_rev{};  // empty: delete
  bool replace = false;
  uint64_t oldest_pin = 0;
  std::string token =
      "*";  // of a lease; empty: moves the session without one; "*": does not move it
  FieldChanges fields{};
};

enum class Applied { kDone, kConflict, kStalePins };

struct ApplyResult {
  Applied what = Applied::kDone;
  bool unsure = false;  // an earlier try of the same change may have been carried out
  bool gone = false;    // with kConflict: there is no such session now
  Manifests let_go{};
};

class StoreImpl final : public RedisStore {
 public:
  StoreImpl(const RedisStoreOptions& options, std::unique_ptr<Client> client, bool is_cluster);
  ~StoreImpl() override;

  absl::StatusOr<Session> CreateSession(std::string_view tenant,
                                        const NewSessionOptions& options) override;
  absl::StatusOr<Session> GetSession(std::string_view tenant, std::string_view session_id) override;
  absl::StatusOr<SessionPage> ListSessions(std::string_view tenant,
                                           const PageRequest& page) override;
  absl::StatusOr<Session> UpdateSession(std::string_view tenant, std::string_view session_id,
                                        const SessionUpdate& update) override;
  absl::Status DeleteSession(std::string_view tenant, std::string_view session_id) override;
  absl::StatusOr<Session> PutAndCommit(std::string_view tenant, std::string_view session_id,
                                       uint64_t expected_version, const Snapshot& snapshot,
                                       const CommitOptions& options) override;
  absl::StatusOr<std::optional<CommitRecord>> FindCommit(std::string_view tenant,
                                                         std::string_view session_id,
                                                         std::string_view request_id) override;
  absl::StatusOr<SnapshotInfo> CreateSnapshot(std::string_view tenant,
                                              std::string_view session_id) override;
  absl::StatusOr<SnapshotInfo> GetSnapshot(std::string_view tenant, std::string_view session_id,
                                           std::string_view snapshot_id) override;
  absl::StatusOr<Snapshot> ReadSnapshot(std::string_view tenant, std::string_view session_id,
                                        std::string_view snapshot_id) override;
  absl::StatusOr<SnapshotPage> ListSnapshots(std::string_view tenant, std::string_view session_id,
                                             const PageRequest& page) override;
  absl::Status DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                              std::string_view snapshot_id) override;
  absl::StatusOr<Session> Fork(std::string_view tenant, const ForkSource& source,
                               const NewSessionOptions& options) override;
  absl::StatusOr<Session> Rewind(std::string_view tenant, std::string_view session_id,
                                 std::string_view snapshot_id, uint64_t expected_version,
                                 std::string_view request_id) override;
  absl::Status ExportSnapshot(std::string_view tenant, std::string_view session_id,
                              std::string_view snapshot_id, ByteSink& sink) override;
  absl::StatusOr<Session> ImportSnapshot(std::string_view tenant, const NewSessionOptions& options,
                                         ByteSource& source) override;
  absl::StatusOr<StoreStats> Stats(std::string_view tenant) override;
  absl::StatusOr<StoreUsage> Usage(std::string_view tenant) override;
  absl::StatusOr<int64_t> SweepExpired(absl::Time now) override;
  absl::Status CheckIntegrity() override;

  absl::StatusOr<Lease> AcquireLease(std::string_view tenant, std::string_view session_id,
                                     std::string_view owner, absl::Duration length) override;
  absl::StatusOr<Lease> RenewLease(std::string_view tenant, std::string_view session_id,
                                   const Lease& lease, absl::Duration length) override;
  absl::Status ReleaseLease(std::string_view tenant, std::string_view session_id,
                            const Lease& lease) override;
  absl::StatusOr<GarbageReport> CollectGarbage() override;
  absl::StatusOr<std::vector<std::string>> ListTenants() override;
  absl::StatusOr<std::vector<std::string>> ListSessionIds(std::string_view tenant) override;
  absl::StatusOr<Session> RestoreSession(const SessionCopy& copy,
                                         const SnapshotReader& read) override;
  std::pair<int, int> ConnectionCounts() const override { return client_->ConnectionCounts(); }

 private:
  using Planner = std::function<absl::StatusOr<Plan>(const SessionIndex&)>;
  struct Creation;
  struct Claim;
  struct Commit;
  struct AtOnce;
  struct Walk;
  struct Garbage;
  // Of a tenant.
  struct Counters {
    int64_t bytes = 0, moved = 0;
  };
  // A chunk as it lies in Redis.
  struct Inspected {
    std::string header{};
    uint64_t length = 0;
    uint64_t now = 0;                           // the server's, in microseconds
    std::map<std::string, std::string> pins{};  // with stamp and session
  };
  struct Release {
    Deadline due;
    std::string tenant, session_id;
    PinUse use;
    std::shared_ptr<const SnapshotManifest> manifest;
  };

  absl::Time Now() const;
  Deadline LeaseDeadline(absl::Duration length) const;
  Deadline NewDeadline() const { return DeadlineAfter(options_.operation_timeout); }
  CommitRequest MakeRequest(std::string_view tenant, std::string_view session_id,
                            uint64_t expected_version, std::string_view request_id) const;

  // DATA_LOSS (kCorruptIndex, kCorruptManifest) for damaged fields.
  absl::StatusOr<Loaded> Load(std::string_view tenant, std::string_view session_id,
                              const Wanted& wanted, Deadline deadline);
  absl::Status ReadFields(std::string_view key, const std::vector<std::string>& fields,
                          const std::vector<Reply>& values, Loaded& loaded) const;
  // Without decoding lossy parts.
  absl::StatusOr<Snapshot> ReadStored(std::string_view tenant, std::string_view session_id,
                                      std::string_view snapshot_id);
  // Of the embedded store that writes and reads export streams for us.
  StoreOptions OptionsForCopies() const;
  // With the manifest of `snapshot_id`, or of the head if that is empty; NOT_FOUND and so on as the
  // planners say, and the index that they look at.
  absl::StatusOr<Loaded> LoadVisible(std::string_view tenant, std::string_view session_id,
                                     std::string_view snapshot_id, Deadline deadline,
                                     SnapshotInfo* info);

  absl::StatusOr<ApplyResult> Apply(std::string_view tenant, std::string_view session_id,
                                    const Change& change, Deadline deadline,
                                    Replication* replication);
  std::vector<std::string> ApplyArguments(const Change& change) const;
  absl::StatusOr<ApplyResult> ReadApplied(const std::string& key, std::string_view session_id,
                                          const Answer& answer) const;
  // Loads, plans and applies until the revision holds. `change` brings pins and token. The first
  // try goes by `known` instead, if it is not null.
  absl::StatusOr<Session> Mutate(std::string_view tenant, std::string_view session_id,
                                 const Wanted& wanted, const Planner& planner, const PinUse& use,
                                 const Change& change, Deadline deadline,
                                 Replication* replication = nullptr, bool* stale_pins = nullptr,
                                 const Loaded* known = nullptr);
  // Chunks, record and what is let go of in one round trip, going by the record as it was last
  // seen. Nothing if that cannot be, or did not work out: then commit.unsure says whether it may
  // have been carried out all the same.
  absl::StatusOr<std::optional<Session>> CommitAtOnce(Commit& commit);
  absl::Status PlanAtOnce(const Commit& commit, const PinUse& use, const PreparedChunks& prepared,
                          AtOnce& plan, std::vector<Command>& commands) const;
  absl::Status Complete(Commit& commit, const Snapshot& snapshot) const;
  absl::StatusOr<Session> CommitInSteps(Commit& commit);
  void Remember(const std::string& key, const std::string& rev, const SessionRecord& record,
                const Manifests& manifests);
  // For a repeated request with kSync: its answer counts only once the replicas have it too.
  absl::Status WaitForReplicas(std::string_view tenant, std::string_view session_id,
                               Replication replication, Deadline deadline);
  Replication ReplicationFor(const CommitOptions& options) const;
  absl::Status CheckReplicas(const Replication& replication) const;

  absl::StatusOr<Lease> RunLease(std::string_view tenant, std::string_view session_id,
                                 std::vector<std::string> arguments, std::string owner,
                                 Deadline deadline);
  absl::Status EraseDamaged(std::string_view tenant, std::string_view session_id,
                            Deadline deadline);

  // What a session does not name any more.
  void LetGo(std::string_view tenant, std::string_view session_id,
             const std::vector<SnapshotRow>& rows, const Manifests& manifests, Deadline deadline);
  void ReleaseDue(bool all);

  // Makes a session: see store_create.cc.
  absl::StatusOr<Session> Make(Creation& creation);
  absl::StatusOr<Session> TryMake(Creation& creation, Claim& claim);
  absl::StatusOr<uint64_t> PinOrigin(std::string_view tenant, std::string_view session_id,
                                     const SessionRecord& source, const SnapshotManifest& manifest,
                                     Deadline deadline, PinUse& use);
  absl::StatusOr<std::optional<Session>> ReadClaim(const Creation& creation, Claim& claim);
  absl::StatusOr<bool> TakeClaim(const Creation& creation, Claim& claim);
  void FinishClaim(const Creation& creation, Claim& claim, const Session* result);

  // The tenants' lists: see store_sweep.cc.
  absl::Status AddToLists(std::string_view tenant, std::string_view session_id, absl::Time expires,
                          Deadline deadline);
  absl::Status RemoveFromLists(std::string_view tenant, std::string_view session_id,
                               Deadline deadline);
  absl::StatusOr<std::vector<std::string>> ListedAfter(std::string_view tenant,
                                                       std::string_view after, size_t count,
                                                       Deadline deadline);
  absl::StatusOr<std::vector<std::string>> Tenants(Deadline deadline);
  absl::StatusOr<int64_t> SweepTenant(const std::string& tenant, absl::Time now);
  absl::Status ForgetCreations(const std::string& tenant, absl::Time before);
  // All keys of a pattern, in no order, each maybe more than once.
  absl::Status Scan(const std::string& pattern,
                    const std::function<absl::Status(const std::vector<std::string>&)>& visit);
  absl::Status LoadAll(std::string_view key, Loaded& loaded, Deadline deadline);
  absl::Status WalkSessions(Walk& walk);
  absl::StatusOr<std::vector<Inspected>> Inspect(const std::vector<std::string>& keys,
                                                 Deadline deadline);
  absl::Status CheckChunks(const std::vector<std::string>& keys, Walk& walk);
  absl::Status CheckHolds(const Walk& walk);
  absl::Status CheckCounters(const Walk& walk);
  absl::Status CollectHolds(const std::vector<std::string>& keys, Garbage& garbage);
  absl::Status CollectPins(const std::vector<std::string>& keys, Garbage& garbage);
  absl::Status FindNamers(Garbage& garbage);
  // Whether a pin that is old may be in use.
  absl::StatusOr<bool> IsNamed(const std::string& tenant, const std::string& pin, Garbage& garbage);
  absl::StatusOr<Counters> ReadCounters(std::string_view tenant, Deadline deadline);
  absl::Status CorrectCounters(Garbage& garbage);
  absl::Status RepairLists(GarbageReport& report);
  // Fields that no record names: what a torn log of Redis brings back.
  absl::Status DropUnnamedFields(const std::vector<std::string>& keys, GarbageReport& report);

  const RedisStoreOptions options_;
  const std::string page_key_;
  const Keys keys_;
  const std::unique_ptr<Client> client_;
  ChunkTable chunks_;
  const bool is_cluster_;
  const absl::Duration release_delay_;
  RecordCache records_;
  absl::Mutex mu_;
  std::deque<Release> releases_ ABSL_GUARDED_BY(mu_);  // by due
};

// Why a script refused because of a lease; OK if that was not the reason.
absl::Status LeaseRefusal(const std::vector<Reply>& reply, std::string_view session_id);

// A change may have been carried out, and then been followed by another's.
absl::Status LostAnswer(std::string_view session_id);

// 32 hexadecimal digits nobody else has: revisions, pins, uids.
std::string NewToken();

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_STORE_IMPL_H_
