// One turn of a session: what it starts from, and the commit at its end.
#ifndef REPRISE_SERVICE_SESSION_TURN_H_
#define REPRISE_SERVICE_SESSION_TURN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reprise/v1/generation.pb.h"
#include "scheduler/session_state.h"
#include "service/environment.h"

namespace reprise::service {

// Its calls block (store): I/O threads only. Not thread-safe; one thread after the other is fine.
class SessionTurn {
 public:
  // Marks the session busy, reads it and checks `session_version`. SESSION_BUSY, SESSION_NOT_FOUND,
  // VERSION_MISMATCH. A repeated request_id shows in already_committed().
  static absl::StatusOr<SessionTurn> Begin(Environment* environment, const std::string& tenant,
                                           const v1::GenerateRequest& request);

  // Name of the model that the session belongs to; empty before its first turn unless chosen.
  const std::string& model_name() const { return session_.model_id; }
  const std::optional<v1::TurnCommit>& already_committed() const { return already_committed_; }

  // Reads and checks the head's state. FINGERPRINT_MISMATCH when it is not `model`'s.
  absl::Status Restore(const ServedModel& model);
  // After Restore: whether the session has tokens, and then its state (moved out by the caller).
  bool has_tokens() const { return has_tokens_; }
  scheduler::SessionLegs& legs() { return legs_; }
  const scheduler::SessionLegs& legs() const { return legs_; }
  absl::Duration restore_time() const { return restore_time_; }

  // What a turn leaves behind.
  struct End {
    scheduler::SequenceState state;
    std::vector<int32_t> prompt;
    std::vector<int32_t> generated;
    uint64_t seed = 0;
    std::string detokenizer;
  };
  // Stores the new state as the session's head, by compare-and-set on the version that Begin saw.
  // INTERNAL, and nothing is stored, when state and tokens do not agree.
  absl::StatusOr<v1::TurnCommit> Commit(const ServedModel& model, End end);
  // No turn of the session is running here any more. Called when the call is over, so that a client
  // that has seen the end may start the next turn at once.
  void Release() { guard_ = BusySessions::Guard(); }

 private:
  SessionTurn() = default;

  Environment* environment_ = nullptr;
  BusySessions::Guard guard_;
  std::string tenant_;
  std::string request_id_;
  state_store::Durability durability_ = state_store::Durability::kAsync;
  state_store::Session session_;
  std::optional<v1::TurnCommit> already_committed_;
  bool has_tokens_ = false;
  int64_t tokens_before_ = 0;
  scheduler::SessionLegs legs_;
  absl::Duration restore_time_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SESSION_TURN_H_
