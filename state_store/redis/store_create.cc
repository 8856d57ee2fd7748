// StoreImpl: what makes a session. A request id is claimed, with the name and uid of the session
// that is to be made, before anything is made; so a repeat, whoever sends it and wherever the first
// try broke off, makes the same session or finds it.
#include <utility>

#include "absl/strings/numbers.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/validate.h"
#include "state_store/memory_store.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;

absl::Status Reused(std::string_view request_id) {
  return MakeStoreError(StoreError::kRequestIdReused,
                        Cat("request_id \"", request_id, "\" was used with other arguments"));
}

}  // namespace

struct StoreImpl::Creation {
  std::string_view tenant;
  NewSessionOptions options;
  RequestKind kind = RequestKind::kCreate;
  ForkSource source{};
  const Snapshot* imported = nullptr;
  Deadline deadline{};

  std::string Argument() const {
    return kind == RequestKind::kFork ? Cat(source.session_id, "/", source.snapshot_id) : "";
  }
};

struct StoreImpl::Claim {
  std::string session_id;
  std::string uid;
  std::string stored;  // the claim's field as it stands in Redis; empty: there is none of ours
};

// The claim lies as a RequestRecord; until the session is made its result has version 0 and names
// nothing but the id, with the uid in parent_session_id.
absl::StatusOr<std::optional<Session>> StoreImpl::ReadClaim(const Creation& creation,
                                                            Claim& claim) {
  const std::string key = keys_.Creations(creation.tenant);
  const std::string field = RequestField(creation.kind, creation.options.request_id);
  const Answer answer =
      client_->Run({.arguments = {"HGET", key, field}, .tail = {}, .key = key}, creation.deadline);
  RETURN_IF_ERROR(answer.reply.status());
  if (answer.reply->is_nil()) return std::nullopt;
  const std::string& sealed = answer.reply->text;
  ASSIGN_OR_RETURN(const auto bytes, Unseal(key, field, sealed, StoreError::kCorruptIndex));
  ASSIGN_OR_RETURN(const RequestRecord record, DecodeRequest(bytes));
  if (record.time <= Now() - options_.store.request_id_ttl) {
    // Forgotten; our claim takes its place.
    claim.stored = sealed;
    return std::nullopt;
  }
  if (record.argument != creation.Argument() ||
      (!creation.options.id.empty() && creation.options.id != record.session_id)) {
    return Reused(creation.options.request_id);
  }
  if (record.result.version != 0) return record.result;
  claim.session_id = record.session_id;
  claim.uid = record.result.parent_session_id;
  claim.stored = sealed;
  return std::nullopt;
}

absl::StatusOr<bool> StoreImpl::TakeClaim(const Creation& creation, Claim& claim) {
  const std::string key = keys_.Creations(creation.tenant);
  const std::string field = RequestField(creation.kind, creation.options.request_id);
  RequestRecord record;
  record.kind = creation.kind;
  record.request_id = creation.options.request_id;
  record.session_id = claim.session_id;
  record.argument = creation.Argument();
  record.time = Now();
  record.result.tenant = creation.tenant;
  record.result.id = claim.session_id;
  record.result.parent_session_id = claim.uid;
  ASSIGN_OR_RETURN(const std::string bytes, EncodeRequest(creation.tenant, record));
  const std::string sealed = Seal(key, field, bytes);
  const Answer answer = client_->Run(Eval(kCompareAndSetField, key, {field, claim.stored, sealed}),
                                     creation.deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* reply, answer.reply->Array("compare_and_set_field", 2));
  if ((*reply)[0].integer != 1) return false;
  REPRISE_FAULT_POINT("redis.create.claimed");
  claim.stored = sealed;
  return true;
}

void StoreImpl::FinishClaim(const Creation& creation, Claim& claim, const Session* result) {
  if (claim.stored.empty()) return;
  const std::string key = keys_.Creations(creation.tenant);
  const std::string field = RequestField(creation.kind, creation.options.request_id);
  std::string sealed;  // empty: the claim is given up
  if (result != nullptr) {
    RequestRecord record;
    record.kind = creation.kind;
    record.request_id = creation.options.request_id;
    record.session_id = result->id;
    record.argument = creation.Argument();
    record.time = Now();
    record.result = *result;
    const auto bytes = EncodeRequest(creation.tenant, record);
    if (!bytes.ok()) return;
    sealed = Seal(key, field, *bytes);
  }
  // If this is lost, the claim stands, and a repeat finds the session by its uid.
  client_->Run(Eval(kCompareAndSetField, key, {field, claim.stored, sealed}), creation.deadline)
      .reply.status()
      .IgnoreError();
  claim.stored.clear();
}

// Joins whoever holds the chunks of `manifest` for its source, or, where that cannot be, pins them
// anew. DATA_LOSS (kCorruptChunk) also if the source has let go of them meanwhile.
absl::StatusOr<uint64_t> StoreImpl::PinOrigin(std::string_view tenant, std::string_view session_id,
                                              const SessionRecord& source,
                                              const SnapshotManifest& manifest, Deadline deadline,
                                              PinUse& use) {
  const SnapshotRow* row = source.FindSnapshot(manifest.snapshot_id);
  if (row != nullptr && !row->use.user.empty()) {
    const PinScope shared{tenant, session_id, row->use.pin, use.user, deadline};
    ASSIGN_OR_RETURN(const uint64_t stamp, chunks_.Share(shared));
    REPRISE_FAULT_POINT("redis.fork.joined");
    if (stamp != 0) {
      // If the source names it still, it leaves the hold after we have joined.
      const absl::StatusOr<Loaded> again = Load(tenant, source.session.id, Wanted{}, deadline);
      const SnapshotRow* now =
          again.ok() ? again->record.FindSnapshot(manifest.snapshot_id) : nullptr;
      if (now != nullptr && now->use == row->use) {
        use.pin = row->use.pin;
        return stamp;
      }
      chunks_.Unpin(shared, manifest);
      RETURN_IF_ERROR(again.status());
      return MakeStoreError(StoreError::kCorruptChunk,
                            Cat("snapshot ", manifest.snapshot_id, " was let go of"));
    }
  }
  return chunks_.Pin({tenant, session_id, use.pin, use.user, deadline}, manifest);
}

absl::StatusOr<Session> StoreImpl::TryMake(Creation& creation, Claim& claim) {
  const std::string_view tenant = creation.tenant;
  const Deadline deadline = creation.deadline;
  const bool remembered = !creation.options.request_id.empty();
  bool unsure = false;
  std::string failed_rev;
  for (;;) {
    const absl::Time now = Now();
    Wanted target_wanted;
    target_wanted.creation = remembered;
    ASSIGN_OR_RETURN(const Loaded target, Load(tenant, claim.session_id, target_wanted, deadline));
    if (target.exists && target.record.uid == claim.uid) {
      // An earlier try has made it.
      return target.creation.value_or(target.record.session);
    }
    SessionIndex index;
    if (target.exists) RETURN_IF_ERROR(AddToIndex(target.record, {}, {}, index));
    Origin origin;
    origin.kind = creation.kind;
    Loaded source;
    if (creation.kind == RequestKind::kFork) {
      origin.source = creation.source;
      Wanted wanted;
      wanted.head = creation.source.snapshot_id.empty();
      if (!wanted.head) wanted.snapshots = {creation.source.snapshot_id};
      ASSIGN_OR_RETURN(source, Load(tenant, creation.source.session_id, wanted, deadline));
      if (source.exists && creation.source.session_id != claim.session_id) {
        // Beside the target, which may be an expired one with the same snapshots.
        index = SessionIndex();
        RETURN_IF_ERROR(AddToIndex(source.record, source.manifests, {}, index));
        if (target.exists) RETURN_IF_ERROR(AddToIndex(target.record, {}, {}, index));
      }
    }
    std::shared_ptr<SnapshotManifest> imported;
    if (creation.imported != nullptr) {
      imported = std::make_shared<SnapshotManifest>(creation.imported->manifest);
      imported->format_version = kManifestVersion;
      imported->tenant = tenant;
      imported->snapshot_id = MakeFreshId();
      imported->parent_snapshot_id.clear();
      imported->created_at = now;
      origin.imported = imported;
    }
    NewSessionOptions options = creation.options;
    options.id = claim.session_id;
    options.request_id.clear();
    ASSIGN_OR_RETURN(const Plan plan,
                     PlanCreate(index, tenant, options, origin, claim.session_id, now));
    const Session& session = plan.session;

    SessionRecord record;
    record.session = session;
    record.uid = claim.uid;
    Change change;
    change.expected_rev = target.rev;
    change.new_rev = NewToken();
    change.replace = true;
    PinUse use{NewToken(), NewToken()};
    const std::string key = keys_.Session(tenant, session.id);
    std::shared_ptr<const SnapshotManifest> head = imported;
    if (creation.kind == RequestKind::kFork) {
      head = source.manifests.at(session.parent_snapshot_id);
      const absl::StatusOr<uint64_t> pinned =
          PinOrigin(tenant, session.id, source.record, *head, deadline, use);
      // The source may just have let go of it. If it has not, it is damaged.
      if (GetStoreError(pinned.status()) == StoreError::kCorruptChunk && source.rev != failed_rev) {
        failed_rev = source.rev;
        continue;
      }
      RETURN_IF_ERROR(pinned.status());
      change.oldest_pin = *pinned;
    } else if (imported != nullptr) {
      ASSIGN_OR_RETURN(
          change.oldest_pin,
          chunks_.Store({tenant, session.id, use.pin, use.user, deadline},
                        {creation.imported->payloads.begin(), creation.imported->payloads.end()},
                        imported->parts, nullptr));
    }
    absl::StatusOr<ApplyResult> applied = [&]() -> absl::StatusOr<ApplyResult> {
      ASSIGN_OR_RETURN(change.fields, ApplyToRecord(plan.mutation, key, use, record));
      if (creation.kind == RequestKind::kFork) {
        // The plan names a snapshot that is there; this session gets a manifest of its own.
        record.snapshots.push_back({record.next_order++, head->snapshot_id, false, use});
        ASSIGN_OR_RETURN(change.fields, ApplyToRecord({}, key, use, record));
        ASSIGN_OR_RETURN(const std::string bytes, EncodeManifest(*head));
        const std::string field = ManifestField(head->snapshot_id);
        change.fields.sets.emplace_back(field, Seal(key, field, bytes));
      }
      change.fields.deletes.clear();
      if (remembered) {
        ASSIGN_OR_RETURN(const std::string bytes, EncodeSession(session));
        change.fields.sets.emplace_back("f", Seal(key, "f", bytes));
      }
      RETURN_IF_ERROR(AddToLists(tenant, session.id, session.expires, deadline));
      REPRISE_FAULT_POINT("redis.create.listed");
      return Apply(tenant, session.id, change, deadline, nullptr);
    }();
    const bool done = applied.ok() && applied->what == Applied::kDone;
    if (!done && head != nullptr &&
        (applied.ok() || GetOutcome(applied.status()) == Outcome::kNotDone)) {
      chunks_.Unpin({tenant, session.id, use.pin, use.user, deadline}, *head);
    }
    RETURN_IF_ERROR(applied.status());
    if (done) {
      LetGo(tenant, session.id, target.record.snapshots, applied->let_go, deadline);
      // Again: a deletion of that name, going on at the same time, may have taken it off.
      AddToLists(tenant, session.id, session.expires, deadline).IgnoreError();
      return session;
    }
    unsure = unsure || applied->unsure;
    if (TimeLeft(deadline) == absl::ZeroDuration()) {
      return MakeRedisError(RedisError::kTimeout, unsure ? Outcome::kUnknown : Outcome::kNotDone,
                            Cat("session ", session.id, " kept changing"));
    }
  }
}

absl::StatusOr<Session> StoreImpl::Make(Creation& creation) {
  ReleaseDue(/*all=*/false);
  const NewSessionOptions& options = creation.options;
  if (options.request_id.size() > kMaxRequestIdBytes) {
    return MakeStoreError(StoreError::kInvalidArgument, "request_id is too long");
  }
  for (;;) {
    Claim claim;
    if (!options.request_id.empty()) {
      ASSIGN_OR_RETURN(std::optional<Session> answer, ReadClaim(creation, claim));
      if (answer.has_value()) return *std::move(answer);
    }
    if (claim.uid.empty()) {
      claim.session_id = options.id.empty() ? MakeFreshId() : options.id;
      claim.uid = NewToken();
      if (!options.id.empty() && !IsValidSessionId(options.id)) {
        return MakeStoreError(StoreError::kInvalidArgument,
                              "session id must match [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?");
      }
      if (!options.request_id.empty()) {
        ASSIGN_OR_RETURN(const bool taken, TakeClaim(creation, claim));
        // Somebody else has the same request in hand: look at theirs.
        if (!taken) continue;
      }
    }
    absl::StatusOr<Session> session = TryMake(creation, claim);
    REPRISE_FAULT_POINT("redis.create.made");
    if (session.ok()) {
      FinishClaim(creation, claim, &*session);
    } else if (GetOutcome(session.status()) == Outcome::kNotDone) {
      FinishClaim(creation, claim, nullptr);
    }
    return session;
  }
}

absl::StatusOr<Session> StoreImpl::CreateSession(std::string_view tenant,
                                                 const NewSessionOptions& options) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  Creation creation{tenant, options, RequestKind::kCreate, {}, nullptr, NewDeadline()};
  return Make(creation);
}

absl::StatusOr<Session> StoreImpl::Fork(std::string_view tenant, const ForkSource& source,
                                        const NewSessionOptions& options) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  Creation creation{tenant, options, RequestKind::kFork, source, nullptr, NewDeadline()};
  return Make(creation);
}

absl::StatusOr<Session> StoreImpl::ImportSnapshot(std::string_view tenant,
                                                  const NewSessionOptions& options,
                                                  ByteSource& source) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  // The embedded store reads and verifies the whole stream before anything goes to Redis.
  const StoreOptions memory_options = OptionsForCopies();
  ASSIGN_OR_RETURN(const auto memory, CreateMemoryStore(memory_options));
  ASSIGN_OR_RETURN(const Session received, memory->ImportSnapshot(tenant, {}, source));
  ASSIGN_OR_RETURN(const Snapshot snapshot, memory->ReadSnapshot(tenant, received.id, ""));
  Creation creation{tenant, options, RequestKind::kImport, {}, &snapshot, NewDeadline()};
  return Make(creation);
}

}  // namespace reprise::state_store::redis
