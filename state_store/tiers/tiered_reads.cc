// TieredStore: what only reads.
#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"
#include "state_store/tiers/tiered_store.h"

namespace reprise::state_store {
namespace {

// The head may move while it is being read.
constexpr int kHeadAttempts = 8;

// Whether cached bytes are those of the manifest. They can only differ if somebody broke the store.
bool Agree(const SnapshotManifest& cached, const SnapshotManifest& found) {
  if (cached.token_hash != found.token_hash || cached.parts.size() != found.parts.size()) {
    return false;
  }
  for (size_t i = 0; i < cached.parts.size(); ++i) {
    if (cached.parts[i].name != found.parts[i].name ||
        cached.parts[i].byte_length != found.parts[i].byte_length) {
      return false;
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<Session> TieredStore::GetSession(std::string_view tenant,
                                                std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Key key(tenant, session_id);
  RETURN_IF_ERROR(TakeFailure(key));
  if (auto last = queue_->FindLast(tenant, session_id)) {
    if (last->session.expires > Now()) return std::move(last->session);
  }
  // Under a lease that runs before and after the answer, it holds while the lease runs.
  const LeaseRef lease = shared() ? leases_->Find(key.first, key.second) : LeaseRef();
  const std::string token = lease.Runs() ? lease.token() : "";
  if (SkipBackend()) {
    if (auto session = ReadDegraded(key, token)) return *std::move(session);
  }
  auto session = Heard(key, backend_->GetSession(tenant, session_id));
  if (session.ok()) {
    See(*session, token);
  } else if (absl::IsUnavailable(session.status())) {
    if (auto seen = ReadDegraded(key, lease.Runs() ? token : "")) return *std::move(seen);
  } else if (absl::IsNotFound(session.status())) {
    Forget(key);
  }
  // A commit may have been acknowledged and written since the queue was looked at; what the backend
  // says is never older than that. One that was acknowledged and still waits is newer.
  if (auto last = queue_->FindLast(tenant, session_id)) {
    if (session.ok() && last->session.version > session->version) return std::move(last->session);
  }
  return session;
}

absl::StatusOr<SessionPage> TieredStore::ListSessions(std::string_view tenant,
                                                      const PageRequest& page) {
  auto sessions = Heard(Key(tenant, ""), backend_->ListSessions(tenant, page));
  if (!sessions.ok()) return sessions;
  for (Session& session : sessions->sessions) {
    auto last = queue_->FindLast(tenant, session.id);
    if (last.has_value() && last->session.version > session.version) session = last->session;
  }
  return sessions;
}

absl::StatusOr<std::optional<CommitRecord>> TieredStore::FindCommit(std::string_view tenant,
                                                                    std::string_view session_id,
                                                                    std::string_view request_id) {
  const Key key(tenant, session_id);
  RETURN_IF_ERROR(TakeFailure(key));
  if (auto waiting = queue_->FindCommit(tenant, session_id, request_id)) return waiting;
  auto found = Heard(key, backend_->FindCommit(tenant, session_id, request_id));
  if (found.ok() && !found->has_value() && !request_id.empty()) SeeAbsent(key, request_id);
  return found;
}

absl::StatusOr<SnapshotInfo> TieredStore::GetSnapshot(std::string_view tenant,
                                                      std::string_view session_id,
                                                      std::string_view snapshot_id) {
  const Key key(tenant, session_id);
  RETURN_IF_ERROR(TakeFailure(key));
  if (auto last = queue_->FindLast(tenant, session_id)) {
    if (snapshot_id.empty() || snapshot_id == last->session.head_snapshot_id) {
      SnapshotInfo info;
      info.manifest = *last->snapshot.manifest;
      info.is_head = true;
      return info;
    }
    // The head before may be gone at any moment, and what is retained may be about to be written.
    const KeyLock lock(*this, key);
    RETURN_IF_ERROR(Settle(key));
  }
  const auto degraded = [&]() -> std::optional<SnapshotInfo> {
    const auto session = Degraded(key);
    if (!session.has_value() || session->head_snapshot_id.empty()) return std::nullopt;
    if (!snapshot_id.empty() && snapshot_id != session->head_snapshot_id) return std::nullopt;
    const auto cached = cache_->Find(tenant, session->head_snapshot_id);
    if (!cached.has_value()) return std::nullopt;
    SnapshotInfo info;
    info.manifest = *cached->manifest;
    info.is_head = true;
    absl::MutexLock lock(&mu_);
    ++stats_.degraded_reads;
    return info;
  };
  if (SkipBackend()) {
    if (auto info = degraded()) return *std::move(info);
  }
  auto info = Heard(key, backend_->GetSnapshot(tenant, session_id, snapshot_id));
  if (absl::IsUnavailable(info.status())) {
    if (auto cached = degraded()) return *std::move(cached);
  }
  return info;
}

absl::StatusOr<SharedSnapshot> TieredStore::ReadShared(std::string_view tenant,
                                                       std::string_view session_id,
                                                       std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Key key(tenant, session_id);
  for (int attempt = 1;; ++attempt) {
    if (auto last = queue_->FindLast(tenant, session_id)) {
      RETURN_IF_ERROR(TakeFailure(key));
      if (snapshot_id.empty() || snapshot_id == last->session.head_snapshot_id) {
        return std::move(last->snapshot);
      }
    }
    ASSIGN_OR_RETURN(SnapshotInfo info, GetSnapshot(tenant, session_id, snapshot_id));
    const std::string id = info.manifest.snapshot_id;
    RETURN_IF_ERROR(DecodeLossyManifest(info.manifest));
    if (auto cached = cache_->Find(tenant, id); cached && Agree(*cached->manifest, info.manifest)) {
      const bool news = info.manifest != *cached->manifest;
      cached->manifest = std::make_shared<const SnapshotManifest>(std::move(info.manifest));
      // Now its chunks are known too.
      uint64_t bytes = cached->manifest->LogicalBytes();
      if (news) cache_->Put(tenant, *cached, LoadCost(bytes));
      return *std::move(cached);
    }
    const absl::Time start = absl::Now();
    auto snapshot = Heard(key, backend_->ReadSnapshot(tenant, session_id, id));
    if (snapshot.ok()) {
      const absl::Duration cost = absl::Now() - start;
      const uint64_t bytes = snapshot->manifest.LogicalBytes();
      {
        absl::MutexLock lock(&mu_);
        const double measured = absl::ToDoubleMicroseconds(cost) / std::max<double>(bytes, 4096);
        load_micros_per_byte_ += (measured - load_micros_per_byte_) / 8;
      }
      SharedSnapshot shared(std::make_shared<const Snapshot>(*std::move(snapshot)));
      cache_->Put(tenant, shared, cost);
      return shared;
    }
    const bool moved = absl::IsNotFound(snapshot.status()) && snapshot_id.empty();
    if (!moved || attempt == kHeadAttempts) return snapshot.status();
  }
}

absl::StatusOr<Snapshot> TieredStore::ReadSnapshot(std::string_view tenant,
                                                   std::string_view session_id,
                                                   std::string_view snapshot_id) {
  ASSIGN_OR_RETURN(const SharedSnapshot shared, ReadShared(tenant, session_id, snapshot_id));
  return Snapshot{*shared.manifest, *shared.payloads};
}

absl::StatusOr<SnapshotPage> TieredStore::ListSnapshots(std::string_view tenant,
                                                        std::string_view session_id,
                                                        const PageRequest& page) {
  const Key key(tenant, session_id);
  {
    const KeyLock lock(*this, key);
    RETURN_IF_ERROR(Settle(key));
  }
  return Heard(key, backend_->ListSnapshots(tenant, session_id, page));
}

absl::Duration TieredStore::LoadCost(uint64_t bytes) const {
  absl::MutexLock lock(&mu_);
  // A round trip is never free.
  return absl::Microseconds(100 + load_micros_per_byte_ * static_cast<double>(bytes));
}

}  // namespace reprise::state_store
