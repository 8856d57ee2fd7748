// StoreImpl: commits. A session that moves again and again from one process does so in one round
// trip: the bytes of its chunks, a script that looks whether all are there and changes the record,
// and what takes the head before it away. That goes by the record as this process saw it last. The
// long way goes by what is asked: read and check, pin and store, change, let go.
#include <algorithm>
#include <utility>

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

constexpr int kPinAttempts = 3;
// A commit of more bytes than this first asks whether the session is where it was: who lost a race
// should not have sent them.
constexpr size_t kUnaskedBytes = 512 << 10;
// What is left of a state that is larger goes along with the script that commits it.
constexpr uint64_t kAtOnceBytes = 8 << 20;

bool IsRemembered(const KnownRecord& known, const CommitOptions& options) {
  return std::any_of(
      known.record.requests.begin(), known.record.requests.end(), [&](const RequestRow& row) {
        return row.kind == RequestKind::kCommit && row.request_id == options.request_id;
      });
}

}  // namespace

// One PutAndCommit.
struct StoreImpl::Commit {
  std::string_view tenant;
  std::string_view session_id;
  const CommitOptions& options;
  Deadline deadline;
  CommitRequest request;
  Wanted wanted{};
  std::shared_ptr<SnapshotManifest> manifest{};
  EncodedPayloads payloads{};
  Loaded loaded{};  // the session as it is or was
  bool unsure = false;
};

// How a commit at once changes the session.
struct StoreImpl::AtOnce {
  Session session{};
  SessionRecord record{};
  Change change{};
  size_t script = 0;     // which of the commands
  bool lets_go = false;  // those behind it take the head before away
};

Replication StoreImpl::ReplicationFor(const CommitOptions& options) const {
  const int asked = options.replicas < 0 ? options_.sync_replicas : options.replicas;
  const int replicas = options.durability == Durability::kSync ? asked : 0;
  return {replicas, options_.sync_timeout, replicas};
}

absl::Status StoreImpl::CheckReplicas(const Replication& replication) const {
  if (replication.reached >= replication.replicas) return absl::OkStatus();
  return MakeRedisError(RedisError::kUnready, Outcome::kUnknown,
                        Cat("the master has it, but of ", replication.replicas, " replicas only ",
                            replication.reached));
}

absl::Status StoreImpl::WaitForReplicas(std::string_view tenant, std::string_view session_id,
                                        Replication replication, Deadline deadline) {
  if (replication.replicas == 0) return absl::OkStatus();
  // WAIT counts what its own connection wrote, so something has to be written.
  const std::string key = keys_.Session(tenant, session_id);
  const Answer answer =
      client_->Run({.arguments = {"HINCRBY", key, "synced", "1"}, .tail = {}, .key = key}, deadline,
                   &replication);
  RETURN_IF_ERROR(answer.reply.status());
  return CheckReplicas(replication);
}

// The script of a commit at once, and what takes the head before it away.
absl::Status StoreImpl::PlanAtOnce(const Commit& commit, const PinUse& use,
                                   const PreparedChunks& prepared, AtOnce& plan,
                                   std::vector<Command>& commands) const {
  const std::string key = keys_.Session(commit.tenant, commit.session_id);
  const SnapshotManifest& head =
      *commit.loaded.manifests.at(commit.loaded.record.session.head_snapshot_id);
  SessionIndex index;
  RETURN_IF_ERROR(AddToIndex(commit.loaded.record, commit.loaded.manifests, {}, index));
  ASSIGN_OR_RETURN(const Plan planned, PlanCommit(index, commit.request, commit.manifest->model_id,
                                                  commit.manifest, commit.options.keep));
  plan.session = planned.session;
  plan.record = commit.loaded.record;
  Change& change = plan.change;
  ASSIGN_OR_RETURN(change.fields, ApplyToRecord(planned.mutation, key, use, plan.record));
  change.token = commit.options.lease_token;
  change.expected_rev = commit.loaded.rev;
  change.new_rev = NewToken();

  std::vector<std::string> keys = {key, keys_.Hold(commit.tenant, use.pin)};
  keys.insert(keys.end(), prepared.keys.begin(), prepared.keys.end());
  keys.push_back(keys_.Counters(commit.tenant));
  std::vector<std::string> arguments = {Cat(prepared.keys.size()), use.pin, use.user,
                                        std::string(commit.session_id)};
  arguments.insert(arguments.end(), prepared.headers.begin(), prepared.headers.end());
  for (std::string& argument : ApplyArguments(change)) arguments.push_back(std::move(argument));
  plan.script = commands.size();
  commands.push_back(EvalKeys(kCommit, std::move(keys), std::move(arguments)));
  const std::vector<SnapshotRow>& dropped = change.fields.dropped;
  plan.lets_go =
      dropped.size() == 1 && dropped[0].id == head.snapshot_id && !dropped[0].use.user.empty();
  if (plan.lets_go) {
    const PinScope old{commit.tenant, commit.session_id, dropped[0].use.pin, dropped[0].use.user,
                       commit.deadline};
    for (Command& command : chunks_.UnpinCommands(old, head, key, change.new_rev)) {
      commands.push_back(std::move(command));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Session>> StoreImpl::CommitAtOnce(Commit& commit) {
  const std::string key = keys_.Session(commit.tenant, commit.session_id);
  const std::shared_ptr<const SnapshotManifest> head =
      commit.loaded.manifests.at(commit.loaded.record.session.head_snapshot_id);
  const PinUse use{NewToken(), NewToken()};
  const PinScope scope{commit.tenant, commit.session_id, use.pin, use.user, commit.deadline};
  std::vector<SnapshotPart>& parts = commit.manifest->parts;
  ASSIGN_OR_RETURN(const auto chunks,
                   chunks_.Cut(commit.tenant, commit.payloads.views, parts, head.get()));
  if (chunks->done()) return std::nullopt;  // there are none
  AtOnce plan;
  ASSIGN_OR_RETURN(plan.change.oldest_pin,
                   chunks_.Store(scope, *chunks, nullptr, ChunkTable::Trust::kSend, kAtOnceBytes));

  PreparedChunks prepared;
  absl::Status planned = absl::OkStatus();
  // While the server takes some chunks the next ones are named, and last of all the change is
  // planned.
  const auto make = [&](std::vector<Command>& commands) {
    if (!chunks->done()) {
      planned = chunks_.Prepare(*chunks, prepared, commands);
      return planned.ok();
    }
    chunks->Describe(parts);
    planned = PlanAtOnce(commit, use, prepared, plan, commands);
    REPRISE_FAULT_POINT("redis.commit.at_once");
    return false;
  };
  std::vector<Command> commands;
  const std::vector<Answer> answers = client_->RunMade(key, make, commands, commit.deadline);
  REPRISE_FAULT_POINT("redis.commit.answered");

  const auto undo = [&] {
    chunks_.Unpin(scope, *commit.manifest);
    chunks_.Discard(scope, prepared);
  };
  if (!planned.ok()) {
    undo();
    return planned;
  }
  const Answer& answer = answers[plan.script];
  // The script looks at the revision first: this one has not been carried out.
  if (answer.reply.ok() && !answer.reply->elements.empty() &&
      answer.reply->elements[0].text == "chunks") {
    undo();
    return std::nullopt;
  }
  const absl::StatusOr<ApplyResult> applied = ReadApplied(key, commit.session_id, answer);
  if (!applied.ok() || applied->what != Applied::kDone) {
    records_.Forget(key);
    commit.unsure = answer.unsure;
    // In doubt the pins stay: a manifest that names the chunks may be there.
    if (applied.ok() ? !commit.unsure : GetOutcome(applied.status()) == Outcome::kNotDone) undo();
    RETURN_IF_ERROR(applied.status());
    return std::nullopt;
  }
  const Manifests manifests = {{commit.manifest->snapshot_id, commit.manifest}};
  Remember(key, plan.change.new_rev, plan.record, manifests);
  const absl::StatusOr<Reply>* left = plan.lets_go ? &answers[plan.script + 1].reply : nullptr;
  if (left == nullptr || !left->ok() || (*left)->elements.empty() ||
      (*left)->elements[0].integer < 0) {
    LetGo(commit.tenant, commit.session_id, plan.change.fields.dropped, applied->let_go,
          commit.deadline);
  }
  return plan.session;
}

absl::StatusOr<Session> StoreImpl::PutAndCommit(std::string_view tenant,
                                                std::string_view session_id,
                                                uint64_t expected_version, const Snapshot& snapshot,
                                                const CommitOptions& options) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  RETURN_IF_ERROR(ValidateNewManifest(snapshot.manifest));
  RETURN_IF_ERROR(CheckPayloads(snapshot));
  if (options.replicas > RedisStoreOptions::kMaxReplicas) {
    return MakeStoreError(StoreError::kInvalidArgument,
                          Cat("replicas must be at most ", RedisStoreOptions::kMaxReplicas));
  }
  ReleaseDue(/*all=*/false);
  Commit commit{tenant, session_id, options, NewDeadline(),
                MakeRequest(tenant, session_id, expected_version, options.request_id)};
  commit.request.note = options.note;
  commit.request.now = std::min(commit.request.now, options.accepted);
  if (!options.request_id.empty()) {
    commit.wanted.request = {RequestKind::kCommit, options.request_id};
  }
  commit.manifest = std::make_shared<SnapshotManifest>(snapshot.manifest);
  // A cluster has no script over several keys, a cap is asked for between the steps, and what
  // replicas do not have is not to be committed.
  std::shared_ptr<const KnownRecord> known;
  if (!is_cluster_ && options_.store.max_stored_bytes == 0 &&
      ReplicationFor(options).replicas == 0) {
    known = records_.Find(keys_.Session(tenant, session_id));
  }
  size_t bytes = 0;
  for (const std::string& payload : snapshot.payloads) bytes += payload.size();
  bool asked = known == nullptr || bytes > kUnaskedBytes || IsRemembered(*known, options);
  for (;; asked = true) {
    if (asked) {
      ASSIGN_OR_RETURN(commit.loaded, Load(tenant, session_id, commit.wanted, commit.deadline));
      if (known != nullptr && known->rev != commit.loaded.rev) known = nullptr;
    } else {
      commit.loaded = {true, known->rev, known->record};
    }
    // Before any byte is written: the loser of a race, and a repeat, should cost nothing.
    SessionIndex index;
    if (commit.loaded.exists) {
      RETURN_IF_ERROR(AddToIndex(commit.loaded.record, {}, commit.loaded.requests, index));
    }
    absl::StatusOr<Plan> check =
        PlanCommit(index, commit.request, commit.manifest->model_id, nullptr, options.keep);
    if (!check.ok() && !asked) continue;
    if (check.ok() && check->session.version != 0) {
      RETURN_IF_ERROR(
          WaitForReplicas(tenant, session_id, ReplicationFor(options), commit.deadline));
      return std::move(check->session);
    }
    if (commit.unsure) return LostAnswer(session_id);
    RETURN_IF_ERROR(check.status());
    REPRISE_FAULT_POINT("redis.commit.checked");
    commit.manifest->parent_snapshot_id = commit.loaded.record.session.head_snapshot_id;
    if (commit.manifest->snapshot_id.empty()) {
      RETURN_IF_ERROR(Complete(commit, snapshot));
    }
    if (known == nullptr) return CommitInSteps(commit);
    commit.loaded.manifests = {{known->head->snapshot_id, known->head}};
    known = nullptr;
    ASSIGN_OR_RETURN(std::optional<Session> session, CommitAtOnce(commit));
    if (session.has_value()) return *std::move(session);
  }
}

// What does not change from one try to the next.
absl::Status StoreImpl::Complete(Commit& commit, const Snapshot& snapshot) const {
  SnapshotManifest& manifest = *commit.manifest;
  manifest.format_version = kManifestVersion;
  ASSIGN_OR_RETURN(manifest.snapshot_id, SnapshotIdOr(commit.options.snapshot_id));
  manifest.tenant = commit.tenant;
  manifest.created_at = commit.request.now;
  ASSIGN_OR_RETURN(commit.payloads,
                   EncodeLossy(options_.store.lossy, snapshot.payloads, manifest.parts));
  return absl::OkStatus();
}

absl::StatusOr<Session> StoreImpl::CommitInSteps(Commit& commit) {
  const CommitOptions& options = commit.options;
  const Loaded* loaded = &commit.loaded;
  for (int attempt = 1;; ++attempt) {
    const PinUse use{NewToken(), NewToken()};
    const PinScope scope{commit.tenant, commit.session_id, use.pin, use.user, commit.deadline};
    Replication replication = ReplicationFor(options);
    bool stale_pins = false;
    absl::StatusOr<Session> result = [&]() -> absl::StatusOr<Session> {
      Change change;
      change.token = options.lease_token;
      Replication chunk_replication = replication;
      ASSIGN_OR_RETURN(
          change.oldest_pin,
          chunks_.Store(scope, commit.payloads.views, commit.manifest->parts, &chunk_replication));
      REPRISE_FAULT_POINT("redis.commit.stored");
      RETURN_IF_ERROR(CheckReplicas(chunk_replication));
      // If the version still fits, so does parent_snapshot_id: the head moves with it only.
      return Mutate(
          commit.tenant, commit.session_id, commit.wanted,
          [&](const SessionIndex& index) {
            commit.request.now = std::min(Now(), options.accepted);
            return PlanCommit(index, commit.request, commit.manifest->model_id, commit.manifest,
                              options.keep);
          },
          use, change, commit.deadline, &replication, &stale_pins, std::exchange(loaded, nullptr));
    }();
    if (result.ok()) {
      RETURN_IF_ERROR(CheckReplicas(replication));
      if (result->head_snapshot_id != commit.manifest->snapshot_id) {
        // A repeat whose first try was finished meanwhile by another call.
        chunks_.Unpin(scope, *commit.manifest);
        RETURN_IF_ERROR(WaitForReplicas(commit.tenant, commit.session_id, ReplicationFor(options),
                                        commit.deadline));
      }
      return result;
    }
    // In doubt the pins stay: a manifest that names the chunks may be there.
    if (GetOutcome(result.status()) == Outcome::kNotDone) chunks_.Unpin(scope, *commit.manifest);
    if (!stale_pins || attempt == kPinAttempts) return result;
  }
}

}  // namespace reprise::state_store::redis
