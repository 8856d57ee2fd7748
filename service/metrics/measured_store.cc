#include "service/metrics/measured_store.h"

#include <utility>

#include "absl/time/clock.h"
#include "service/metrics/state_transfers.h"

namespace reprise::service {
namespace {

using state_store::StoreError;

// By MeasuredStore::Operation.
constexpr const char* kOperationNames[] = {"create_session", "get_session",     "list_sessions",
                                           "update_session", "delete_session",  "commit",
                                           "find_commit",    "create_snapshot", "get_snapshot",
                                           "read_snapshot",  "list_snapshots",  "delete_snapshot",
                                           "fork",           "rewind",          "export",
                                           "import",         "sweep",           "hold"};

absl::Status StatusOf(const absl::Status& status) { return status; }
template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

double PayloadBytes(const std::vector<std::string>& payloads) {
  double bytes = 0;
  for (const std::string& payload : payloads) bytes += static_cast<double>(payload.size());
  return bytes;
}

}  // namespace

MeasuredStore::MeasuredStore(std::unique_ptr<state_store::SessionStore> store,
                             prometheus::Registry& registry, const std::string& tier)
    : store_(std::move(store)),
      fenced_(prometheus::BuildCounter()
                  .Name("reprise_store_fencing_rejections_total")
                  .Help("Commits and rewinds refused since another server may have the session")
                  .Register(registry)
                  .Add({{"tier", tier}})),
      save_time_(StateTransferSeconds(registry, {{"tier", tier}}, "save")),
      load_time_(StateTransferSeconds(registry, {{"tier", tier}}, "load")),
      save_bytes_(StateTransferBytes(registry, {{"tier", tier}}, "save")),
      load_bytes_(StateTransferBytes(registry, {{"tier", tier}}, "load")) {
  static_assert(std::size(kOperationNames) == kOperations);
  auto& seconds = prometheus::BuildHistogram()
                      .Name("reprise_store_operation_seconds")
                      .Help("Time of a call of the store, by tier and operation")
                      .Register(registry);
  for (int i = 0; i < kOperations; ++i) {
    seconds_[i] =
        &seconds.Add({{"tier", tier}, {"operation", kOperationNames[i]}}, buckets::Call());
  }
  auto& errors = prometheus::BuildCounter()
                     .Name("reprise_store_errors_total")
                     .Help("Calls of the store that failed, by tier and kind")
                     .Register(registry);
  for (int i = 0; i <= static_cast<int>(StoreError::kCommitsLost); ++i) {
    const auto kind = static_cast<StoreError>(i);
    errors_[kind] =
        &errors.Add({{"tier", tier}, {"kind", std::string(state_store::StoreErrorName(kind))}});
  }
}

void MeasuredStore::NoteError(Operation operation, const absl::Status& status) {
  const StoreError kind = state_store::GetStoreError(status);
  if (kind == StoreError::kLeaseLost && (operation == kCommit || operation == kRewind)) {
    fenced_.Increment();
  }
  const auto known = errors_.find(kind);
  (known != errors_.end() ? known : errors_.find(StoreError::kNone))->second->Increment();
}

template <typename Call>
auto MeasuredStore::Timed(Operation operation, Call call) {
  const absl::Time begin = absl::Now();
  auto result = call();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  seconds_[operation]->Observe(seconds);
  if (!result.ok()) NoteError(operation, StatusOf(result));
  if (result.ok() && operation == kCommit) save_time_.Observe(seconds);
  if (result.ok() && operation == kReadSnapshot) load_time_.Observe(seconds);
  return result;
}

absl::StatusOr<state_store::Session> MeasuredStore::CreateSession(
    std::string_view tenant, const state_store::NewSessionOptions& options) {
  return Timed(kCreateSession, [&] { return store_->CreateSession(tenant, options); });
}

absl::StatusOr<state_store::Session> MeasuredStore::GetSession(std::string_view tenant,
                                                               std::string_view session_id) {
  return Timed(kGetSession, [&] { return store_->GetSession(tenant, session_id); });
}

absl::StatusOr<state_store::SessionPage> MeasuredStore::ListSessions(
    std::string_view tenant, const state_store::PageRequest& page) {
  return Timed(kListSessions, [&] { return store_->ListSessions(tenant, page); });
}

absl::StatusOr<state_store::Session> MeasuredStore::UpdateSession(
    std::string_view tenant, std::string_view session_id,
    const state_store::SessionUpdate& update) {
  return Timed(kUpdateSession, [&] { return store_->UpdateSession(tenant, session_id, update); });
}

absl::Status MeasuredStore::DeleteSession(std::string_view tenant, std::string_view session_id) {
  return Timed(kDeleteSession, [&] { return store_->DeleteSession(tenant, session_id); });
}

absl::StatusOr<state_store::Session> MeasuredStore::PutAndCommit(
    std::string_view tenant, std::string_view session_id, uint64_t expected_version,
    const state_store::Snapshot& snapshot, const state_store::CommitOptions& options) {
  auto session = Timed(kCommit, [&] {
    return store_->PutAndCommit(tenant, session_id, expected_version, snapshot, options);
  });
  if (session.ok()) save_bytes_.Increment(PayloadBytes(snapshot.payloads));
  return session;
}

absl::StatusOr<state_store::Session> MeasuredStore::CommitShared(
    std::string_view tenant, std::string_view session_id, uint64_t expected_version,
    std::shared_ptr<const state_store::Snapshot> snapshot,
    const state_store::CommitOptions& options) {
  auto session = Timed(kCommit, [&] {
    return store_->CommitShared(tenant, session_id, expected_version, snapshot, options);
  });
  if (session.ok()) save_bytes_.Increment(PayloadBytes(snapshot->payloads));
  return session;
}

absl::StatusOr<std::optional<state_store::CommitRecord>> MeasuredStore::FindCommit(
    std::string_view tenant, std::string_view session_id, std::string_view request_id) {
  return Timed(kFindCommit, [&] { return store_->FindCommit(tenant, session_id, request_id); });
}

absl::StatusOr<state_store::SnapshotInfo> MeasuredStore::CreateSnapshot(
    std::string_view tenant, std::string_view session_id) {
  return Timed(kCreateSnapshot, [&] { return store_->CreateSnapshot(tenant, session_id); });
}

absl::StatusOr<state_store::SnapshotInfo> MeasuredStore::GetSnapshot(std::string_view tenant,
                                                                     std::string_view session_id,
                                                                     std::string_view snapshot_id) {
  return Timed(kGetSnapshot, [&] { return store_->GetSnapshot(tenant, session_id, snapshot_id); });
}

absl::StatusOr<state_store::Snapshot> MeasuredStore::ReadSnapshot(std::string_view tenant,
                                                                  std::string_view session_id,
                                                                  std::string_view snapshot_id) {
  auto snapshot =
      Timed(kReadSnapshot, [&] { return store_->ReadSnapshot(tenant, session_id, snapshot_id); });
  if (snapshot.ok()) load_bytes_.Increment(PayloadBytes(snapshot->payloads));
  return snapshot;
}

absl::StatusOr<state_store::SharedSnapshot> MeasuredStore::ReadShared(
    std::string_view tenant, std::string_view session_id, std::string_view snapshot_id) {
  auto snapshot =
      Timed(kReadSnapshot, [&] { return store_->ReadShared(tenant, session_id, snapshot_id); });
  if (snapshot.ok()) load_bytes_.Increment(PayloadBytes(*snapshot->payloads));
  return snapshot;
}

absl::StatusOr<state_store::SnapshotPage> MeasuredStore::ListSnapshots(
    std::string_view tenant, std::string_view session_id, const state_store::PageRequest& page) {
  return Timed(kListSnapshots, [&] { return store_->ListSnapshots(tenant, session_id, page); });
}

absl::Status MeasuredStore::DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                                           std::string_view snapshot_id) {
  return Timed(kDeleteSnapshot,
               [&] { return store_->DeleteSnapshot(tenant, session_id, snapshot_id); });
}

absl::StatusOr<state_store::Session> MeasuredStore::Fork(
    std::string_view tenant, const state_store::ForkSource& source,
    const state_store::NewSessionOptions& options) {
  return Timed(kFork, [&] { return store_->Fork(tenant, source, options); });
}

absl::StatusOr<state_store::Session> MeasuredStore::Rewind(std::string_view tenant,
                                                           std::string_view session_id,
                                                           std::string_view snapshot_id,
                                                           uint64_t expected_version,
                                                           std::string_view request_id) {
  return Timed(kRewind, [&] {
    return store_->Rewind(tenant, session_id, snapshot_id, expected_version, request_id);
  });
}

absl::Status MeasuredStore::ExportSnapshot(std::string_view tenant, std::string_view session_id,
                                           std::string_view snapshot_id,
                                           state_store::ByteSink& sink) {
  return Timed(kExport,
               [&] { return store_->ExportSnapshot(tenant, session_id, snapshot_id, sink); });
}

absl::StatusOr<state_store::Session> MeasuredStore::ImportSnapshot(
    std::string_view tenant, const state_store::NewSessionOptions& options,
    state_store::ByteSource& source) {
  return Timed(kImport, [&] { return store_->ImportSnapshot(tenant, options, source); });
}

absl::StatusOr<state_store::StoreStats> MeasuredStore::Stats(std::string_view tenant) {
  return store_->Stats(tenant);
}

absl::StatusOr<state_store::StoreUsage> MeasuredStore::Usage(std::string_view tenant) {
  return store_->Usage(tenant);
}

absl::StatusOr<int64_t> MeasuredStore::SweepExpired(absl::Time now) {
  return Timed(kSweep, [&] { return store_->SweepExpired(now); });
}

absl::Status MeasuredStore::CheckIntegrity() { return store_->CheckIntegrity(); }

absl::StatusOr<std::unique_ptr<state_store::SessionHold>> MeasuredStore::Hold(
    std::string_view tenant, std::string_view session_id) {
  return Timed(kHold, [&] { return store_->Hold(tenant, session_id); });
}

}  // namespace reprise::service
