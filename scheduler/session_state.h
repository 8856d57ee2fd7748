// Between a sequence's state and a stored snapshot: what is written, and what is checked on the way
// back.
#ifndef REPRISE_SCHEDULER_SESSION_STATE_H_
#define REPRISE_SCHEDULER_SESSION_STATE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "models/state_layout.h"
#include "scheduler/request.h"
#include "state_store/snapshot.h"

namespace reprise::scheduler {

// Everything that a state depends on. Two replicas with equal identities continue each other's
// sessions bit for bit; any difference refuses the state.
struct ModelIdentity {
  std::string model_id;  // the served name; not compared
  std::string weights_fingerprint;
  std::string tokenizer_fingerprint;  // empty when the model has no tokenizer
  std::string layout_digest;
  std::string numerics_id;
};

// What a session carries beside the model's state.
struct SessionLegs {
  SequenceState sequence;
  uint64_t seed = 0;          // of the generator, whose counter is the token index
  std::string detokenizer;    // Detokenizer::SaveState, may be empty
  Sha256Digest token_hash{};  // over all tokens, the pending one included
};

// state_store::ExtendTokenHash over `tokens` in order.
Sha256Digest ExtendTokenHash(Sha256Digest hash, absl::Span<const int32_t> tokens);

// A snapshot of all legs at one position, one part per state tensor (none at position 0, where the
// state is zero). Id, parent, tenant and creation time are left to the store. INVALID_ARGUMENT when
// the image's size is not the layout's.
absl::StatusOr<state_store::Snapshot> MakeSnapshot(const ModelIdentity& identity,
                                                   const models::StateLayout& layout,
                                                   const SessionLegs& legs);

// The way back. FAILED_PRECONDITION with a FingerprintMismatch payload (kMismatchPayload: "field\n
// expected\nfound") when the snapshot belongs to another model, tokenizer, layout or numerics;
// DATA_LOSS when a leg is missing or malformed.
inline constexpr char kMismatchPayload[] = "reprise.dev/FingerprintMismatch";
// All but the image, which may still have to be read.
absl::StatusOr<SessionLegs> ReadLegs(const ModelIdentity& identity,
                                     const state_store::SnapshotManifest& manifest);
// The image, of a manifest that ReadLegs took. payloads[i] is manifest.parts[i]'s.
absl::StatusOr<Bytes> ReadImage(const models::StateLayout& layout,
                                const state_store::SnapshotManifest& manifest,
                                absl::Span<const std::string> payloads);
// Both.
absl::StatusOr<SessionLegs> RestoreSnapshot(const ModelIdentity& identity,
                                            const models::StateLayout& layout,
                                            const state_store::Snapshot& snapshot);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SESSION_STATE_H_
