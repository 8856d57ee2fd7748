// A store whose calls are timed and counted.
#ifndef REPRISE_SERVICE_METRICS_MEASURED_STORE_H_
#define REPRISE_SERVICE_METRICS_MEASURED_STORE_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "state_store/session_store.h"

namespace reprise::service {

// Thread-safe, as the store inside is. Every call goes on to it as it came.
class MeasuredStore final : public state_store::SessionStore {
 public:
  // `registry` outlives this object; `tier` is a label.
  MeasuredStore(std::unique_ptr<state_store::SessionStore> store, prometheus::Registry& registry,
                const std::string& tier);

  absl::StatusOr<state_store::Session> CreateSession(
      std::string_view tenant, const state_store::NewSessionOptions& options) override;
  absl::StatusOr<state_store::Session> GetSession(std::string_view tenant,
                                                  std::string_view session_id) override;
  absl::StatusOr<state_store::SessionPage> ListSessions(
      std::string_view tenant, const state_store::PageRequest& page) override;
  absl::StatusOr<state_store::Session> UpdateSession(
      std::string_view tenant, std::string_view session_id,
      const state_store::SessionUpdate& update) override;
  absl::Status DeleteSession(std::string_view tenant, std::string_view session_id) override;
  absl::StatusOr<state_store::Session> PutAndCommit(
      std::string_view tenant, std::string_view session_id, uint64_t expected_version,
      const state_store::Snapshot& snapshot, const state_store::CommitOptions& options) override;
  absl::StatusOr<state_store::Session> CommitShared(
      std::string_view tenant, std::string_view session_id, uint64_t expected_version,
      std::shared_ptr<const state_store::Snapshot> snapshot,
      const state_store::CommitOptions& options) override;
  absl::StatusOr<std::optional<state_store::CommitRecord>> FindCommit(
      std::string_view tenant, std::string_view session_id, std::string_view request_id) override;
  absl::StatusOr<state_store::SnapshotInfo> CreateSnapshot(std::string_view tenant,
                                                           std::string_view session_id) override;
  absl::StatusOr<state_store::SnapshotInfo> GetSnapshot(std::string_view tenant,
                                                        std::string_view session_id,
                                                        std::string_view snapshot_id) override;
  absl::StatusOr<state_store::Snapshot> ReadSnapshot(std::string_view tenant,
                                                     std::string_view session_id,
                                                     std::string_view snapshot_id) override;
  absl::StatusOr<state_store::SharedSnapshot> ReadShared(std::string_view tenant,
                                                         std::string_view session_id,
                                                         std::string_view snapshot_id) override;
  absl::StatusOr<state_store::SnapshotPage> ListSnapshots(
      std::string_view tenant, std::string_view session_id,
      const state_store::PageRequest& page) override;
  absl::Status DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                              std::string_view snapshot_id) override;
  absl::StatusOr<state_store::Session> Fork(std::string_view tenant,
                                            const state_store::ForkSource& source,
                                            const state_store::NewSessionOptions& options) override;
  absl::StatusOr<state_store::Session> Rewind(std::string_view tenant, std::string_view session_id,
                                              std::string_view snapshot_id,
                                              uint64_t expected_version,
                                              std::string_view request_id) override;
  absl::Status ExportSnapshot(std::string_view tenant, std::string_view session_id,
                              std::string_view snapshot_id, state_store::ByteSink& sink) override;
  absl::StatusOr<state_store::Session> ImportSnapshot(std::string_view tenant,
                                                      const state_store::NewSessionOptions& options,
                                                      state_store::ByteSource& source) override;
  absl::StatusOr<state_store::StoreStats> Stats(std::string_view tenant) override;
  absl::StatusOr<state_store::StoreUsage> Usage(std::string_view tenant) override;
  absl::StatusOr<int64_t> SweepExpired(absl::Time now) override;
  absl::Status CheckIntegrity() override;
  absl::StatusOr<std::unique_ptr<state_store::SessionHold>> Hold(
      std::string_view tenant, std::string_view session_id) override;

 private:
  enum Operation {
    kCreateSession,
    kGetSession,
    kListSessions,
    kUpdateSession,
    kDeleteSession,
    kCommit,
    kFindCommit,
    kCreateSnapshot,
    kGetSnapshot,
    kReadSnapshot,
    kListSnapshots,
    kDeleteSnapshot,
    kFork,
    kRewind,
    kExport,
    kImport,
    kSweep,
    kHold,
    kOperations
  };

  // Runs call(), and counts it.
  template <typename Call>
  auto Timed(Operation operation, Call call);
  void NoteError(Operation operation, const absl::Status& status);

  const std::unique_ptr<state_store::SessionStore> store_;
  std::array<prometheus::Histogram*, kOperations> seconds_{};
  std::map<state_store::StoreError, prometheus::Counter*> errors_;
  prometheus::Counter& fenced_;
  prometheus::Histogram& save_time_;
  prometheus::Histogram& load_time_;
  prometheus::Counter& save_bytes_;
  prometheus::Counter& load_bytes_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_MEASURED_STORE_H_
