// One turn of a session: what it starts from, its checkpoints, and the commit at its end.
#ifndef REPRISE_SERVICE_SESSION_TURN_H_
#define REPRISE_SERVICE_SESSION_TURN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "reprise/v1/generation.pb.h"
#include "reprise/v1/session.pb.h"
#include "scheduler/session_state.h"
#include "service/environment.h"
#include "service/turn_progress.h"

namespace reprise::service {

// Where a state is to be read from; outlives the turn if it must.
struct StateOrigin {
  std::string tenant, session_id, snapshot_id;
};

// Its calls block (store): I/O threads only, Release excepted. Not thread-safe; one thread after
// the other is fine.
class SessionTurn {
 public:
  // Marks the session busy here, holds it in the store, reads it and checks `session_version`.
  // SESSION_BUSY, SESSION_NOT_FOUND, VERSION_MISMATCH, TURN_UNFINISHED, STORE_UNAVAILABLE. A turn
  // that was committed under the request_id shows in already_committed(), one that broke off in
  // resumed().
  static absl::StatusOr<SessionTurn> Begin(Environment* environment, const std::string& tenant,
                                           const v1::GenerateRequest& request);

  // Name of the model that the session belongs to; empty before its first turn unless chosen.
  const std::string& model_name() const { return session_.model_id; }
  const std::optional<v1::TurnCommit>& already_committed() const { return already_committed_; }
  const std::optional<TurnProgress>& resumed() const { return resumed_; }

  // Checks that the head is `model`'s, and takes all of it but the image. FINGERPRINT_MISMATCH.
  absl::Status ReadHead(const ServedModel& model);
  // Whether the session had tokens before the turn.
  bool continues() const { return start_tokens_ > 0; }
  // After ReadHead: of the head. Without tokens, of an empty sequence.
  const scheduler::SessionLegs& legs() const { return legs_; }
  StateOrigin origin() const { return {tenant_, session_.id, session_.head_snapshot_id}; }

  // Before the first checkpoint: of the whole turn.
  void SetPrompt(absl::Span<const int32_t> prompt);

  // Where a turn stands. Tokens are those since the state that it started, or was resumed, from.
  struct Standing {
    scheduler::SequenceState state;
    std::vector<int32_t> prompt;
    std::vector<int32_t> generated;
    uint64_t seed = 0;
    std::string detokenizer;
  };
  // Stores the new state as the session's head, by compare-and-set on the version that is known
  // here. INTERNAL, and nothing is stored, when state and tokens do not agree.
  absl::StatusOr<v1::TurnCommit> Commit(const ServedModel& model, Standing end);
  // The same for a turn that goes on. ABORTED: it can never be committed. Other failures leave it
  // to later ones.
  absl::Status CommitCheckpoint(const ServedModel& model, Standing standing);

  // No turn of the session is running here any more. Called when the call is over, so that a client
  // that has seen the end may start the next turn at once. Does not block.
  void Release();
  // Gives the session back to other servers, for the same reason. Blocks.
  void Finish() {
    if (hold_ != nullptr) hold_->Finish();
  }

 private:
  SessionTurn() = default;
  // What was read of the session may be older than what the store has.
  bool degraded() const;
  absl::Status CheckStoreAnswers(const std::string& id) const;
  absl::Status ReadSession(const std::string& id);
  absl::Status FindFirstTry();
  absl::Status CheckUnfinished(const std::string& request_id);
  absl::StatusOr<state_store::Snapshot> MakeSnapshot(const ServedModel& model,
                                                     Standing standing) const;
  state_store::CommitOptions Options() const;

  Environment* environment_ = nullptr;
  BusySessions::Guard guard_;
  std::unique_ptr<state_store::SessionHold> hold_;
  std::string tenant_;
  std::string request_id_;
  state_store::Durability durability_ = state_store::Durability::kAsync;
  int replicas_ = -1;
  state_store::Session session_;  // as it was last read, or committed here
  std::optional<state_store::SnapshotManifest> head_;
  std::optional<v1::TurnCommit> already_committed_;
  std::optional<TurnProgress> resumed_;
  int64_t start_tokens_ = 0;  // in the session before the turn
  scheduler::SessionLegs legs_;
  TurnProgress progress_;
};

// The whole state that `legs` belong to. Blocks.
absl::StatusOr<scheduler::SequenceState> LoadState(state_store::SessionStore* store,
                                                   const ServedModel& model,
                                                   const StateOrigin& origin,
                                                   scheduler::SequenceState legs);

// What the store remembers of a turn. COMMIT_NOT_FOUND.
absl::StatusOr<v1::TurnCommit> FindTurn(state_store::SessionStore* store, const std::string& tenant,
                                        const v1::GetCommitRequest& request);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SESSION_TURN_H_
