#include "scheduler/session_state.h"

#include <cstring>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::scheduler {
namespace {

// Names of the opaque legs; frozen, since they are in snapshots.
constexpr char kSamplerLeg[] = "sampler";
constexpr char kDetokenizerLeg[] = "detokenizer";
constexpr char kPendingLeg[] = "pending_tokens";

// No conversation gets there; a number beyond is of a damaged or hostile snapshot.
constexpr uint64_t kMaxPosition = uint64_t{1} << 53;

template <typename T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  return bytes;
}

template <typename T>
absl::StatusOr<T> FromLittleEndian(const char* leg, const std::string& bytes) {
  if (bytes.size() != sizeof(T)) {
    return absl::DataLossError(absl::StrCat("snapshot leg ", leg, ": expected ", sizeof(T),
                                            " bytes, found ", bytes.size()));
  }
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  }
  return value;
}

absl::StatusOr<std::string> Leg(const state_store::SnapshotManifest& manifest, const char* name) {
  const auto entry = manifest.legs.find(name);
  if (entry == manifest.legs.end()) {
    return absl::DataLossError(absl::StrCat("snapshot leg ", name, ": missing"));
  }
  return entry->second;
}

absl::Status CheckSame(const char* field, const std::string& expected, const std::string& found) {
  if (expected == found) return absl::OkStatus();
  absl::Status status = absl::FailedPreconditionError(absl::StrCat(
      "the snapshot's ", field, " is not this model's: expected ", expected, ", found ", found));
  status.SetPayload(kMismatchPayload, absl::Cord(absl::StrCat(field, "\n", expected, "\n", found)));
  return status;
}

std::vector<uint64_t> PartShape(const models::StateTensor& tensor) {
  return {tensor.shape.begin(), tensor.shape.end()};
}

}  // namespace

Sha256Digest ExtendTokenHash(Sha256Digest hash, absl::Span<const int32_t> tokens) {
  for (int32_t token : tokens) hash = state_store::ExtendTokenHash(hash, token);
  return hash;
}

absl::StatusOr<state_store::Snapshot> MakeSnapshot(const ModelIdentity& identity,
                                                   const models::StateLayout& layout,
                                                   const SessionLegs& legs) {
  const SequenceState& sequence = legs.sequence;
  const size_t expected = sequence.position == 0 ? 0 : layout.bytes();
  if (sequence.image.size() != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("state image: expected ", expected, " bytes, found ", sequence.image.size()));
  }
  state_store::Snapshot snapshot;
  state_store::SnapshotManifest& manifest = snapshot.manifest;
  manifest.model_id = identity.model_id;
  manifest.weights_fingerprint = identity.weights_fingerprint;
  manifest.tokenizer_fingerprint = identity.tokenizer_fingerprint;
  manifest.layout_digest = identity.layout_digest;
  manifest.grid_tokens = kernels::kGridTokens;
  manifest.kernel_order_id = identity.numerics_id;
  manifest.position = static_cast<uint64_t>(sequence.position);
  manifest.token_count = static_cast<uint64_t>(sequence.token_count());
  manifest.token_hash = legs.token_hash;
  if (sequence.position > 0) {
    for (const models::StateTensor& tensor : layout.tensors()) {
      state_store::SnapshotPart part;
      part.name = tensor.Name();
      part.dtype = kernels::DTypeName(tensor.dtype);
      part.shape = PartShape(tensor);
      part.byte_length = tensor.bytes;
      manifest.parts.push_back(std::move(part));
      snapshot.payloads.emplace_back(
          reinterpret_cast<const char*>(sequence.image.data()) + tensor.offset, tensor.bytes);
    }
  }
  manifest.legs[kSamplerLeg] = LittleEndian<uint64_t>(legs.seed);
  manifest.legs[kDetokenizerLeg] = legs.detokenizer;
  manifest.legs[kPendingLeg] =
      sequence.pending.has_value()
          ? LittleEndian<uint32_t>(static_cast<uint32_t>(*sequence.pending))
          : std::string();
  return snapshot;
}

absl::StatusOr<SessionLegs> ReadLegs(const ModelIdentity& identity,
                                     const state_store::SnapshotManifest& manifest) {
  RETURN_IF_ERROR(
      CheckSame("weights_fingerprint", identity.weights_fingerprint, manifest.weights_fingerprint));
  RETURN_IF_ERROR(CheckSame("tokenizer_fingerprint", identity.tokenizer_fingerprint,
                            manifest.tokenizer_fingerprint));
  RETURN_IF_ERROR(CheckSame("layout_digest", identity.layout_digest, manifest.layout_digest));
  RETURN_IF_ERROR(CheckSame("numerics_id", identity.numerics_id, manifest.kernel_order_id));
  RETURN_IF_ERROR(CheckSame("grid_tokens", absl::StrCat(kernels::kGridTokens),
                            absl::StrCat(manifest.grid_tokens)));

  SessionLegs legs;
  legs.token_hash = manifest.token_hash;
  ASSIGN_OR_RETURN(const std::string sampler, Leg(manifest, kSamplerLeg));
  ASSIGN_OR_RETURN(legs.seed, FromLittleEndian<uint64_t>(kSamplerLeg, sampler));
  ASSIGN_OR_RETURN(legs.detokenizer, Leg(manifest, kDetokenizerLeg));
  ASSIGN_OR_RETURN(const std::string pending, Leg(manifest, kPendingLeg));
  SequenceState& sequence = legs.sequence;
  if (manifest.position > kMaxPosition) {
    return absl::DataLossError(
        absl::StrCat("snapshot: position ", manifest.position, " is impossible"));
  }
  sequence.position = static_cast<int64_t>(manifest.position);
  if (!pending.empty()) {
    ASSIGN_OR_RETURN(const uint32_t token, FromLittleEndian<uint32_t>(kPendingLeg, pending));
    sequence.pending = static_cast<int32_t>(token);
  }
  if (manifest.token_count != static_cast<uint64_t>(sequence.token_count())) {
    return absl::DataLossError(absl::StrCat("snapshot: position ", manifest.position,
                                            " and its pending tokens do not make token count ",
                                            manifest.token_count));
  }
  return legs;
}

absl::StatusOr<Bytes> ReadImage(const models::StateLayout& layout,
                                const state_store::SnapshotManifest& manifest,
                                absl::Span<const std::string> payloads) {
  const size_t expected_parts = manifest.position == 0 ? 0 : layout.tensors().size();
  if (manifest.parts.size() != expected_parts || payloads.size() != expected_parts) {
    return absl::DataLossError(absl::StrCat("snapshot: expected ", expected_parts, " parts, found ",
                                            manifest.parts.size()));
  }
  if (expected_parts == 0) return Bytes();
  Bytes image(layout.bytes());
  for (size_t i = 0; i < expected_parts; ++i) {
    const models::StateTensor& tensor = layout.tensors()[i];
    const state_store::SnapshotPart& part = manifest.parts[i];
    if (part.name != tensor.Name() || part.dtype != kernels::DTypeName(tensor.dtype) ||
        part.shape != PartShape(tensor) || payloads[i].size() != tensor.bytes) {
      return absl::DataLossError(
          absl::StrCat("snapshot part ", part.name, ": not the layout's ", tensor.Name()));
    }
    std::memcpy(image.data() + tensor.offset, payloads[i].data(), tensor.bytes);
  }
  return image;
}

absl::StatusOr<SessionLegs> RestoreSnapshot(const ModelIdentity& identity,
                                            const models::StateLayout& layout,
                                            const state_store::Snapshot& snapshot) {
  ASSIGN_OR_RETURN(SessionLegs legs, ReadLegs(identity, snapshot.manifest));
  ASSIGN_OR_RETURN(legs.sequence.image, ReadImage(layout, snapshot.manifest, snapshot.payloads));
  return legs;
}

}  // namespace reprise::scheduler
