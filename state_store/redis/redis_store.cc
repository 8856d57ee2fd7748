#include "state_store/redis/redis_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/validate.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

// Of record_cache.h.
constexpr size_t kKnownRecords = 1024;

absl::Status CheckOptions(const RedisStoreOptions& options) {
  const auto refuse = [](std::string_view what) {
    return MakeStoreError(StoreError::kInvalidArgument, Cat("Redis store option ", what));
  };
  RETURN_IF_ERROR(ValidateStoreOptions(options.store));
  if (options.key_prefix.find_first_of("{}") != std::string::npos) return refuse("key_prefix");
  if (options.operation_timeout <= absl::ZeroDuration()) return refuse("operation_timeout");
  if (options.sync_replicas < 0 || options.sync_replicas > RedisStoreOptions::kMaxReplicas)
    return refuse("sync_replicas");
  if (options.sync_timeout <= absl::ZeroDuration()) return refuse("sync_timeout");
  if (options.pin_grace <= absl::ZeroDuration()) return refuse("pin_grace");
  if (options.cluster_release_delay < absl::ZeroDuration()) return refuse("cluster_release_delay");
  return absl::OkStatus();
}

}  // namespace

std::string NewToken() { return MakeFreshId(); }

absl::Status LostAnswer(std::string_view session_id) {
  return MakeRedisError(RedisError::kClosed, Outcome::kUnknown,
                        Cat("an answer about session ", session_id, " was lost"));
}

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Create(const RedisStoreOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const Address address, ParseAddress(options.client.url));
  ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Create(options.client));
  return std::make_unique<StoreImpl>(options, std::move(client),
                                     address.topology == Topology::kCluster);
}

StoreImpl::StoreImpl(const RedisStoreOptions& options, std::unique_ptr<Client> client,
                     bool is_cluster)
    : options_(options),
      page_key_(options.store.page_token_key.empty() ? MakeFreshId()
                                                     : options.store.page_token_key),
      keys_(options.key_prefix),
      client_(std::move(client)),
      chunks_(*client_, keys_, options_.store, options_.known_chunks.get(), is_cluster),
      is_cluster_(is_cluster),
      release_delay_(is_cluster ? options.cluster_release_delay : absl::ZeroDuration()),
      records_(kKnownRecords) {}

// What still waits to be let go of is found by CollectGarbage.
StoreImpl::~StoreImpl() = default;

absl::Time StoreImpl::Now() const {
  // Whole microseconds, so that what is returned now equals what is read back later.
  return absl::FromUnixMicros(absl::ToUnixMicros(options_.store.clock()));
}

CommitRequest StoreImpl::MakeRequest(std::string_view tenant, std::string_view session_id,
                                     uint64_t expected_version, std::string_view request_id) const {
  return {tenant, session_id, expected_version, request_id, options_.store.request_ids_per_session,
          Now()};
}

std::vector<std::string> StoreImpl::ApplyArguments(const Change& change) const {
  const int64_t longest = absl::ToInt64Microseconds(options_.pin_grace / 4);
  std::vector<std::string> arguments = {change.expected_rev,
                                        change.new_rev,
                                        change.replace ? "replace" : "update",
                                        Cat(change.oldest_pin),
                                        Cat(longest),
                                        change.token,
                                        Cat(change.fields.deletes.size())};
  for (const std::string& field : change.fields.deletes) arguments.push_back(field);
  for (const auto& [field, value] : change.fields.sets) {
    arguments.push_back(field);
    arguments.push_back(value);
  }
  return arguments;
}

absl::StatusOr<ApplyResult> StoreImpl::Apply(std::string_view tenant, std::string_view session_id,
                                             const Change& change, Deadline deadline,
                                             Replication* replication) {
  const std::string key = keys_.Session(tenant, session_id);
  REPRISE_FAULT_POINT("redis.apply.ready");
  const Answer answer =
      client_->Run(Eval(kApplySession, key, ApplyArguments(change)), deadline, replication);
  REPRISE_FAULT_POINT("redis.apply.done");
  return ReadApplied(key, session_id, answer);
}

absl::StatusOr<ApplyResult> StoreImpl::ReadApplied(const std::string& key,
                                                   std::string_view session_id,
                                                   const Answer& answer) const {
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* reply, answer.reply->Array("apply_session", 1));
  ApplyResult result;
  result.unsure = answer.unsure;
  const std::string& word = reply->front().text;
  if (word == "ok" || word == "same") {
    for (size_t i = 1; i + 1 < reply->size(); i += 2) {
      // What cannot be read cannot be unpinned here; CollectGarbage needs no manifest for that.
      const std::string& field = (*reply)[i].text;
      const auto bytes = Unseal(key, field, (*reply)[i + 1].text, StoreError::kCorruptManifest);
      if (!bytes.ok()) continue;
      auto manifest = DecodeManifest(*bytes);
      if (!manifest.ok()) continue;
      std::shared_ptr<const SnapshotManifest>& place = result.let_go[manifest->snapshot_id];
      place = std::make_shared<const SnapshotManifest>(*std::move(manifest));
    }
    return result;
  }
  if (word == "conflict") {
    result.what = Applied::kConflict;
    result.gone = reply->size() > 1 && (*reply)[1].text.empty();
    return result;
  }
  if (word == "stale") {
    result.what = Applied::kStalePins;
    return result;
  }
  RETURN_IF_ERROR(LeaseRefusal(*reply, session_id));
  return MakeRedisError(RedisError::kProtocol, Outcome::kUnknown, "apply_session: strange answer");
}

absl::StatusOr<Session> StoreImpl::Mutate(std::string_view tenant, std::string_view session_id,
                                          const Wanted& wanted, const Planner& planner,
                                          const PinUse& use, const Change& change,
                                          Deadline deadline, Replication* replication,
                                          bool* stale_pins, const Loaded* known) {
  ReleaseDue(/*all=*/false);
  const std::string key = keys_.Session(tenant, session_id);
  bool unsure = false;
  for (;;) {
    Loaded loaded;
    if (known != nullptr) {
      loaded = *std::exchange(known, nullptr);
    } else {
      ASSIGN_OR_RETURN(loaded, Load(tenant, session_id, wanted, deadline));
    }
    SessionIndex index;
    if (loaded.exists) {
      RETURN_IF_ERROR(AddToIndex(loaded.record, loaded.manifests, loaded.requests, index));
    }
    absl::StatusOr<Plan> plan = planner(index);
    if (plan.ok() && plan->mutation.ops.empty()) return std::move(plan->session);
    if (unsure) return LostAnswer(session_id);
    RETURN_IF_ERROR(plan.status());

    SessionRecord record = loaded.record;
    Change next = change;
    next.expected_rev = loaded.rev;
    ASSIGN_OR_RETURN(next.fields, ApplyToRecord(plan->mutation, key, use, record));
    const bool erases =
        std::any_of(plan->mutation.ops.begin(), plan->mutation.ops.end(),
                    [](const Op& op) { return std::holds_alternative<EraseSession>(op); });
    std::vector<SnapshotRow> dropped = next.fields.dropped;
    if (erases) {
      next.fields = FieldChanges{};
      dropped = loaded.record.snapshots;
    } else {
      next.new_rev = NewToken();
    }
    ASSIGN_OR_RETURN(const ApplyResult result,
                     Apply(tenant, session_id, next, deadline, replication));
    if (result.what == Applied::kDone ||
        (erases && result.what == Applied::kConflict && result.gone && result.unsure)) {
      if (!erases) {
        for (const Op& op : plan->mutation.ops) {
          const auto* put = std::get_if<PutSnapshot>(&op);
          if (put != nullptr) loaded.manifests[put->manifest->snapshot_id] = put->manifest;
        }
        Remember(key, next.new_rev, record, loaded.manifests);
      }
      if (replication == nullptr || CheckReplicas(*replication).ok()) {
        LetGo(tenant, session_id, dropped, result.let_go, deadline);
      }
      return std::move(plan->session);
    }
    if (result.what == Applied::kStalePins) {
      if (stale_pins != nullptr) *stale_pins = true;
      return MakeRedisError(RedisError::kUnready, Outcome::kNotDone, "pins have grown too old");
    }
    unsure = unsure || result.unsure;
    if (TimeLeft(deadline) == absl::ZeroDuration()) {
      return MakeRedisError(RedisError::kTimeout, unsure ? Outcome::kUnknown : Outcome::kNotDone,
                            Cat("session ", session_id, " kept changing"));
    }
  }
}

void StoreImpl::Remember(const std::string& key, const std::string& rev,
                         const SessionRecord& record, const Manifests& manifests) {
  const auto head = manifests.find(record.session.head_snapshot_id);
  records_.Put(key, {rev, record, head == manifests.end() ? nullptr : head->second});
}

void StoreImpl::LetGo(std::string_view tenant, std::string_view session_id,
                      const std::vector<SnapshotRow>& rows, const Manifests& manifests,
                      Deadline deadline) {
  for (const SnapshotRow& row : rows) {
    const auto manifest = manifests.find(row.id);
    if (manifest == manifests.end()) continue;
    if (release_delay_ == absl::ZeroDuration()) {
      chunks_.Unpin({tenant, session_id, row.use.pin, row.use.user, deadline}, *manifest->second);
      continue;
    }
    absl::MutexLock lock(&mu_);
    releases_.push_back({DeadlineAfter(release_delay_), std::string(tenant),
                         std::string(session_id), row.use, manifest->second});
  }
}

void StoreImpl::ReleaseDue(bool all) {
  for (;;) {
    Release release;
    {
      absl::MutexLock lock(&mu_);
      if (releases_.empty() || (!all && TimeLeft(releases_.front().due) > absl::ZeroDuration())) {
        return;
      }
      release = std::move(releases_.front());
      releases_.pop_front();
    }
    chunks_.Unpin(
        {release.tenant, release.session_id, release.use.pin, release.use.user, NewDeadline()},
        *release.manifest);
  }
}

absl::StatusOr<Session> StoreImpl::Rewind(std::string_view tenant, std::string_view session_id,
                                          std::string_view snapshot_id, uint64_t expected_version,
                                          std::string_view request_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  CommitRequest request = MakeRequest(tenant, session_id, expected_version, request_id);
  Wanted wanted;
  wanted.head = snapshot_id.empty();
  if (!snapshot_id.empty()) wanted.snapshots = {std::string(snapshot_id)};
  if (!request_id.empty()) wanted.request = {RequestKind::kRewind, std::string(request_id)};
  Change change;
  change.token = "";
  return Mutate(
      tenant, session_id, wanted,
      [&](const SessionIndex& index) { return PlanRewind(index, request, snapshot_id); }, {},
      change, NewDeadline());
}

absl::StatusOr<Session> StoreImpl::UpdateSession(std::string_view tenant,
                                                 std::string_view session_id,
                                                 const SessionUpdate& update) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Deadline deadline = NewDeadline();
  const absl::Time now = Now();
  if (update.ttl.has_value() && *update.ttl < absl::InfiniteDuration()) {
    // Before the change: a session that expires must be on the list of those.
    RETURN_IF_ERROR(AddToLists(tenant, session_id, now + *update.ttl, deadline));
  }
  absl::StatusOr<Session> session = Mutate(
      tenant, session_id, Wanted{},
      [&](const SessionIndex& index) { return PlanUpdate(index, tenant, session_id, update, now); },
      {}, Change{}, deadline);
  if (absl::IsNotFound(session.status())) {
    RemoveFromLists(tenant, session_id, deadline).IgnoreError();
  }
  return session;
}

absl::Status StoreImpl::DeleteSession(std::string_view tenant, std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Deadline deadline = NewDeadline();
  absl::Status erased =
      Mutate(
          tenant, session_id, Wanted{},
          [&](const SessionIndex& index) { return PlanDelete(index, tenant, session_id); }, {},
          Change{}, deadline)
          .status();
  // One that cannot be read can still be deleted.
  if (absl::IsDataLoss(erased)) erased = EraseDamaged(tenant, session_id, deadline);
  RETURN_IF_ERROR(erased);
  REPRISE_FAULT_POINT("redis.delete.erased");
  // A list that still names it does no harm; SweepExpired and CollectGarbage take it off.
  RemoveFromLists(tenant, session_id, deadline).IgnoreError();
  return absl::OkStatus();
}

absl::Status StoreImpl::EraseDamaged(std::string_view tenant, std::string_view session_id,
                                     Deadline deadline) {
  const std::string key = keys_.Session(tenant, session_id);
  const Answer rev =
      client_->Run({.arguments = {"HGET", key, "rev"}, .tail = {}, .key = key}, deadline);
  RETURN_IF_ERROR(rev.reply.status());
  Change change;
  change.expected_rev = rev.reply->text;
  // Its pins are not known for sure: they are left to CollectGarbage.
  ASSIGN_OR_RETURN(const ApplyResult result, Apply(tenant, session_id, change, deadline, nullptr));
  if (result.what == Applied::kDone || result.gone) return absl::OkStatus();
  return MakeRedisError(RedisError::kUnready, Outcome::kNotDone,
                        Cat("session ", session_id, " is being changed"));
}

absl::StatusOr<SnapshotInfo> StoreImpl::CreateSnapshot(std::string_view tenant,
                                                       std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const Session session, Mutate(
                                              tenant, session_id, Wanted{},
                                              [&](const SessionIndex& index) {
                                                return PlanRetainHead(index, tenant, session_id,
                                                                      Now());
                                              },
                                              {}, Change{}, NewDeadline()));
  return GetSnapshot(tenant, session_id, session.head_snapshot_id);
}

absl::Status StoreImpl::DeleteSnapshot(std::string_view tenant, std::string_view session_id,
                                       std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  return Mutate(
             tenant, session_id, Wanted{},
             [&](const SessionIndex& index) {
               return PlanDeleteSnapshot(index, tenant, session_id, snapshot_id, Now());
             },
             {}, Change{}, NewDeadline())
      .status();
}

}  // namespace reprise::state_store::redis
