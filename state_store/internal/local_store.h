// The embedded session store: index and chunk pool over a LocalBackend.
#ifndef REPRISE_STATE_STORE_INTERNAL_LOCAL_STORE_H_
#define REPRISE_STATE_STORE_INTERNAL_LOCAL_STORE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "state_store/internal/chunk_pool.h"
#include "state_store/internal/local_backend.h"
#include "state_store/internal/session_index.h"
#include "state_store/internal/session_plan.h"
#include "state_store/session_store.h"
#include "state_store/store_admin.h"
#include "state_store/store_options.h"

namespace reprise::state_store {

// INVALID_ARGUMENT names the option out of range.
absl::Status ValidateStoreOptions(const StoreOptions& options);

// 32 hexadecimal digits from the operating system's randomness.
std::string MakeFreshId();

absl::StatusOr<size_t> CheckedPageSize(const PageRequest& page);

// INVALID_ARGUMENT unless every part has a payload of the length that it says.
absl::Status CheckPayloads(const Snapshot& snapshot);

// The id of a new snapshot; INVALID_ARGUMENT unless `chosen` is empty or one that MakeFreshId
// makes.
absl::StatusOr<std::string> SnapshotIdOr(std::string_view chosen);

// Locks: commit_mu_ before mu_ before the pool's. Chunks are written and read under none of them;
// log records are written under commit_mu_ alone, so readers do not wait for the device.
class LocalStore : public SessionStore, public StoreAdmin {
 public:
  // `index` is what the backend's log says, `damaged` chunks of it that are missing. A positive
  // flush_interval starts a thread that flushes, collects and compacts.
  LocalStore(const StoreOptions& options, std::unique_ptr<LocalBackend> backend, SessionIndex index,
             const absl::flat_hash_set<Sha256Digest>& damaged, absl::Duration flush_interval);
  ~LocalStore() override;

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
  absl::StatusOr<std::vector<std::string>> ListTenants() override;
  absl::StatusOr<std::vector<std::string>> ListSessionIds(std::string_view tenant) override;
  absl::StatusOr<Session> RestoreSession(const SessionCopy& copy,
                                         const SnapshotReader& read) override;

 private:
  using Planner = std::function<absl::StatusOr<Plan>(const SessionIndex&)>;

  absl::Time Now() const;
  CommitRequest MakeRequest(std::string_view tenant, std::string_view session_id,
                            uint64_t expected_version, std::string_view request_id) const;

  // Plans, logs and applies: the one way that the index changes. The chunks of manifests that the
  // plan adds are pinned by the caller.
  absl::StatusOr<Session> Mutate(const Planner& planner, Durability durability)
      ABSL_LOCKS_EXCLUDED(commit_mu_, mu_);
  absl::Status LogAndApply(const Mutation& mutation, Durability durability)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Compact() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_) ABSL_LOCKS_EXCLUDED(mu_);

  // A visible snapshot with its chunks pinned.
  absl::StatusOr<std::shared_ptr<const SnapshotManifest>> PinSnapshot(std::string_view tenant,
                                                                      std::string_view session_id,
                                                                      std::string_view snapshot_id,
                                                                      ChunkPins& pins)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status StorePart(std::string_view tenant, std::string_view bytes, SnapshotPart& part,
                         ChunkPins& pins);
  // Reads a whole export stream into the pool.
  absl::StatusOr<SnapshotManifest> ReceiveStream(std::string_view tenant, ByteSource& source,
                                                 ChunkPins& pins);
  void RunFlusher(absl::Duration interval);

  const StoreOptions options_;
  const std::string page_key_;
  const std::unique_ptr<LocalBackend> backend_;
  ChunkPool pool_;
  absl::Mutex commit_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  absl::Mutex mu_;
  SessionIndex index_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread flusher_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_LOCAL_STORE_H_
