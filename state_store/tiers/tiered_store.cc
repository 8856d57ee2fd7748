#include "state_store/tiers/tiered_store.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/validate.h"

namespace reprise::state_store {
namespace {

constexpr size_t kMaxSeen = 1 << 16;
constexpr int kMaxPatientHolds = 2;

absl::Status CheckOptions(const TieredStoreOptions& options, const TieredStoreParts& parts) {
  const auto refuse = [](std::string_view what) {
    return MakeStoreError(StoreError::kInvalidArgument, Cat("tiered store option ", what));
  };
  if (parts.backend == nullptr) return refuse("backend");
  if (parts.cache == nullptr) return refuse("cache");
  if (options.write_behind.max_commits < 0) return refuse("write_behind.max_commits");
  if (options.write_behind.threads < 1) return refuse("write_behind.threads");
  if (options.write_behind.min_retry <= absl::ZeroDuration()) {
    return refuse("write_behind.min_retry");
  }
  if (options.write_behind.max_retry < options.write_behind.min_retry) {
    return refuse("write_behind.max_retry");
  }
  if (options.lease < absl::Milliseconds(10) || options.lease > absl::Hours(1)) {
    return refuse("lease");
  }
  if (options.lease_patience < absl::ZeroDuration()) return refuse("lease_patience");
  if (options.flush_patience <= absl::ZeroDuration()) return refuse("flush_patience");
  if (options.probe_interval <= absl::ZeroDuration()) return refuse("probe_interval");
  if (options.clock == nullptr) return refuse("clock");
  return absl::OkStatus();
}

}  // namespace

absl::Status Typed(absl::Status status) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      break;
    default:
      return status;
  }
  if (absl::IsUnavailable(status) && GetStoreError(status) != StoreError::kNone) return status;
  absl::Status typed = MakeStoreError(StoreError::kIoError, std::string(status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    if (url != kStoreErrorUrl) typed.SetPayload(url, payload);
  });
  return typed;
}

TieredStore::KeyLock::KeyLock(TieredStore& store, const Key& key) : store_(store), key_(key) {
  absl::MutexLock lock(&store_.mu_);
  auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_.mu_) {
    return store_.locked_.count(key_) == 0;
  };
  store_.mu_.Await(absl::Condition(&free));
  store_.locked_.insert(key_);
}

TieredStore::KeyLock::~KeyLock() {
  absl::MutexLock lock(&store_.mu_);
  store_.locked_.erase(key_);
}

absl::StatusOr<std::unique_ptr<TieredStore>> TieredStore::Create(const TieredStoreOptions& options,
                                                                 TieredStoreParts parts) {
  RETURN_IF_ERROR(CheckOptions(options, parts));
  return std::unique_ptr<TieredStore>(new TieredStore(options, std::move(parts)));
}

TieredStore::TieredStore(const TieredStoreOptions& options, TieredStoreParts parts)
    : options_(options), backend_(std::move(parts.backend)), cache_(std::move(parts.cache)) {
  if (parts.leases != nullptr) {
    leases_.emplace(parts.leases,
                    options.lease_owner.empty() ? MakeLeaseOwner() : options.lease_owner,
                    options.lease);
  }
  queue_.emplace(
      options.write_behind, [this](QueuedCommit& commit) { return Write(commit); },
      [this](const QueuedCommit& commit, const absl::StatusOr<Session>& written) {
        Done(commit, written);
      });
  prober_ = std::thread([this] { Probe(); });
}

TieredStore::~TieredStore() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  prober_.join();
  if (!flushed_in_vain_) queue_->Flush(options_.flush_patience).IgnoreError();
  queue_.reset();
}

absl::Time TieredStore::Now() const {
  return absl::FromUnixMicros(absl::ToUnixMicros(options_.clock()));
}

absl::Status TieredStore::Heard(const Key& key, absl::Status status) {
  // Arguments are refused without asking anybody.
  if (absl::IsInvalidArgument(status)) return status;
  const bool answered = !absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status);
  bool changed;
  {
    absl::MutexLock lock(&mu_);
    changed = answered == lost_.has_value();
    if (changed && answered) lost_.reset();
    if (changed && !answered) {
      lost_ = key;
      ++stats_.backend_losses;
    }
  }
  if (changed && options_.on_backend != nullptr) {
    options_.on_backend(answered ? absl::OkStatus() : status);
  }
  return Typed(std::move(status));
}

bool TieredStore::SkipBackend() const {
  if (!options_.one_backend) return false;
  absl::MutexLock lock(&mu_);
  return lost_.has_value();
}

void TieredStore::Probe() {
  for (;;) {
    Key key;
    {
      absl::MutexLock lock(&mu_);
      auto wanted = [this]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stop_ || lost_.has_value(); };
      mu_.Await(absl::Condition(&wanted));
      mu_.AwaitWithTimeout(absl::Condition(&stop_), options_.probe_interval);
      if (stop_) return;
      if (!lost_.has_value()) continue;
      key = *lost_;
    }
    Heard(key, backend_->GetSession(key.first, key.second).status()).IgnoreError();
  }
}

void TieredStore::See(const Session& session, const std::string& token) {
  const Key key(session.tenant, session.id);
  absl::MutexLock lock(&mu_);
  const auto [entry, fresh] = seen_.try_emplace(key);
  const bool same_token = !fresh && entry->second.token == token;
  // An answer that was overtaken: under one lease versions only grow.
  if (same_token && !token.empty() && entry->second.session.version > session.version) return;
  if (!fresh) ages_.erase(entry->second.age);
  entry->second.session = session;
  entry->second.alone = false;
  if (!same_token) entry->second.absent_request.clear();
  entry->second.token = token;
  entry->second.age = ages_.insert(ages_.end(), key);
  if (seen_.size() <= kMaxSeen) return;
  seen_.erase(ages_.front());
  ages_.pop_front();
}

void TieredStore::SeeAbsent(const Key& key, std::string_view request_id) {
  absl::MutexLock lock(&mu_);
  const auto entry = seen_.find(key);
  if (entry != seen_.end()) entry->second.absent_request = request_id;
}

std::optional<TieredStore::Seen> TieredStore::FindSeen(const Key& key) const {
  absl::MutexLock lock(&mu_);
  const auto entry = seen_.find(key);
  if (entry == seen_.end()) return std::nullopt;
  return entry->second;
}

void TieredStore::Forget(const Key& key) {
  absl::MutexLock lock(&mu_);
  const auto entry = seen_.find(key);
  if (entry == seen_.end()) return;
  ages_.erase(entry->second.age);
  seen_.erase(entry);
}

std::optional<Session> TieredStore::Degraded(const Key& key) {
  const std::optional<Seen> seen = FindSeen(key);
  if (!seen.has_value() || seen->session.expires <= Now()) return std::nullopt;
  const std::string& head = seen->session.head_snapshot_id;
  if (!head.empty() && !cache_->Has(key.first, head)) return std::nullopt;
  return seen->session;
}

std::optional<Session> TieredStore::ReadDegraded(const Key& key, const std::string& token) {
  std::optional<Session> session = Degraded(key);
  if (!session.has_value()) return std::nullopt;
  absl::MutexLock lock(&mu_);
  ++stats_.degraded_reads;
  const auto seen = seen_.find(key);
  if (seen != seen_.end() && (token.empty() || seen->second.token != token)) {
    seen->second.alone = true;
  }
  return session;
}

bool TieredStore::ReadWithoutBackend(const Key& key) const {
  absl::MutexLock lock(&mu_);
  const auto seen = seen_.find(key);
  return seen != seen_.end() && seen->second.alone;
}

absl::Status TieredStore::TakeFailure(const Key& key) {
  absl::MutexLock lock(&mu_);
  const auto entry = failures_.find(key);
  if (entry == failures_.end()) return absl::OkStatus();
  absl::Status status = std::move(entry->second);
  failures_.erase(entry);
  failure_ages_.remove(key);
  return status;
}

absl::Status TieredStore::Flush(absl::Duration patience) {
  absl::Status flushed = queue_->Flush(patience);
  flushed_in_vain_ = !flushed.ok();
  return flushed;
}

absl::Status TieredStore::AwaitOwn(const Key& key) {
  RETURN_IF_ERROR(Typed(queue_->Wait(key.first, key.second, options_.flush_patience)));
  if (shared()) leases_->WaitUntilBack(key.first, key.second, options_.flush_patience);
  return absl::OkStatus();
}

absl::Status TieredStore::Settle(const Key& key) {
  RETURN_IF_ERROR(AwaitOwn(key));
  return TakeFailure(key);
}

absl::Status TieredStore::SettleNew(const Key& key) {
  if (key.second.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(AwaitOwn(key));
  TakeFailure(key).IgnoreError();
  return absl::OkStatus();
}

TierStats TieredStore::stats() const {
  TierStats stats;
  {
    absl::MutexLock lock(&mu_);
    stats = stats_;
    stats.backend_lost = lost_.has_value();
  }
  stats.cache = cache_->stats();
  stats.queue = queue_->stats();
  if (leases_.has_value()) stats.leases = leases_->stats();
  return stats;
}

absl::StatusOr<std::unique_ptr<SessionHold>> TieredStore::Hold(std::string_view tenant,
                                                               std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(TakeFailure(key));
  {
    absl::MutexLock guard(&mu_);
    const auto seen = seen_.find(key);
    if (seen != seen_.end()) seen->second.alone = false;
  }
  if (!shared()) return std::make_unique<HoldImpl>(*this, key, LeaseRef(), false);
  if (SkipBackend() && (Degraded(key).has_value() || !queue_->Empty(tenant, session_id))) {
    return std::make_unique<HoldImpl>(*this, key, leases_->Find(key.first, key.second), true);
  }
  const absl::Time give_up = absl::Now() + options_.lease_patience;
  absl::Duration pause = absl::Milliseconds(2);
  bool patient = false;
  absl::StatusOr<LeaseRef> lease = absl::UnknownError("not asked");
  for (;;) {
    lease = Heard(key, leases_->Acquire(key.first, key.second));
    if (GetStoreError(lease.status()) != StoreError::kSessionLeased) break;
    // A turn that has just ended elsewhere may still be on its way to the backend. Few may wait for
    // that, or callers of busy sessions would hold all threads.
    if (!patient) {
      absl::MutexLock guard(&mu_);
      if (patient_holds_ >= kMaxPatientHolds) break;
      ++patient_holds_;
      patient = true;
    }
    if (absl::Now() + pause > give_up) break;
    absl::SleepFor(pause);
    pause *= 2;
  }
  if (patient) {
    absl::MutexLock guard(&mu_);
    --patient_holds_;
  }
  if (lease.ok()) return std::make_unique<HoldImpl>(*this, key, *std::move(lease), false);
  const bool lost = absl::IsUnavailable(lease.status());
  if (lost && (Degraded(key).has_value() || !queue_->Empty(tenant, session_id))) {
    return std::make_unique<HoldImpl>(*this, key, leases_->Find(key.first, key.second), true);
  }
  return lease.status();
}

// What needs the backend as it is, and the session's commits in it.

absl::StatusOr<Session> TieredStore::CreateSession(std::string_view tenant,
                                                   const NewSessionOptions& options) {
  const Key key(tenant, options.id);
  std::optional<KeyLock> lock;  // an id that is made up meets nobody
  if (!options.id.empty()) lock.emplace(*this, key);
  RETURN_IF_ERROR(SettleNew(key));
  auto session = Heard(key, backend_->CreateSession(tenant, options));
  if (session.ok()) See(*session, "");
  return session;
}

absl::StatusOr<Session> TieredStore::UpdateSession(std::string_view tenant,
                                                   std::string_view session_id,
                                                   const SessionUpdate& update) {
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(Settle(key));
  auto session = Heard(key, backend_->UpdateSession(tenant, session_id, update));
  Forget(key);
  return session;
}

absl::Status TieredStore::DeleteSession(std::string_view tenant, std::string_view session_id) {
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(SettleNew(key));
  absl::Status deleted = Heard(key, backend_->DeleteSession(tenant, session_id));
  if (deleted.ok()) {
    if (const auto seen = FindSeen(key)) cache_->Erase(tenant, seen->session.head_snapshot_id);
  }
  Forget(key);
  return deleted;
}

absl::StatusOr<SnapshotInfo> TieredStore::CreateSnapshot(std::string_view tenant,
                                                         std::string_view session_id) {
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(Settle(key));
  return Heard(key, backend_->CreateSnapshot(tenant, session_id));
}

absl::Status TieredStore::DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                                         std::string_view snapshot_id) {
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(Settle(key));
  absl::Status deleted = Heard(key, backend_->DeleteSnapshot(tenant, session_id, snapshot_id));
  if (deleted.ok()) cache_->Erase(tenant, snapshot_id);
  return deleted;
}

absl::StatusOr<Session> TieredStore::Fork(std::string_view tenant, const ForkSource& source,
                                          const NewSessionOptions& options) {
  const Key key(tenant, source.session_id);
  {
    const KeyLock lock(*this, key);
    RETURN_IF_ERROR(Settle(key));
  }
  const Key made(tenant, options.id);
  std::optional<KeyLock> lock;
  if (!options.id.empty()) lock.emplace(*this, made);
  RETURN_IF_ERROR(SettleNew(made));
  auto session = Heard(key, backend_->Fork(tenant, source, options));
  if (session.ok()) See(*session, "");
  return session;
}

absl::StatusOr<Session> TieredStore::Rewind(std::string_view tenant, std::string_view session_id,
                                            std::string_view snapshot_id, uint64_t expected_version,
                                            std::string_view request_id) {
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(Settle(key));
  Forget(key);
  return Heard(key,
               backend_->Rewind(tenant, session_id, snapshot_id, expected_version, request_id));
}

absl::Status TieredStore::ExportSnapshot(std::string_view tenant, std::string_view session_id,
                                         std::string_view snapshot_id, ByteSink& sink) {
  const Key key(tenant, session_id);
  {
    const KeyLock lock(*this, key);
    RETURN_IF_ERROR(Settle(key));
  }
  // Not Heard: the status may be the sink's.
  return Typed(backend_->ExportSnapshot(tenant, session_id, snapshot_id, sink));
}

absl::StatusOr<Session> TieredStore::ImportSnapshot(std::string_view tenant,
                                                    const NewSessionOptions& options,
                                                    ByteSource& source) {
  const Key key(tenant, options.id);
  std::optional<KeyLock> lock;  // an id that is made up meets nobody
  if (!options.id.empty()) lock.emplace(*this, key);
  RETURN_IF_ERROR(SettleNew(key));
  absl::StatusOr<Session> session = backend_->ImportSnapshot(tenant, options, source);
  if (!session.ok()) return Typed(session.status());
  return session;
}

absl::StatusOr<StoreStats> TieredStore::Stats(std::string_view tenant) {
  RETURN_IF_ERROR(Typed(queue_->Flush(options_.flush_patience)));
  return backend_->Stats(tenant);
}

absl::StatusOr<StoreUsage> TieredStore::Usage(std::string_view tenant) {
  absl::StatusOr<StoreUsage> usage = backend_->Usage(tenant);
  if (!usage.ok()) return Typed(usage.status());
  return usage;
}

absl::StatusOr<int64_t> TieredStore::SweepExpired(absl::Time now) {
  // A commit that waits may be what keeps its session.
  RETURN_IF_ERROR(Typed(queue_->Flush(std::min(options_.flush_patience, absl::Seconds(1)))));
  return backend_->SweepExpired(now);
}

absl::Status TieredStore::CheckIntegrity() {
  RETURN_IF_ERROR(Typed(queue_->Flush(options_.flush_patience)));
  return backend_->CheckIntegrity();
}

}  // namespace reprise::state_store
