// A store that fails, hangs or is watched as a test wants, in front of a real one.
#ifndef REPRISE_STATE_STORE_TESTING_FAULTY_STORE_H_
#define REPRISE_STATE_STORE_TESTING_FAULTY_STORE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "state_store/session_store.h"

namespace reprise::state_store {

// Thread-safe, as the store behind it.
class FaultyStore final : public SessionStore {
 public:
  // Called with the method's name: before it, which does not happen if a failure comes back; and
  // after it, when a failure hides that it did. May block.
  using Hook = std::function<absl::Status(std::string_view method)>;

  explicit FaultyStore(std::unique_ptr<SessionStore> store) : store_(std::move(store)) {}

  void SetBefore(Hook hook) {
    absl::MutexLock lock(&mu_);
    before_ = std::move(hook);
  }
  void SetAfter(Hook hook) {
    absl::MutexLock lock(&mu_);
    after_ = std::move(hook);
  }
  SessionStore& store() { return *store_; }

  absl::StatusOr<Session> CreateSession(std::string_view tenant,
                                        const NewSessionOptions& options) override {
    return Run("CreateSession", [&] { return store_->CreateSession(tenant, options); });
  }
  absl::StatusOr<Session> GetSession(std::string_view tenant,
                                     std::string_view session_id) override {
    return Run("GetSession", [&] { return store_->GetSession(tenant, session_id); });
  }
  absl::StatusOr<SessionPage> ListSessions(std::string_view tenant,
                                           const PageRequest& page) override {
    return Run("ListSessions", [&] { return store_->ListSessions(tenant, page); });
  }
  absl::StatusOr<Session> UpdateSession(std::string_view tenant, std::string_view session_id,
                                        const SessionUpdate& update) override {
    return Run("UpdateSession", [&] { return store_->UpdateSession(tenant, session_id, update); });
  }
  absl::Status DeleteSession(std::string_view tenant, std::string_view session_id) override {
    return Run("DeleteSession", [&] { return store_->DeleteSession(tenant, session_id); });
  }
  absl::StatusOr<Session> PutAndCommit(std::string_view tenant, std::string_view session_id,
                                       uint64_t expected_version, const Snapshot& snapshot,
                                       const CommitOptions& options) override {
    return Run("PutAndCommit", [&] {
      return store_->PutAndCommit(tenant, session_id, expected_version, snapshot, options);
    });
  }
  absl::StatusOr<std::optional<CommitRecord>> FindCommit(std::string_view tenant,
                                                         std::string_view session_id,
                                                         std::string_view request_id) override {
    return Run("FindCommit", [&] { return store_->FindCommit(tenant, session_id, request_id); });
  }
  absl::StatusOr<SnapshotInfo> CreateSnapshot(std::string_view tenant,
                                              std::string_view session_id) override {
    return Run("CreateSnapshot", [&] { return store_->CreateSnapshot(tenant, session_id); });
  }
  absl::StatusOr<SnapshotInfo> GetSnapshot(std::string_view tenant, std::string_view session_id,
                                           std::string_view snapshot_id) override {
    return Run("GetSnapshot", [&] { return store_->GetSnapshot(tenant, session_id, snapshot_id); });
  }
  absl::StatusOr<Snapshot> ReadSnapshot(std::string_view tenant, std::string_view session_id,
                                        std::string_view snapshot_id) override {
    return Run("ReadSnapshot",
               [&] { return store_->ReadSnapshot(tenant, session_id, snapshot_id); });
  }
  absl::StatusOr<SnapshotPage> ListSnapshots(std::string_view tenant, std::string_view session_id,
                                             const PageRequest& page) override {
    return Run("ListSnapshots", [&] { return store_->ListSnapshots(tenant, session_id, page); });
  }
  absl::Status DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                              std::string_view snapshot_id) override {
    return Run("DeleteSnapshot",
               [&] { return store_->DeleteSnapshot(tenant, session_id, snapshot_id); });
  }
  absl::StatusOr<Session> Fork(std::string_view tenant, const ForkSource& source,
                               const NewSessionOptions& options) override {
    return Run("Fork", [&] { return store_->Fork(tenant, source, options); });
  }
  absl::StatusOr<Session> Rewind(std::string_view tenant, std::string_view session_id,
                                 std::string_view snapshot_id, uint64_t expected_version,
                                 std::string_view request_id) override {
    return Run("Rewind", [&] {
      return store_->Rewind(tenant, session_id, snapshot_id, expected_version, request_id);
    });
  }
  absl::Status ExportSnapshot(std::string_view tenant, std::string_view session_id,
                              std::string_view snapshot_id, ByteSink& sink) override {
    return Run("ExportSnapshot",
               [&] { return store_->ExportSnapshot(tenant, session_id, snapshot_id, sink); });
  }
  absl::StatusOr<Session> ImportSnapshot(std::string_view tenant, const NewSessionOptions& options,
                                         ByteSource& source) override {
    return Run("ImportSnapshot", [&] { return store_->ImportSnapshot(tenant, options, source); });
  }
  absl::StatusOr<StoreUsage> Usage(std::string_view tenant) override {
    return Run("Usage", [&] { return store_->Usage(tenant); });
  }
  absl::StatusOr<StoreStats> Stats(std::string_view tenant) override {
    return Run("Stats", [&] { return store_->Stats(tenant); });
  }
  absl::StatusOr<int64_t> SweepExpired(absl::Time now) override {
    return Run("SweepExpired", [&] { return store_->SweepExpired(now); });
  }
  absl::Status CheckIntegrity() override {
    return Run("CheckIntegrity", [&] { return store_->CheckIntegrity(); });
  }

 private:
  absl::Status Ask(const Hook FaultyStore::*which, std::string_view method) {
    Hook hook;
    {
      absl::MutexLock lock(&mu_);
      hook = this->*which;
    }
    return hook == nullptr ? absl::OkStatus() : hook(method);
  }
  template <typename Call>
  auto Run(std::string_view method, Call call) -> decltype(call()) {
    RETURN_IF_ERROR(Ask(&FaultyStore::before_, method));
    auto result = call();
    RETURN_IF_ERROR(Ask(&FaultyStore::after_, method));
    return result;
  }

  const std::unique_ptr<SessionStore> store_;
  absl::Mutex mu_;
  Hook before_;
  Hook after_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TESTING_FAULTY_STORE_H_
