// A store in front of a slower one: a host cache of states, ASYNC commits that are written behind,
// and the leases under which a process works on sessions that it shares with others.
//
//   ASSIGN_OR_RETURN(auto store, TieredStore::Create(options, {std::move(redis), leases, cache}));
//   ASSIGN_OR_RETURN(auto hold, store->Hold(tenant, id));       // nobody else moves it now
//   ASSIGN_OR_RETURN(Session session, store->GetSession(tenant, id));
//   ASSIGN_OR_RETURN(SharedSnapshot state, store->ReadShared(tenant, id,
//   session.head_snapshot_id));
//   ... store->CommitShared(tenant, id, session.version, next, {}) ...
//
// What is true about a session stands in the backend, with two exceptions: commits that wait to be
// written are read from the queue, and while the backend cannot be reached, what was last seen of a
// session whose state is in the cache. Everything else asks the backend on each call: a read gets
// the manifest from there, which says which snapshot is meant, and takes only the bytes from the
// cache, where a snapshot's id stands for its bytes for ever. So another replica's commit is seen
// by the next call. A backend that stores lossily gives something else than what was committed: the
// cache and the queue give just that, so that it is the same from everywhere. docs/durability.md
// says what this costs and what may be lost.
#ifndef REPRISE_STATE_STORE_TIERS_TIERED_STORE_H_
#define REPRISE_STATE_STORE_TIERS_TIERED_STORE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "state_store/leases.h"
#include "state_store/lossy.h"
#include "state_store/session_store.h"
#include "state_store/tiers/commit_queue.h"
#include "state_store/tiers/host_cache.h"
#include "state_store/tiers/lease_keeper.h"

namespace reprise::state_store {

struct TieredStoreOptions {
  CommitQueueOptions write_behind{.max_bytes = 128 << 20, .max_commits = 1024};
  std::string lease_owner{};                                // empty: made up from host and process
  absl::Duration lease = absl::Seconds(15);                 // 1 s to 1 h, but for tests
  absl::Duration lease_patience = absl::Milliseconds(500);  // that Hold waits for another's lease
  // How long a call waits for commits of its session that are to be written first. > 0.
  absl::Duration flush_patience = absl::Seconds(15);
  // Whether one failed call means that all would fail: then sessions in the cache go on without
  // asking until a try in the background gets an answer. Not so in a cluster.
  bool one_backend = true;
  absl::Duration probe_interval = absl::Milliseconds(500);  // > 0
  // Hears when the backend stops answering, with why, and when it answers again, with OK. On any
  // thread; must not call the store.
  std::function<void(const absl::Status&)> on_backend{};
  // Hears of each session whose acknowledged commits were lost, with why; as on_backend.
  std::function<void(const absl::Status&)> on_lost{};
  std::function<absl::Time()> clock = absl::Now;  // the backend's
  std::vector<LossyRule> lossy{};  // the backend's: what is read here is what it gives
};

struct TieredStoreParts {
  std::unique_ptr<SessionStore> backend;
  LeaseTable* leases = nullptr;      // of the backend; null: no other process opens it
  std::shared_ptr<HostCache> cache;  // not null; the backend may look for chunks in it too
};

struct TierStats {
  HostCacheStats cache;
  CommitQueueStats queue;
  LeaseStats leases;
  uint64_t written_through = 0;   // commits that were not written behind
  uint64_t degraded_reads = 0;    // answered without the backend, which could not be reached
  uint64_t degraded_commits = 0;  // accepted without a lease for the same reason
  uint64_t backend_losses = 0;    // times that the backend stopped answering
  uint64_t lost_sessions = 0;     // whose acknowledged commits were lost, by the queue's count
  bool backend_lost = false;      // now
};

// A status of a backend as callers should see it: whatever keeps it from answering is UNAVAILABLE
// (kIoError), for the caller's own deadline and rights are others.
absl::Status Typed(absl::Status status);

// Thread-safe; calls block.
class TieredStore final : public SessionStore {
 public:
  // INVALID_ARGUMENT names the option.
  static absl::StatusOr<std::unique_ptr<TieredStore>> Create(const TieredStoreOptions& options,
                                                             TieredStoreParts parts);
  // Writes what waits, as Flush with flush_patience, unless the last Flush was in vain; the rest is
  // lost.
  ~TieredStore() override;

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
  // kAsync: acknowledged when it is in the queue; if there is no room, when it is written.
  absl::StatusOr<Session> CommitShared(std::string_view tenant, std::string_view session_id,
                                       uint64_t expected_version,
                                       std::shared_ptr<const Snapshot> snapshot,
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
  absl::StatusOr<SharedSnapshot> ReadShared(std::string_view tenant, std::string_view session_id,
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
  // Without what waits to be written.
  absl::StatusOr<StoreUsage> Usage(std::string_view tenant) override;
  absl::StatusOr<int64_t> SweepExpired(absl::Time now) override;
  absl::Status CheckIntegrity() override;
  absl::StatusOr<std::unique_ptr<SessionHold>> Hold(std::string_view tenant,
                                                    std::string_view session_id) override;

  // Until all that was acknowledged is written. UNAVAILABLE with how much is not.
  absl::Status Flush(absl::Duration patience);
  TierStats stats() const;

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, session id
  // The right to a session, or the knowledge that it could not be asked for.
  class HoldImpl final : public SessionHold {
   public:
    HoldImpl(const TieredStore& store, Key key, LeaseRef lease, bool degraded)
        : store_(store), key_(std::move(key)), lease_(std::move(lease)), degraded_(degraded) {}
    void Finish() override { lease_.Release(); }
    // A lease says nothing of what was seen before it was taken.
    bool degraded() const override { return degraded_ || store_.ReadWithoutBackend(key_); }
    const LeaseRef& lease() const { return lease_; }

   private:
    const TieredStore& store_;
    const Key key_;
    LeaseRef lease_;
    const bool degraded_;
  };

  // One caller at a time for a session, for as long as this lives.
  class KeyLock {
   public:
    KeyLock(TieredStore& store, const Key& key);
    ~KeyLock();
    KeyLock(const KeyLock&) = delete;
    KeyLock& operator=(const KeyLock&) = delete;

   private:
    TieredStore& store_;
    const Key key_;
  };

  // What was last heard about a session from the backend.
  struct Seen {
    Session session;
    std::string token;  // of the lease under which it was heard; then it holds while that runs
    std::string absent_request;  // no commit under this id then
    bool alone = false;          // given to a reader without asking, since the last hold began
    std::list<Key>::iterator age;
  };

  TieredStore(const TieredStoreOptions& options, TieredStoreParts parts);

  absl::Time Now() const;
  bool shared() const { return leases_.has_value(); }
  // The status of a call of the backend about `key`, as others should see it; notes whether it
  // answered.
  absl::Status Heard(const Key& key, absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);
  template <typename T>
  absl::StatusOr<T> Heard(const Key& key, absl::StatusOr<T> result) {
    absl::Status status = Heard(key, result.status());
    if (!status.ok()) return status;
    return result;
  }
  // Whether to go on without the backend at once.
  bool SkipBackend() const ABSL_LOCKS_EXCLUDED(mu_);
  // Asks a backend that was lost until it answers.
  void Probe();

  void See(const Session& session, const std::string& token) ABSL_LOCKS_EXCLUDED(mu_);
  void SeeAbsent(const Key& key, std::string_view request_id) ABSL_LOCKS_EXCLUDED(mu_);
  std::optional<Seen> FindSeen(const Key& key) const ABSL_LOCKS_EXCLUDED(mu_);
  void Forget(const Key& key) ABSL_LOCKS_EXCLUDED(mu_);
  // Last seen, if its state is here too.
  std::optional<Session> Degraded(const Key& key) ABSL_LOCKS_EXCLUDED(mu_);
  // The same for a reader. `token`: of the lease that runs, or empty.
  std::optional<Session> ReadDegraded(const Key& key, const std::string& token)
      ABSL_LOCKS_EXCLUDED(mu_);
  // The last reader got what may be older than what the backend has.
  bool ReadWithoutBackend(const Key& key) const ABSL_LOCKS_EXCLUDED(mu_);

  // The error of commits that were lost, once.
  absl::Status TakeFailure(const Key& key) ABSL_LOCKS_EXCLUDED(mu_);
  // Until the session's commits are in the backend, and no lease of ours is on its way back.
  absl::Status AwaitOwn(const Key& key);
  // Before a call that must see all commits of the session in the backend.
  absl::Status Settle(const Key& key);
  // The same where what was lost of the session is of no more interest.
  absl::Status SettleNew(const Key& key);

  // How CommitShared looks at a session before it takes a commit.
  struct Base {
    Session session;
    std::optional<CommitRecord> repeat;
    LeaseRef lease;
    bool degraded = false;
    bool may_wait = false;  // a commit may be written behind
  };
  absl::StatusOr<Base> FindBase(const Key& key, const CommitOptions& options, bool async);
  absl::StatusOr<Session> WriteThrough(const Key& key, uint64_t expected_version,
                                       const std::shared_ptr<const Snapshot>& snapshot,
                                       const std::shared_ptr<const Snapshot>& read_back,
                                       CommitOptions options, const LeaseRef& lease);
  // The queue's ends.
  absl::StatusOr<Session> Write(QueuedCommit& commit);
  void Done(const QueuedCommit& commit, const absl::StatusOr<Session>& written);
  absl::Duration LoadCost(uint64_t bytes) const ABSL_LOCKS_EXCLUDED(mu_);

  const TieredStoreOptions options_;
  const std::unique_ptr<SessionStore> backend_;
  const std::shared_ptr<HostCache> cache_;
  std::optional<LeaseKeeper> leases_;

  mutable absl::Mutex mu_;
  std::set<Key> locked_ ABSL_GUARDED_BY(mu_);
  std::map<Key, Seen> seen_ ABSL_GUARDED_BY(mu_);
  std::list<Key> ages_ ABSL_GUARDED_BY(mu_);  // of seen_, oldest first
  std::map<Key, absl::Status> failures_ ABSL_GUARDED_BY(mu_);
  std::list<Key> failure_ages_ ABSL_GUARDED_BY(mu_);
  // The last write found no room: an acknowledgement would promise too much.
  std::atomic<bool> backend_full_ = false;
  std::atomic<bool> flushed_in_vain_ = false;
  std::optional<Key> lost_ ABSL_GUARDED_BY(mu_);  // about which the backend did not answer
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  double load_micros_per_byte_ ABSL_GUARDED_BY(mu_) = 0.001;  // 1 GB/s until measured
  int patient_holds_ ABSL_GUARDED_BY(mu_) = 0;
  TierStats stats_ ABSL_GUARDED_BY(mu_);

  // Last: their threads use all of the above.
  std::optional<CommitQueue> queue_;
  std::thread prober_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TIERS_TIERED_STORE_H_
