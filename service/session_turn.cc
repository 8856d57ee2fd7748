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

// The commit that `head` was made by, if that was a turn of this session under `request_id`.
std::optional<v1::TurnCommit> FindCommit(const state_store::Session& session,
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

}  // namespace

absl::StatusOr<SessionTurn> SessionTurn::Begin(Environment* environment, const std::string& tenant,
                                               const v1::GenerateRequest& request) {
  SessionTurn turn;
  turn.environment_ = environment;
  turn.tenant_ = tenant;
  turn.request_id_ = request.request_id();
  turn.durability_ = request.durability() == v1::DURABILITY_SYNC ? state_store::Durability::kSync
                                                                 : state_store::Durability::kAsync;
  ASSIGN_OR_RETURN(const std::string id, ParseSessionName(request.session(), "session"));
  ASSIGN_OR_RETURN(turn.guard_, environment->busy.Mark(tenant, id));
  auto session = environment->store->GetSession(tenant, id);
  if (!session.ok()) return WithResource(session.status(), "session", request.session());
  turn.session_ = *std::move(session);

  if (!turn.request_id_.empty() && !turn.session_.head_snapshot_id.empty()) {
    ASSIGN_OR_RETURN(const state_store::SnapshotInfo head,
                     environment->store->GetSnapshot(tenant, id, ""));
    turn.already_committed_ = FindCommit(turn.session_, head.manifest, turn.request_id_);
    if (turn.already_committed_.has_value()) return turn;
  }
  if (request.session_version() != 0 && request.session_version() != turn.session_.version) {
    return WithResource(MakeError(v1::ERROR_REASON_VERSION_MISMATCH,
                                  absl::StrCat("the session has version ", turn.session_.version,
                                               ", not ", request.session_version()),
                                  {{"expected", absl::StrCat(request.session_version())},
                                   {"found", absl::StrCat(turn.session_.version)}}),
                        "session", request.session());
  }
  return turn;
}

absl::Status SessionTurn::Restore(const ServedModel& model) {
  if (!session_.model_id.empty() && session_.model_id != model.name) {
    return WithResource(
        MakeError(v1::ERROR_REASON_FINGERPRINT_MISMATCH, "the session belongs to another model",
                  {{"field", "model"}, {"expected", session_.model_id}, {"found", model.name}}),
        "session", MakeSessionName(session_.id));
  }
  if (session_.head_snapshot_id.empty()) return absl::OkStatus();
  const absl::Time start = environment_->clock->Now();
  // By id, not "the head": another server may have moved that since Begin.
  auto snapshot =
      environment_->store->ReadSnapshot(tenant_, session_.id, session_.head_snapshot_id);
  const std::string name = MakeSnapshotName(session_.id, session_.head_snapshot_id);
  if (!snapshot.ok()) return WithResource(snapshot.status(), "snapshot", name);
  auto legs = RestoreChecked(model, *snapshot);
  if (!legs.ok()) return WithResource(legs.status(), "snapshot", name);
  legs_ = *std::move(legs);
  has_tokens_ = true;
  tokens_before_ = legs_.sequence.token_count();
  restore_time_ = environment_->clock->Now() - start;
  return absl::OkStatus();
}

absl::StatusOr<v1::TurnCommit> SessionTurn::Commit(const ServedModel& model, End end) {
  const int64_t committed = static_cast<int64_t>(end.prompt.size() + end.generated.size());
  if (end.state.token_count() != tokens_before_ + committed) {
    return MakeError(v1::ERROR_REASON_INTERNAL,
                     absl::StrCat("the state is at token ", end.state.token_count(),
                                  ", the turn at ", tokens_before_ + committed, ": not stored"));
  }
  legs_.sequence = std::move(end.state);
  legs_.seed = end.seed;
  legs_.detokenizer = std::move(end.detokenizer);
  legs_.token_hash = scheduler::ExtendTokenHash(legs_.token_hash, end.prompt);
  legs_.token_hash = scheduler::ExtendTokenHash(legs_.token_hash, end.generated);
  ASSIGN_OR_RETURN(state_store::Snapshot snapshot,
                   scheduler::MakeSnapshot(model.identity, model.layout(), legs_));
  snapshot.manifest.legs[kTurnLeg] = TurnLeg(session_.id, committed, request_id_);
  state_store::CommitOptions options;
  options.durability = durability_;
  options.request_id = request_id_;
  auto session =
      environment_->store->PutAndCommit(tenant_, session_.id, session_.version, snapshot, options);
  if (!session.ok()) {
    return WithResource(session.status(), "session", MakeSessionName(session_.id));
  }
  return DescribeCommit(*session, committed);
}

}  // namespace reprise::service
