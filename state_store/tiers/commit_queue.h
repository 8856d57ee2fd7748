// Commits that were acknowledged and are still to be written: the write-behind queue.
#ifndef REPRISE_STATE_STORE_TIERS_COMMIT_QUEUE_H_
#define REPRISE_STATE_STORE_TIERS_COMMIT_QUEUE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "state_store/session_store.h"
#include "state_store/tiers/lease_keeper.h"

namespace reprise::state_store {

struct QueuedCommit {
  std::string tenant, session_id;
  uint64_t expected_version = 0;
  std::shared_ptr<const Snapshot> snapshot;   // to be written
  std::shared_ptr<const Snapshot> read_back;  // what a read of it will give: itself, unless lossy
  CommitOptions options;                      // with request_id and snapshot_id
  LeaseRef lease;  // of the session; empty where it needs none, or could not be had
  uint64_t bytes = 0;
  Session result;                                    // as it was promised
  std::shared_ptr<const SnapshotManifest> manifest;  // as it will be, but for the chunks
};

struct CommitQueueOptions {
  uint64_t max_bytes = 0;                             // of what waits
  int max_commits = 0;                                // that wait; 0: nothing may
  int threads = 2;                                    // >= 1
  absl::Duration min_retry = absl::Milliseconds(20);  // > 0; doubles
  absl::Duration max_retry = absl::Seconds(1);
};

struct CommitQueueStats {
  uint64_t commits = 0, bytes = 0;  // that wait now
  uint64_t accepted = 0, written = 0, lost = 0;
  uint64_t retries = 0;  // tries that failed and are repeated
  uint64_t refused = 0;  // for which there was no room
};

// In order within a session; sessions do not wait for each other. A commit whose write fails for a
// reason that may pass is tried again for as long as the queue lives; one that can never be written
// takes along those of its session that come after it. Thread-safe.
class CommitQueue {
 public:
  using Write = std::function<absl::StatusOr<Session>(QueuedCommit&)>;
  // How a commit ended: called before it leaves the queue, one at a time within a session.
  using Done = std::function<void(const QueuedCommit&, const absl::StatusOr<Session>&)>;

  CommitQueue(const CommitQueueOptions& options, Write write, Done done);
  // What is not written is lost: see Flush.
  ~CommitQueue();

  // False, and nothing is taken, when there is no room.
  bool TryAdd(QueuedCommit&& commit);

  // The last that waits for the session; what it says holds until it leaves.
  struct Last {
    Session session;
    SharedSnapshot snapshot;
  };
  std::optional<Last> FindLast(std::string_view tenant, std::string_view session_id) const;
  std::optional<CommitRecord> FindCommit(std::string_view tenant, std::string_view session_id,
                                         std::string_view request_id) const;
  bool Empty(std::string_view tenant, std::string_view session_id) const;

  // Until nothing waits for the session any more. The status of a try that failed after the call
  // began, or UNAVAILABLE (kIoError) when `patience` has passed.
  absl::Status Wait(std::string_view tenant, std::string_view session_id, absl::Duration patience);
  // The same for all sessions, however often tries fail.
  absl::Status Flush(absl::Duration patience);

  CommitQueueStats stats() const;

 private:
  using Key = std::pair<std::string, std::string>;
  struct Line {
    std::deque<QueuedCommit> commits;
    absl::Time not_before = absl::InfinitePast();
    absl::Duration delay = absl::ZeroDuration();
    uint64_t failures = 0;                    // so far
    absl::Status failure = absl::OkStatus();  // the last
  };

  void Loop();
  // The session whose turn it is, or null; then how long until one may be.
  std::shared_ptr<Line> Next(absl::Duration* wait) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::shared_ptr<Line> Find(std::string_view tenant, std::string_view session_id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Leave(Line& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Of a line that can never be written.
  void EndAll(const std::shared_ptr<Line>& line, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mu_);

  const CommitQueueOptions options_;
  const Write write_;
  const Done done_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::map<Key, std::shared_ptr<Line>> lines_ ABSL_GUARDED_BY(mu_);  // none is empty
  std::deque<std::shared_ptr<Line>> ready_ ABSL_GUARDED_BY(mu_);     // in turn; not the one in work
  CommitQueueStats stats_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // last: joined before the rest goes
};

// Whether a commit that failed so may succeed later, unchanged.
bool MayPass(const absl::Status& status);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TIERS_COMMIT_QUEUE_H_
