// Parts that may lose precision when they are stored: only those that the options choose, and each
// says so in its manifest. Its dtype then is the exact one, '~', and the encoding:
//
//   f32~bf16     each f32 rounded to the nearest bf16, ties to even: half the bytes
//   f32~i8x<N>   rows of N elements (the last may be shorter), each an f32 scale and a signed byte
//                per element: about a quarter of the bytes; the error is at most scale / 2, where
//                scale is the row's largest magnitude / 127
//
// Every store reads them, whatever its options. Addresses and checksums are of the encoded bytes,
// so equal states still share their chunks.
#ifndef REPRISE_STATE_STORE_LOSSY_H_
#define REPRISE_STATE_STORE_LOSSY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

enum class LossyEncoding { kBf16, kInt8Rows };

// For parts of dtype f32 that have `role` among the words of their name, which dots separate: role
// "ssm" chooses "layers.3.ssm". The first rule that fits counts; parts of other dtypes stay as they
// are. kInt8Rows takes the last dimension of the part's shape as its row.
struct LossyRule {
  std::string role;
  LossyEncoding encoding = LossyEncoding::kBf16;
};

// A snapshot's payloads as they are to be stored: views of the caller's bytes, or of `owned`.
struct EncodedPayloads {
  std::vector<std::string_view> views;
  std::vector<std::string> owned;
};

// Sets dtype and byte_length of the parts that it encodes. INVALID_ARGUMENT names the part whose
// payload is no whole number of f32, or, for kInt8Rows, not finite.
absl::StatusOr<EncodedPayloads> EncodeLossy(const std::vector<LossyRule>& rules,
                                            const std::vector<std::string>& payloads,
                                            std::vector<SnapshotPart>& parts);

// What EncodeLossy made, or anyone may have written, becomes exact parts again, without chunks;
// takes at most four times the memory of the payload. DATA_LOSS (kCorruptManifest) if part and
// payload do not fit together, UNIMPLEMENTED (kUnsupportedVersion) for an encoding that this build
// does not know.
absl::Status DecodeLossy(Snapshot& snapshot);

// The same for the manifest alone: what ReadSnapshot of this snapshot says.
absl::Status DecodeLossyManifest(SnapshotManifest& manifest);

// What a store that writes by `rules` gives back when it is read: the same object if none of them
// applies. The errors of EncodeLossy.
absl::StatusOr<std::shared_ptr<const Snapshot>> AsReadBack(
    const std::vector<LossyRule>& rules, std::shared_ptr<const Snapshot> snapshot);

// The errors of DecodeLossy, from the manifest alone.
absl::Status CheckLossy(const SnapshotManifest& manifest);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_LOSSY_H_
