// Why a store refused, finer than a status code: each failed status of state_store carries one.
#ifndef REPRISE_STATE_STORE_STORE_ERROR_H_
#define REPRISE_STATE_STORE_STORE_ERROR_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace reprise::state_store {

inline constexpr char kStoreErrorUrl[] = "reprise.dev/StoreError";

// The status code that each travels with stands beside it.
enum class StoreError {
  kNone,                // no store error is attached
  kInvalidArgument,     // INVALID_ARGUMENT
  kInvalidPageToken,    // INVALID_ARGUMENT
  kRequestIdReused,     // INVALID_ARGUMENT: the id was first used with other arguments
  kSessionNotFound,     // NOT_FOUND
  kSessionExpired,      // NOT_FOUND: its time ran out; the sweeper may not have been there yet
  kSnapshotNotFound,    // NOT_FOUND
  kSessionExists,       // ALREADY_EXISTS
  kVersionMismatch,     // ABORTED: another writer moved the session
  kNoHead,              // FAILED_PRECONDITION: the session has no snapshot yet
  kSnapshotIsHead,      // FAILED_PRECONDITION
  kModelMismatch,       // FAILED_PRECONDITION: the session belongs to another model
  kStoreLocked,         // FAILED_PRECONDITION: another process has the directory open
  kCorruptChunk,        // DATA_LOSS
  kCorruptManifest,     // DATA_LOSS
  kCorruptStream,       // DATA_LOSS: an import that is cut short or damaged
  kCorruptIndex,        // DATA_LOSS: log or checkpoint
  kUnsupportedVersion,  // UNIMPLEMENTED: a format that this build does not know
  kStoreFull,           // RESOURCE_EXHAUSTED: a cap in bytes, or the device is full
  kIoError,             // UNAVAILABLE: the device failed; nothing has changed
  kSessionLeased,       // ABORTED: another holds the session's lease; RetryAfter says how long
  kLeaseLost,           // ABORTED: the caller's lease has run out or passed on
  kCommitsLost,         // ABORTED: acknowledged ASYNC commits of the session were not stored
};

// "SESSION_NOT_FOUND" and so on: what the payload holds. Frozen: clients see these names.
std::string_view StoreErrorName(StoreError error);

// A status with the code that belongs to `error`, and `error` as its payload.
absl::Status MakeStoreError(StoreError error, std::string_view message);

// kNone when `status` carries none.
StoreError GetStoreError(const absl::Status& status);

// Says when trying again makes sense, beside the error. Zero: nothing is known.
inline constexpr char kRetryAfterUrl[] = "reprise.dev/RetryAfter";
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
absl::Duration RetryAfter(const absl::Status& status);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_STORE_ERROR_H_
