#include "state_store/store_error.h"

#include <iterator>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "state_store/internal/cat.h"

namespace reprise::state_store {
namespace {

struct Row {
  StoreError error;
  std::string_view name;
  absl::StatusCode code;
};

constexpr Row kRows[] = {
    {StoreError::kNone, "NONE", absl::StatusCode::kInternal},
    {StoreError::kInvalidArgument, "INVALID_ARGUMENT", absl::StatusCode::kInvalidArgument},
    {StoreError::kInvalidPageToken, "INVALID_PAGE_TOKEN", absl::StatusCode::kInvalidArgument},
    {StoreError::kRequestIdReused, "REQUEST_ID_REUSED", absl::StatusCode::kInvalidArgument},
    {StoreError::kSessionNotFound, "SESSION_NOT_FOUND", absl::StatusCode::kNotFound},
    {StoreError::kSessionExpired, "SESSION_EXPIRED", absl::StatusCode::kNotFound},
    {StoreError::kSnapshotNotFound, "SNAPSHOT_NOT_FOUND", absl::StatusCode::kNotFound},
    {StoreError::kSessionExists, "SESSION_EXISTS", absl::StatusCode::kAlreadyExists},
    {StoreError::kVersionMismatch, "VERSION_MISMATCH", absl::StatusCode::kAborted},
    {StoreError::kNoHead, "NO_HEAD", absl::StatusCode::kFailedPrecondition},
    {StoreError::kSnapshotIsHead, "SNAPSHOT_IS_HEAD", absl::StatusCode::kFailedPrecondition},
    {StoreError::kModelMismatch, "MODEL_MISMATCH", absl::StatusCode::kFailedPrecondition},
    {StoreError::kStoreLocked, "STORE_LOCKED", absl::StatusCode::kFailedPrecondition},
    {StoreError::kCorruptChunk, "CORRUPT_CHUNK", absl::StatusCode::kDataLoss},
    {StoreError::kCorruptManifest, "CORRUPT_MANIFEST", absl::StatusCode::kDataLoss},
    {StoreError::kCorruptStream, "CORRUPT_STREAM", absl::StatusCode::kDataLoss},
    {StoreError::kCorruptIndex, "CORRUPT_INDEX", absl::StatusCode::kDataLoss},
    {StoreError::kUnsupportedVersion, "UNSUPPORTED_VERSION", absl::StatusCode::kUnimplemented},
    {StoreError::kStoreFull, "STORE_FULL", absl::StatusCode::kResourceExhausted},
    {StoreError::kIoError, "IO_ERROR", absl::StatusCode::kUnavailable},
    {StoreError::kSessionLeased, "SESSION_LEASED", absl::StatusCode::kAborted},
    {StoreError::kLeaseLost, "LEASE_LOST", absl::StatusCode::kAborted},
    {StoreError::kCommitsLost, "COMMITS_LOST", absl::StatusCode::kAborted},
};

constexpr bool RowsMatchEnum() {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<size_t>(kRows[i].error) != i) return false;
  }
  return std::size(kRows) == static_cast<size_t>(StoreError::kCommitsLost) + 1;
}
static_assert(RowsMatchEnum());

}  // namespace

std::string_view StoreErrorName(StoreError error) {
  const auto index = static_cast<size_t>(error);
  return index < std::size(kRows) ? kRows[index].name : "UNKNOWN";
}

absl::Status MakeStoreError(StoreError error, std::string_view message) {
  absl::Status status(kRows[static_cast<size_t>(error)].code, ToAbsl(message));
  status.SetPayload(kStoreErrorUrl, absl::Cord(ToAbsl(StoreErrorName(error))));
  return status;
}

StoreError GetStoreError(const absl::Status& status) {
  const auto payload = status.GetPayload(kStoreErrorUrl);
  if (payload.has_value()) {
    for (const Row& row : kRows) {
      if (*payload == ToAbsl(row.name)) return row.error;
    }
  }
  return StoreError::kNone;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  if (!status.ok() && delay > absl::ZeroDuration()) {
    status.SetPayload(kRetryAfterUrl, absl::Cord(absl::StrCat(absl::ToInt64Microseconds(delay))));
  }
  return status;
}

absl::Duration RetryAfter(const absl::Status& status) {
  int64_t micros = 0;
  const auto payload = status.GetPayload(kRetryAfterUrl);
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &micros)) micros = 0;
  return absl::Microseconds(micros);
}

}  // namespace reprise::state_store
