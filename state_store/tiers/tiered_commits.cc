// TieredStore: commits, written behind or through.
#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/validate.h"
#include "state_store/tiers/tiered_store.h"

namespace reprise::state_store {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxNoteBytes = 256;
constexpr size_t kMaxFailures = 1 << 12;

// What the backend would refuse must be refused before it is acknowledged.
absl::Status CheckCommit(const Snapshot& snapshot, const CommitOptions& options) {
  RETURN_IF_ERROR(ValidateNewManifest(snapshot.manifest));
  RETURN_IF_ERROR(CheckPayloads(snapshot));
  RETURN_IF_ERROR(SnapshotIdOr(options.snapshot_id).status());
  if (options.request_id.size() > kMaxRequestIdBytes) {
    return MakeStoreError(StoreError::kInvalidArgument, "request_id is too long");
  }
  if (options.note.size() > kMaxNoteBytes) {
    return MakeStoreError(StoreError::kInvalidArgument, "note is too long");
  }
  return absl::OkStatus();
}

uint64_t CountBytes(const Snapshot& snapshot) {
  uint64_t bytes = 1024;
  for (const std::string& payload : snapshot.payloads) bytes += payload.size();
  for (const auto& [name, leg] : snapshot.manifest.legs) bytes += name.size() + leg.size();
  return bytes;
}

absl::Status MovedOn(const Session& session, uint64_t expected_version) {
  return MakeStoreError(
      StoreError::kVersionMismatch,
      Cat("session ", session.id, " is at version ", session.version, ", not ", expected_version));
}

}  // namespace

absl::StatusOr<Session> TieredStore::PutAndCommit(std::string_view tenant,
                                                  std::string_view session_id,
                                                  uint64_t expected_version,
                                                  const Snapshot& snapshot,
                                                  const CommitOptions& options) {
  return CommitShared(tenant, session_id, expected_version,
                      std::make_shared<const Snapshot>(snapshot), options);
}

absl::StatusOr<TieredStore::Base> TieredStore::FindBase(const Key& key,
                                                        const CommitOptions& options, bool async) {
  Base base;
  if (const auto* hold = dynamic_cast<const HoldImpl*>(options.hold)) {
    // If that is lost, another's may be here: its owner must not commit under it.
    base.lease = hold->lease().Share();
  } else if (shared()) {
    base.lease = leases_->Find(key.first, key.second);
  }
  // Without a lease nothing may be promised: another replica could come first.
  if (async && shared() && !base.lease.Runs() && (!base.lease || base.lease.Lapsed())) {
    auto lease = SkipBackend() ? absl::StatusOr<LeaseRef>(absl::UnavailableError("lost"))
                               : Heard(key, leases_->Acquire(key.first, key.second));
    if (lease.ok()) {
      base.lease = *std::move(lease);
    } else if (absl::IsUnavailable(lease.status())) {
      base.degraded = true;
    } else if (base.lease && GetStoreError(lease.status()) == StoreError::kSessionLeased) {
      // Whoever had a lease has lost it to another; that is more than a session that is busy.
      return MakeStoreError(StoreError::kLeaseLost,
                            Cat("the lease on session ", key.second, " is lost: another has it"));
    } else {
      return lease.status();
    }
  }
  base.may_wait = async && !backend_full_ && (!shared() || base.degraded || base.lease.Runs());
  const auto last = queue_->FindLast(key.first, key.second);
  if (!base.may_wait && !last.has_value()) return base;  // the backend decides all

  const std::string token = base.lease.Runs() ? base.lease.token() : "";
  std::optional<Seen> seen = FindSeen(key);
  const bool holds = seen.has_value() && !token.empty() && seen->token == token;
  if (last.has_value()) {
    base.session = last->session;
  } else if (holds) {
    base.session = seen->session;
  } else {
    ASSIGN_OR_RETURN(base.session, GetSession(key.first, key.second));
  }
  if (options.request_id.empty()) return base;
  base.repeat = queue_->FindCommit(key.first, key.second, options.request_id);
  if (base.repeat.has_value() || (holds && seen->absent_request == options.request_id)) return base;
  // Lost with the backend: the write finds out, and then has the first result.
  auto found = base.degraded
                   ? std::optional<CommitRecord>()
                   : Heard(key, backend_->FindCommit(key.first, key.second, options.request_id));
  if (found.ok()) {
    base.repeat = *std::move(found);
  } else if (!absl::IsUnavailable(found.status())) {
    return found.status();
  }
  return base;
}

absl::StatusOr<Session> TieredStore::CommitShared(std::string_view tenant,
                                                  std::string_view session_id,
                                                  uint64_t expected_version,
                                                  std::shared_ptr<const Snapshot> snapshot,
                                                  const CommitOptions& asked) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  RETURN_IF_ERROR(CheckCommit(*snapshot, asked));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Snapshot> read_back,
                   AsReadBack(options_.lossy, snapshot));
  const Key key(tenant, session_id);
  const KeyLock lock(*this, key);
  RETURN_IF_ERROR(TakeFailure(key));
  CommitOptions options = asked;
  if (shared()) options.lease_token.clear();  // of the hold, or of none
  if (options.snapshot_id.empty()) options.snapshot_id = MakeFreshId();
  const bool async =
      options.durability == Durability::kAsync && options_.write_behind.max_commits > 0;
  ASSIGN_OR_RETURN(Base base, FindBase(key, options, async));
  if (base.repeat.has_value()) {
    if (base.repeat->expected_version != expected_version) {
      return MakeStoreError(StoreError::kRequestIdReused, Cat("request_id \"", options.request_id,
                                                              "\" was used with other arguments"));
    }
    // A repeat that must last is answered when the first try does.
    if (!async) RETURN_IF_ERROR(Settle(key));
    if (async) return base.repeat->session;
  }
  if (!base.may_wait) {
    RETURN_IF_ERROR(Settle(key));
    return WriteThrough(key, expected_version, snapshot, read_back, std::move(options), base.lease);
  }
  if (base.session.version != expected_version) return MovedOn(base.session, expected_version);
  const SnapshotManifest& manifest = snapshot->manifest;
  if (!base.session.model_id.empty() && base.session.model_id != manifest.model_id) {
    return MakeStoreError(StoreError::kModelMismatch,
                          Cat("session ", session_id, " is of model \"", base.session.model_id,
                              "\", not \"", manifest.model_id, "\""));
  }
  const absl::Time now = Now();
  QueuedCommit commit;
  commit.tenant = tenant;
  commit.session_id = session_id;
  commit.expected_version = expected_version;
  commit.snapshot = snapshot;
  commit.read_back = read_back;
  commit.options = options;
  commit.options.hold = nullptr;
  commit.options.accepted = now;
  // So that a write whose answer was lost can be repeated.
  if (options.request_id.empty()) commit.options.request_id = Cat("~", options.snapshot_id);
  commit.lease = base.lease.Share();
  commit.bytes = CountBytes(*snapshot) + (read_back == snapshot ? 0 : CountBytes(*read_back));
  Session& result = commit.result;
  result = base.session;
  ++result.version;
  auto promised = std::make_shared<SnapshotManifest>(manifest);
  promised->format_version = kManifestVersion;
  promised->snapshot_id = options.snapshot_id;
  promised->parent_snapshot_id = result.head_snapshot_id;
  promised->tenant = tenant;
  promised->created_at = now;
  for (SnapshotPart& part : promised->parts) part.chunks.clear();
  result.head_snapshot_id = options.snapshot_id;
  result.position = manifest.position;
  result.token_count = manifest.token_count;
  result.model_id = manifest.model_id;
  result.updated = now;
  result.expires = result.ttl == absl::InfiniteDuration()
                       ? absl::InfiniteFuture()
                       : absl::FromUnixMicros(absl::ToUnixMicros(now + result.ttl));
  commit.manifest = promised;
  const Session answer = result;
  SharedSnapshot cached(read_back);
  cached.manifest = promised;
  // Before the queue has it: what is written must find it there.
  cache_->Put(tenant, cached, LoadCost(commit.bytes));
  if (queue_->TryAdd(std::move(commit))) {
    if (base.degraded) {
      absl::MutexLock guard(&mu_);
      ++stats_.degraded_commits;
    }
    return answer;
  }
  // No room: this caller waits, and with it whatever feeds the queue.
  cache_->Erase(tenant, options.snapshot_id);
  RETURN_IF_ERROR(Settle(key));
  return WriteThrough(key, expected_version, snapshot, read_back, std::move(options), base.lease);
}

absl::StatusOr<Session> TieredStore::WriteThrough(const Key& key, uint64_t expected_version,
                                                  const std::shared_ptr<const Snapshot>& snapshot,
                                                  const std::shared_ptr<const Snapshot>& read_back,
                                                  CommitOptions options, const LeaseRef& lease) {
  if (lease) {
    if (lease.Lapsed()) {
      LeaseRef again = lease.Share();
      RETURN_IF_ERROR(Heard(key, again.Recover()));
    }
    options.lease_token = lease.token();
  }
  absl::StatusOr<Session> session =
      backend_->CommitShared(key.first, key.second, expected_version, snapshot, options);
  backend_full_ = absl::IsResourceExhausted(session.status());
  if (!session.ok()) {
    // It may have been carried out, or somebody else was there.
    Forget(key);
    return Typed(session.status());
  }
  {
    absl::MutexLock lock(&mu_);
    ++stats_.written_through;
  }
  if (session->head_snapshot_id == options.snapshot_id) {
    SharedSnapshot cached(read_back);
    auto manifest = std::make_shared<SnapshotManifest>(read_back->manifest);
    manifest->snapshot_id = options.snapshot_id;
    for (SnapshotPart& part : manifest->parts) part.chunks.clear();
    cached.manifest = std::move(manifest);
    cache_->Put(key.first, std::move(cached), LoadCost(CountBytes(*read_back)));
  }
  // A repeat's answer is what was true then, not now.
  const auto seen = FindSeen(key);
  if (!seen.has_value() || seen->session.version < session->version) {
    See(*session, lease.Runs() ? lease.token() : "");
  }
  return session;
}

absl::StatusOr<Session> TieredStore::Write(QueuedCommit& commit) {
  CommitOptions options = commit.options;
  const Key key(commit.tenant, commit.session_id);
  if (commit.lease) {
    if (commit.lease.Lapsed()) RETURN_IF_ERROR(Heard(key, commit.lease.Recover()));
    options.lease_token = commit.lease.token();
  }
  absl::StatusOr<Session> session = backend_->CommitShared(
      commit.tenant, commit.session_id, commit.expected_version, commit.snapshot, options);
  backend_full_ = absl::IsResourceExhausted(session.status());
  if (session.ok()) Heard(key, absl::OkStatus()).IgnoreError();
  return session;
}

void TieredStore::Done(const QueuedCommit& commit, const absl::StatusOr<Session>& written) {
  const Key key(commit.tenant, commit.session_id);
  if (written.ok()) {
    // Another's commit under the same request id: what was promised is not what is stored.
    if (written->head_snapshot_id != commit.options.snapshot_id) {
      cache_->Erase(commit.tenant, commit.options.snapshot_id);
      Forget(key);
      return;
    }
    See(*written, commit.lease.Runs() ? commit.lease.token() : "");
    return;
  }
  cache_->Erase(commit.tenant, commit.options.snapshot_id);
  Forget(key);
  const absl::Status failure = MakeStoreError(
      StoreError::kCommitsLost,
      Cat("session ", commit.session_id, ": version ", commit.result.version,
          " was acknowledged but could not be stored: ", std::string(written.status().message())));
  if (options_.on_lost != nullptr) options_.on_lost(failure);
  absl::MutexLock lock(&mu_);
  // The first says why; those that follow failed because of it.
  const auto [entry, fresh] = failures_.try_emplace(key, failure);
  if (!fresh) return;
  ++stats_.lost_sessions;
  failure_ages_.push_back(key);
  if (failures_.size() <= kMaxFailures) return;
  failures_.erase(failure_ages_.front());
  failure_ages_.pop_front();
}

}  // namespace reprise::state_store
