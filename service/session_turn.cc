#include "service/session_turn.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "service/errors.h"
#include "service/resource_names.h"

namespace reprise::service {
namespace {

// Leg of a snapshot that names the turn which made it: "session id, tokens of the turn, request
// id", separated by newlines. Frozen: it is in snapshots. A fork shares its parent's snapshots,
// hence the id.
constexpr char kTurnLeg[] = "turn";
// The head may move between two reads of it, where nothing keeps others from moving it.
constexpr int kReadAttempts = 8;

std::string TurnLeg(const std::string& session_id, int64_t committed_tokens,
                    const std::string& request_id) {
  return absl::StrCat(session_id, "\n", committed_tokens, "\n", request_id);
}

v1::TurnCommit DescribeCommit(const state_store::Session& session, int64_t committed_tokens) {
  v1::TurnCommit commit;
  commit.set_session(MakeSessionName(session.id));
  commit.set_version(session.version);
  commit.set_token_count(static_cast<int64_t>(session.token_count));
  commit.set_committed_tokens(committed_tokens);
  commit.set_snapshot(MakeSnapshotName(session.id, session.head_snapshot_id));
  return commit;
}

v1::TurnCommit DescribeRecord(const state_store::CommitRecord& record) {
  int64_t committed_tokens = 0;
  if (!absl::SimpleAtoi(record.note, &committed_tokens)) committed_tokens = 0;
  v1::TurnCommit commit = DescribeCommit(record.session, committed_tokens);
  commit.set_already_committed(true);
  return commit;
}

// The commit that `head` was made by, if that was a turn of this session under `request_id`: known
// from the state itself when the store has forgotten the request.
std::optional<v1::TurnCommit> FindInHead(const state_store::Session& session,
                                         const state_store::SnapshotManifest& head,
                                         const std::string& request_id) {
  const auto leg = head.legs.find(kTurnLeg);
  if (leg == head.legs.end()) return std::nullopt;
  const std::vector<std::string> fields = absl::StrSplit(leg->second, absl::MaxSplits('\n', 2));
  int64_t committed_tokens;
  if (fields.size() != 3 || fields[0] != session.id || fields[2] != request_id ||
      !absl::SimpleAtoi(fields[1], &committed_tokens)) {
    return std::nullopt;
  }
  v1::TurnCommit commit = DescribeCommit(session, committed_tokens);
  commit.set_already_committed(true);
  return commit;
}

absl::Status OfSession(absl::Status status, const std::string& id) {
  return WithResource(std::move(status), "session", MakeSessionName(id));
}

}  // namespace

absl::StatusOr<SessionTurn> SessionTurn::Begin(Environment* environment, const std::string& tenant,
                                               const v1::GenerateRequest& request) {
  SessionTurn turn;
  turn.environment_ = environment;
  turn.tenant_ = tenant;
  turn.request_id_ = request.request_id();
  const bool lasts = request.durability() == v1::DURABILITY_SYNC ||
                     request.durability() == v1::DURABILITY_EVERY_N_TOKENS;
  turn.durability_ = lasts ? state_store::Durability::kSync : state_store::Durability::kAsync;
  if (request.has_sync_replicas()) turn.replicas_ = request.sync_replicas();
  ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.session(), "session"));
  ASSIGN_OR_RETURN(turn.guard_, environment->busy.Mark(tenant, id));
  auto hold = environment->store->Hold(tenant, id);
  if (!hold.ok()) return OfSession(hold.status(), id);
  turn.hold_ = *std::move(hold);
  if (lasts) RETURN_IF_ERROR(turn.CheckStoreAnswers(id));
  RETURN_IF_ERROR(turn.ReadSession(id));
  if (lasts) RETURN_IF_ERROR(turn.CheckStoreAnswers(id));
  RETURN_IF_ERROR(turn.FindFirstTry());
  if (turn.already_committed_.has_value()) return turn;
  RETURN_IF_ERROR(turn.CheckUnfinished(request.request_id()));
  const uint64_t version =
      turn.resumed_.has_value() ? turn.resumed_->start_version : turn.session_.version;
  if (request.session_version() != 0 && request.session_version() != version) {
    // Whoever names a later version may have it from a server that the store still answers.
    if (turn.degraded() && request.session_version() > version) {
      return OfSession(
          MakeError(v1::ERROR_REASON_STORE_UNAVAILABLE,
                    absl::StrCat("the store does not answer; the last that is known here is "
                                 "version ",
                                 version, " of the session")),
          id);
    }
    return OfSession(MakeError(v1::ERROR_REASON_VERSION_MISMATCH,
                               absl::StrCat("the session has version ", version, ", not ",
                                            request.session_version()),
                               {{"expected", absl::StrCat(request.session_version())},
                                {"found", absl::StrCat(version)}}),
                     id);
  }
  return turn;
}

bool SessionTurn::degraded() const { return hold_ != nullptr && hold_->degraded(); }

absl::Status SessionTurn::CheckStoreAnswers(const std::string& id) const {
  if (!degraded()) return absl::OkStatus();
  return OfSession(MakeError(v1::ERROR_REASON_STORE_UNAVAILABLE,
                             "the store does not answer: only ASYNC turns can be taken"),
                   id);
}

absl::Status SessionTurn::ReadSession(const std::string& id) {
  for (int attempt = 1;; ++attempt) {
    auto session = environment_->store->GetSession(tenant_, id);
    if (!session.ok()) return OfSession(session.status(), id);
    session_ = *std::move(session);
    if (session_.head_snapshot_id.empty()) return absl::OkStatus();
    // By id, not "the head": session and snapshot must belong together.
    auto head = environment_->store->GetSnapshot(tenant_, id, session_.head_snapshot_id);
    if (head.ok()) {
      head_ = std::move(head->manifest);
      return absl::OkStatus();
    }
    if (!absl::IsNotFound(head.status()) || attempt == kReadAttempts) {
      return WithResource(head.status(), "snapshot",
                          MakeSnapshotName(id, session_.head_snapshot_id));
    }
  }
}

absl::Status SessionTurn::FindFirstTry() {
  if (request_id_.empty()) return absl::OkStatus();
  const auto found = environment_->store->FindCommit(tenant_, session_.id, request_id_);
  if (found.ok() && found->has_value()) {
    already_committed_ = DescribeRecord(**found);
  } else if (!found.ok() && !(absl::IsUnavailable(found.status()) && degraded())) {
    // A degraded turn goes on: if it is a repeat, its write will get the first result.
    return OfSession(found.status(), session_.id);
  } else if (head_.has_value()) {
    already_committed_ = FindInHead(session_, *head_, request_id_);
  }
  return absl::OkStatus();
}

absl::Status SessionTurn::CheckUnfinished(const std::string& request_id) {
  start_tokens_ = static_cast<int64_t>(session_.token_count);
  if (!head_.has_value()) return absl::OkStatus();
  const auto leg = head_->legs.find(kProgressLeg);
  if (leg == head_->legs.end()) return absl::OkStatus();
  ASSIGN_OR_RETURN(TurnProgress progress, DecodeProgress(leg->second));
  if (progress.session_id != session_.id && !progress.in_prompt()) return absl::OkStatus();
  if (progress.session_id == session_.id && progress.request_id == request_id) {
    start_tokens_ = progress.start_tokens;
    resumed_ = std::move(progress);
    return absl::OkStatus();
  }
  // After the prompt it is what a cancelled turn leaves: a beginning of an answer.
  if (!progress.in_prompt()) return absl::OkStatus();
  Metadata metadata = {{"request_id", progress.request_id}};
  if (!progress.start_snapshot.empty()) {
    metadata.emplace_back("snapshot", MakeSnapshotName(session_.id, progress.start_snapshot));
  }
  return OfSession(MakeError(v1::ERROR_REASON_TURN_UNFINISHED,
                             "the session stands in the middle of a prompt: repeat that turn, or "
                             "rewind",
                             metadata),
                   session_.id);
}

absl::Status SessionTurn::ReadHead(const ServedModel& model) {
  if (!session_.model_id.empty() && session_.model_id != model.name) {
    return OfSession(
        MakeError(v1::ERROR_REASON_FINGERPRINT_MISMATCH, "the session belongs to another model",
                  {{"field", "model"}, {"expected", session_.model_id}, {"found", model.name}}),
        session_.id);
  }
  if (!head_.has_value()) return absl::OkStatus();
  auto legs = ReadLegsChecked(model, *head_);
  if (!legs.ok()) {
    return WithResource(legs.status(), "snapshot",
                        MakeSnapshotName(session_.id, session_.head_snapshot_id));
  }
  legs_ = *std::move(legs);
  return absl::OkStatus();
}

void SessionTurn::SetPrompt(absl::Span<const int32_t> prompt) {
  if (resumed_.has_value()) {
    progress_ = *resumed_;
    return;
  }
  progress_.session_id = session_.id;
  progress_.request_id = request_id_;
  progress_.start_version = session_.version;
  progress_.start_tokens = start_tokens_;
  progress_.start_detokenizer = legs_.detokenizer;
  progress_.prompt_hash = scheduler::ExtendTokenHash(Sha256Digest{}, prompt);
  progress_.prompt_tokens = static_cast<int64_t>(prompt.size());
}

absl::StatusOr<state_store::Snapshot> SessionTurn::MakeSnapshot(const ServedModel& model,
                                                                Standing standing) const {
  const int64_t before = legs_.sequence.token_count();
  const auto tokens = static_cast<int64_t>(standing.prompt.size() + standing.generated.size());
  if (standing.state.token_count() != before + tokens) {
    return MakeError(v1::ERROR_REASON_INTERNAL,
                     absl::StrCat("the state is at token ", standing.state.token_count(),
                                  ", the turn at ", before + tokens, ": not stored"));
  }
  scheduler::SessionLegs legs;
  legs.sequence = std::move(standing.state);
  legs.seed = standing.seed;
  legs.detokenizer = std::move(standing.detokenizer);
  legs.token_hash = scheduler::ExtendTokenHash(legs_.token_hash, standing.prompt);
  legs.token_hash = scheduler::ExtendTokenHash(legs.token_hash, standing.generated);
  return scheduler::MakeSnapshot(model.identity, model.layout(), legs);
}

state_store::CommitOptions SessionTurn::Options() const {
  state_store::CommitOptions options;
  options.durability = durability_;
  options.replicas = durability_ == state_store::Durability::kSync ? replicas_ : -1;
  options.hold = hold_.get();
  return options;
}

absl::StatusOr<v1::TurnCommit> SessionTurn::Commit(const ServedModel& model, Standing end) {
  const int64_t committed = legs_.sequence.token_count() - start_tokens_ +
                            static_cast<int64_t>(end.prompt.size() + end.generated.size());
  ASSIGN_OR_RETURN(state_store::Snapshot snapshot, MakeSnapshot(model, std::move(end)));
  snapshot.manifest.legs[kTurnLeg] = TurnLeg(session_.id, committed, request_id_);
  state_store::CommitOptions options = Options();
  options.request_id = request_id_;
  options.note = absl::StrCat(committed);
  auto session = environment_->store->CommitShared(
      tenant_, session_.id, session_.version,
      std::make_shared<const state_store::Snapshot>(std::move(snapshot)), options);
  if (!session.ok()) return OfSession(session.status(), session_.id);
  if (progress_.start_is_ours) {
    // Nobody needs to go back there any more; one that stays is the client's to delete.
    environment_->store->DeleteSnapshot(tenant_, session_.id, progress_.start_snapshot)
        .IgnoreError();
  }
  Finish();
  return DescribeCommit(*session, committed);
}

absl::Status SessionTurn::CommitCheckpoint(const ServedModel& model, Standing standing) {
  TurnProgress progress = progress_;
  const int64_t earlier = resumed_.has_value() ? resumed_->prompt_done : 0;
  progress.prompt_done = earlier + static_cast<int64_t>(standing.prompt.size());
  if (resumed_.has_value()) progress.generated = resumed_->generated;
  progress.generated.insert(progress.generated.end(), standing.generated.begin(),
                            standing.generated.end());
  const bool has_start = head_.has_value() && !resumed_.has_value();
  if (progress.in_prompt() && has_start && progress.start_snapshot.empty()) {
    // Half a prompt is no place to go on from: there must be a way back.
    ASSIGN_OR_RETURN(const state_store::SnapshotInfo start,
                     environment_->store->GetSnapshot(tenant_, session_.id, ""));
    if (!start.retained) {
      RETURN_IF_ERROR(environment_->store->CreateSnapshot(tenant_, session_.id).status());
    }
    progress.start_snapshot = start.manifest.snapshot_id;
    progress.start_is_ours = !start.retained;
    progress_.start_snapshot = progress.start_snapshot;
    progress_.start_is_ours = progress.start_is_ours;
  }
  ASSIGN_OR_RETURN(state_store::Snapshot snapshot, MakeSnapshot(model, std::move(standing)));
  snapshot.manifest.legs[kProgressLeg] = EncodeProgress(progress);
  state_store::CommitOptions options = Options();
  options.snapshot_id = state_store::MakeSnapshotId();
  auto session = environment_->store->CommitShared(
      tenant_, session_.id, session_.version,
      std::make_shared<const state_store::Snapshot>(std::move(snapshot)), options);
  if (session.ok()) {
    session_ = *std::move(session);
    return absl::OkStatus();
  }
  // It may have been carried out: then the next commit must know.
  if (!absl::IsAborted(session.status())) {
    auto now = environment_->store->GetSession(tenant_, session_.id);
    if (now.ok() && now->head_snapshot_id == options.snapshot_id) session_ = *std::move(now);
  }
  return OfSession(session.status(), session_.id);
}

void SessionTurn::Release() {
  guard_ = BusySessions::Guard();
  hold_.reset();
}

absl::StatusOr<scheduler::SequenceState> LoadState(state_store::SessionStore* store,
                                                   const ServedModel& model,
                                                   const StateOrigin& origin,
                                                   scheduler::SequenceState legs) {
  const std::string name = MakeSnapshotName(origin.session_id, origin.snapshot_id);
  auto snapshot = store->ReadShared(origin.tenant, origin.session_id, origin.snapshot_id);
  if (!snapshot.ok()) return WithResource(snapshot.status(), "snapshot", name);
  auto image = scheduler::ReadImage(model.layout(), *snapshot->manifest, *snapshot->payloads);
  if (!image.ok()) return WithResource(image.status(), "snapshot", name);
  legs.image = *std::move(image);
  // A snapshot's id stands for its bytes for ever; forks and rewinds keep it.
  legs.name = origin.snapshot_id;
  return legs;
}

namespace {

// The turn that the session stands in the middle of, if it is that one. A head that moves while it
// is looked at is looked at again.
absl::StatusOr<std::optional<v1::TurnCommit>> FindUnfinished(state_store::SessionStore* store,
                                                             const std::string& tenant,
                                                             const std::string& id,
                                                             const std::string& request_id) {
  for (int attempt = 1;; ++attempt) {
    const auto session = store->GetSession(tenant, id);
    if (!session.ok()) return OfSession(session.status(), id);
    if (session->head_snapshot_id.empty()) return std::nullopt;
    const auto head = store->GetSnapshot(tenant, id, session->head_snapshot_id);
    if (absl::IsNotFound(head.status()) && attempt < kReadAttempts) continue;
    if (!head.ok()) return OfSession(head.status(), id);
    const auto leg = head->manifest.legs.find(kProgressLeg);
    if (leg == head->manifest.legs.end()) return std::nullopt;
    ASSIGN_OR_RETURN(const TurnProgress progress, DecodeProgress(leg->second));
    if (progress.session_id != id || progress.request_id != request_id) return std::nullopt;
    v1::TurnCommit turn = DescribeCommit(
        *session, static_cast<int64_t>(session->token_count) - progress.start_tokens);
    turn.set_unfinished(true);
    turn.set_prompt_tokens_done(progress.prompt_done);
    return turn;
  }
}

}  // namespace

absl::StatusOr<v1::TurnCommit> FindTurn(state_store::SessionStore* store, const std::string& tenant,
                                        const v1::GetCommitRequest& request) {
  ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.session(), "session"));
  if (request.request_id().empty()) return FieldError("request_id", "must not be empty");
  const auto found = store->FindCommit(tenant, id, request.request_id());
  if (!found.ok()) return OfSession(found.status(), id);
  if (!found->has_value()) {
    ASSIGN_OR_RETURN(const auto unfinished,
                     FindUnfinished(store, tenant, id, request.request_id()));
    if (unfinished.has_value()) return *unfinished;
    return OfSession(MakeError(v1::ERROR_REASON_COMMIT_NOT_FOUND,
                               "no turn was committed under the request id, or it is forgotten"),
                     id);
  }
  v1::TurnCommit commit = DescribeRecord(**found);
  commit.set_pending((*found)->waits);
  return commit;
}

}  // namespace reprise::service
