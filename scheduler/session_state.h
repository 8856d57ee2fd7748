// Between a sequence's state and a stored snapshot: what is written, and what is checked on the way back.
#ifndef REPRISE_SCHEDULER_SESSION_STATE_H_
#define REPRISE_SCHEDULER_SESSION_STATE_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/state_layout.h"
#include "scheduler/request.h"
#include "state_store/snapshot.h"

namespace reprise::scheduler {

// Everything that a state depends on. Two replicas with equal identities continue each other's
// sessions bit for bit; any difference refuses the state.
struct ModelIdentity {
  std::string model_id;               // the served name; not compared
  std::string weights_fingerprint;
  std::string tokenizer_fingerprint;  // empty when the model has no tokenizer
  std::string layout_digest;
  std::string numerics_id;
};

// What a session carries beside the model's state.
struct SessionLegs {
  SequenceState sequence;
  uint64_t seed = 0;                     // of the generator, whose counter is the token index
  std::string detokenizer;               // Detokenizer::SaveState, may be empty
  std::array<uint8_t, 32> token_hash{};  // ExtendTokenHash over all tokens, pending included
};

// Chain hash of a token sequence, one SHA-256 per token, so that it does not depend on how the tokens
// were grouped: h' = SHA-256(h || token as 4 bytes little endian).
std::array<uint8_t, 32> ExtendTokenHash(std::array<uint8_t, 32> hash,
                                        absl::Span<const int32_t> tokens);

// A snapshot of all legs at one position, one part per state tensor. Id, parent, tenant and creation
// time are left to the store. INVALID_ARGUMENT when the image's size is not the layout's.
absl::StatusOr<state_store::Snapshot> MakeSnapshot(const ModelIdentity& identity,
                                                   const models::StateLayout& layout,
                                                   const SessionLegs& legs);

// The way back. FAILED_PRECONDITION with a FingerprintMismatch payload (kMismatchPayload: "field\n
// expected\nfound") when the snapshot belongs to another model, tokenizer, layout or numerics;
// DATA_LOSS when a leg is missing or malformed.
inline constexpr char kMismatchPayload[] = "reprise.dev/FingerprintMismatch";
absl::StatusOr<SessionLegs> RestoreSnapshot(const ModelIdentity& identity,
                                            const models::StateLayout& layout,
                                            const state_store::Snapshot& snapshot);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SESSION_STATE_H_
