// How far a checkpointed turn has come: what a repeat of its request needs to go on from there.
#ifndef REPRISE_SERVICE_TURN_PROGRESS_H_
#define REPRISE_SERVICE_TURN_PROGRESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/hash.h"

namespace reprise::service {

// The leg of a snapshot that is a checkpoint. Frozen with its encoding: it is in snapshots.
inline constexpr char kProgressLeg[] = "checkpoint";
// Tokens of an answer that a leg can hold; a checkpointed turn generates no more.
inline constexpr int64_t kMaxCheckpointedTokens = 200'000;

struct TurnProgress {
  std::string session_id;  // a fork shares the snapshot, but not the turn
  std::string request_id;
  uint64_t start_version = 0;      // of the session, before the turn
  int64_t start_tokens = 0;        // in the session, before the turn
  std::string start_snapshot;      // for whoever gives the turn up; empty: none, or not needed
  bool start_is_ours = false;      // it was retained for this turn alone
  std::string start_detokenizer;   // as the turn found it
  Sha256Digest prompt_hash{};      // ExtendTokenHash over the whole prompt
  int64_t prompt_tokens = 0;       // of the prompt
  int64_t prompt_done = 0;         // of these in the state, its pending token included
  std::vector<int32_t> generated;  // so far

  // Whether the session stands inside the prompt.
  bool in_prompt() const { return prompt_done < prompt_tokens; }
};

std::string EncodeProgress(const TurnProgress& progress);
// DATA_LOSS (CORRUPT_SNAPSHOT) for anything else.
absl::StatusOr<TurnProgress> DecodeProgress(const std::string& bytes);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TURN_PROGRESS_H_
