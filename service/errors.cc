#include "service/errors.h"

#include <algorithm>
#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "scheduler/scheduler_error.h"
#include "scheduler/session_state.h"
#include "state_store/store_error.h"

namespace reprise::service {
namespace {

using state_store::StoreError;
using v1::ErrorReason;

constexpr char kDomain[] = "reprise.dev";
constexpr char kReasonPrefix[] = "ERROR_REASON_";
constexpr size_t kMaxViolations = 12;
constexpr size_t kMaxDescription = 160;
constexpr size_t kMaxFieldPath = 100;

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

std::string DetailUrl(std::string_view message) {
  return absl::StrCat(Absl(kDetailPrefix), Absl(message));
}

std::string ReasonName(ErrorReason reason) {
  return v1::ErrorReason_Name(reason).substr(sizeof(kReasonPrefix) - 1);
}

ErrorReason ReasonOfStoreError(StoreError error) {
  switch (error) {
    case StoreError::kNone:
      return v1::ERROR_REASON_UNSPECIFIED;
    case StoreError::kInvalidArgument:
    case StoreError::kInvalidPageToken:
      return v1::ERROR_REASON_INVALID_FIELD;
    case StoreError::kRequestIdReused:
      return v1::ERROR_REASON_REQUEST_ID_REUSED;
    case StoreError::kSessionNotFound:
    case StoreError::kSessionExpired:
      return v1::ERROR_REASON_SESSION_NOT_FOUND;
    case StoreError::kSnapshotNotFound:
      return v1::ERROR_REASON_SNAPSHOT_NOT_FOUND;
    case StoreError::kSessionExists:
      return v1::ERROR_REASON_SESSION_EXISTS;
    case StoreError::kVersionMismatch:
      return v1::ERROR_REASON_VERSION_MISMATCH;
    case StoreError::kNoHead:
      return v1::ERROR_REASON_EMPTY_SESSION;
    case StoreError::kSnapshotIsHead:
      return v1::ERROR_REASON_SNAPSHOT_IN_USE;
    case StoreError::kModelMismatch:
      return v1::ERROR_REASON_FINGERPRINT_MISMATCH;
    case StoreError::kStoreLocked:
    case StoreError::kIoError:
      return v1::ERROR_REASON_STORE_UNAVAILABLE;
    case StoreError::kSessionLeased:
      return v1::ERROR_REASON_SESSION_BUSY;
    case StoreError::kLeaseLost:
      return v1::ERROR_REASON_LEASE_LOST;
    case StoreError::kCommitsLost:
      return v1::ERROR_REASON_COMMITS_LOST;
    case StoreError::kCorruptChunk:
    case StoreError::kCorruptManifest:
    case StoreError::kCorruptStream:
    case StoreError::kCorruptIndex:
      return v1::ERROR_REASON_CORRUPT_SNAPSHOT;
    case StoreError::kUnsupportedVersion:
      return v1::ERROR_REASON_UNSUPPORTED_FORMAT;
    case StoreError::kStoreFull:
      return v1::ERROR_REASON_STORE_FULL;
  }
  return v1::ERROR_REASON_INTERNAL;
}

// For a status that carries nothing but its code.
ErrorReason ReasonOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return v1::ERROR_REASON_INVALID_FIELD;
    case absl::StatusCode::kResourceExhausted:
      return v1::ERROR_REASON_QUEUE_FULL;
    case absl::StatusCode::kUnavailable:
      return v1::ERROR_REASON_DRAINING;
    case absl::StatusCode::kDataLoss:
      return v1::ERROR_REASON_CORRUPT_SNAPSHOT;
    case absl::StatusCode::kDeadlineExceeded:
      return v1::ERROR_REASON_DEADLINE_EXCEEDED;
    case absl::StatusCode::kCancelled:
      return v1::ERROR_REASON_CANCELLED;
    default:
      return v1::ERROR_REASON_INTERNAL;
  }
}

}  // namespace

absl::StatusCode CodeOf(ErrorReason reason) {
  switch (reason) {
    case v1::ERROR_REASON_INVALID_FIELD:
    case v1::ERROR_REASON_INVALID_UTF8:
    case v1::ERROR_REASON_PROMPT_TOO_LONG:
    case v1::ERROR_REASON_EMPTY_SEQUENCE:
    case v1::ERROR_REASON_REQUEST_ID_REUSED:
      return absl::StatusCode::kInvalidArgument;
    case v1::ERROR_REASON_MODEL_NOT_FOUND:
    case v1::ERROR_REASON_SESSION_NOT_FOUND:
    case v1::ERROR_REASON_SNAPSHOT_NOT_FOUND:
    case v1::ERROR_REASON_COMMIT_NOT_FOUND:
      return absl::StatusCode::kNotFound;
    case v1::ERROR_REASON_SESSION_EXISTS:
      return absl::StatusCode::kAlreadyExists;
    case v1::ERROR_REASON_VERSION_MISMATCH:
    case v1::ERROR_REASON_SESSION_BUSY:
    case v1::ERROR_REASON_LEASE_LOST:
    case v1::ERROR_REASON_COMMITS_LOST:
      return absl::StatusCode::kAborted;
    case v1::ERROR_REASON_FINGERPRINT_MISMATCH:
    case v1::ERROR_REASON_SNAPSHOT_IN_USE:
    case v1::ERROR_REASON_EMPTY_SESSION:
    case v1::ERROR_REASON_TURN_UNFINISHED:
      return absl::StatusCode::kFailedPrecondition;
    case v1::ERROR_REASON_QUEUE_FULL:
    case v1::ERROR_REASON_STORE_FULL:
    case v1::ERROR_REASON_QUOTA_EXCEEDED:
      return absl::StatusCode::kResourceExhausted;
    case v1::ERROR_REASON_UNAUTHENTICATED:
      return absl::StatusCode::kUnauthenticated;
    case v1::ERROR_REASON_PERMISSION_DENIED:
      return absl::StatusCode::kPermissionDenied;
    case v1::ERROR_REASON_STORE_UNAVAILABLE:
    case v1::ERROR_REASON_DRAINING:
    case v1::ERROR_REASON_DEVICE_FAILED:
      return absl::StatusCode::kUnavailable;
    case v1::ERROR_REASON_CORRUPT_SNAPSHOT:
      return absl::StatusCode::kDataLoss;
    case v1::ERROR_REASON_DEADLINE_EXCEEDED:
      return absl::StatusCode::kDeadlineExceeded;
    case v1::ERROR_REASON_CANCELLED:
      return absl::StatusCode::kCancelled;
    case v1::ERROR_REASON_UNSUPPORTED_FORMAT:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::Status MakeError(ErrorReason reason, std::string_view message, const Metadata& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonName(reason));
  info.set_domain(kDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = value;
  absl::Status status(CodeOf(reason), Absl(message));
  status.SetPayload(DetailUrl("ErrorInfo"), absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Status WithResource(absl::Status status, std::string_view type, std::string_view name) {
  if (status.ok()) return status;
  google::rpc::ResourceInfo info;
  info.set_resource_type(std::string(type));
  info.set_resource_name(std::string(Shortened(name, kMaxDescription)));
  status.SetPayload(DetailUrl("ResourceInfo"), absl::Cord(info.SerializeAsString()));
  return status;
}

ErrorReason ReasonOf(const absl::Status& status) {
  if (status.ok()) return v1::ERROR_REASON_UNSPECIFIED;
  if (auto payload = status.GetPayload(DetailUrl("ErrorInfo")); payload.has_value()) {
    google::rpc::ErrorInfo info;
    ErrorReason reason;
    if (info.ParseFromString(std::string(*payload)) &&
        v1::ErrorReason_Parse(absl::StrCat(kReasonPrefix, info.reason()), &reason)) {
      return reason;
    }
  }
  if (status.GetPayload(scheduler::kMismatchPayload).has_value()) {
    return v1::ERROR_REASON_FINGERPRINT_MISMATCH;
  }
  if (scheduler::GetSchedulerError(status) == scheduler::SchedulerError::kDeviceFailed) {
    return v1::ERROR_REASON_DEVICE_FAILED;
  }
  const ErrorReason reason = ReasonOfStoreError(state_store::GetStoreError(status));
  return reason != v1::ERROR_REASON_UNSPECIFIED ? reason : ReasonOfCode(status.code());
}

void FieldViolations::Add(std::string_view field, std::string_view description) {
  violations_.emplace_back(field, description);
}

absl::Status FieldViolations::ToStatus() const {
  if (violations_.empty()) return absl::OkStatus();
  google::rpc::BadRequest bad_request;
  for (size_t i = 0; i < std::min(violations_.size(), kMaxViolations); ++i) {
    auto* violation = bad_request.add_field_violations();
    violation->set_field(std::string(Shortened(violations_[i].first, kMaxFieldPath)));
    violation->set_description(std::string(Shortened(violations_[i].second, kMaxDescription)));
  }
  const auto& first = bad_request.field_violations(0);
  std::string message = absl::StrCat(first.field(), ": ", first.description());
  if (violations_.size() > 1) absl::StrAppend(&message, " (and ", violations_.size() - 1, " more)");
  absl::Status status = MakeError(v1::ERROR_REASON_INVALID_FIELD, message);
  status.SetPayload(DetailUrl("BadRequest"), absl::Cord(bad_request.SerializeAsString()));
  return status;
}

absl::Status FieldError(std::string_view field, std::string_view description) {
  FieldViolations violations;
  violations.Add(field, description);
  return violations.ToStatus();
}

std::string_view Shortened(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
  return text.substr(0, limit);
}

}  // namespace reprise::service
