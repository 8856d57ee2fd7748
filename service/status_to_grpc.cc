#include "service/status_to_grpc.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "models/tokenizer/utf8.h"
#include "scheduler/scheduler_error.h"
#include "scheduler/session_state.h"
#include "service/errors.h"
#include "state_store/store_error.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxMessage = 512;
constexpr size_t kMaxDetails = 4096;
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

absl::string_view Prefix() { return {kDetailPrefix.data(), kDetailPrefix.size()}; }

// Field, expected and found of a refused snapshot, which the scheduler packs into one payload.
Metadata MismatchMetadata(const absl::Status& status) {
  auto payload = status.GetPayload(scheduler::kMismatchPayload);
  if (!payload.has_value()) return {};
  const std::vector<std::string> lines = absl::StrSplit(std::string(*payload), '\n');
  if (lines.size() != 3) return {};
  return {{"field", lines[0]}, {"expected", lines[1]}, {"found", lines[2]}};
}

// Statuses of the modules below get the ErrorInfo that they stand for.
absl::Status WithErrorInfo(const absl::Status& status) {
  if (status.GetPayload(absl::StrCat(Prefix(), "ErrorInfo")).has_value()) return status;
  Metadata metadata = MismatchMetadata(status);
  if (auto error = state_store::GetStoreError(status); error != state_store::StoreError::kNone) {
    metadata.emplace_back("store_error", state_store::StoreErrorName(error));
  }
  if (auto error = scheduler::GetSchedulerError(status);
      error != scheduler::SchedulerError::kNone) {
    metadata.emplace_back("scheduler_error", scheduler::SchedulerErrorName(error));
  }
  absl::Status described = MakeError(ReasonOf(status), "", metadata);
  absl::Status result(status.code(), status.message());
  described.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

bool WorthRetrying(v1::ErrorReason reason) {
  return reason == v1::ERROR_REASON_QUEUE_FULL || reason == v1::ERROR_REASON_DRAINING ||
         reason == v1::ERROR_REASON_DEVICE_FAILED || reason == v1::ERROR_REASON_SESSION_BUSY ||
         reason == v1::ERROR_REASON_LEASE_LOST || reason == v1::ERROR_REASON_STORE_UNAVAILABLE;
}

// As the module that refused knows it.
absl::Duration RetryDelayOf(const absl::Status& status) {
  if (auto delay = scheduler::GetRetryDelay(status); delay.has_value()) return *delay;
  const absl::Duration known = state_store::RetryAfter(status);
  return known > absl::ZeroDuration() ? known : kRetryDelay;
}

// gRPC refuses messages that are not UTF-8, and status messages may quote a request.
std::string CleanMessage(absl::string_view message) {
  std::string text(Shortened({message.data(), message.size()}, kMaxMessage));
  for (size_t bad = models::FindInvalidUtf8(text); bad != std::string::npos;
       bad = models::FindInvalidUtf8(text)) {
    text[bad] = '?';
  }
  return text;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& plain) {
  if (plain.ok()) return grpc::Status::OK;
  const absl::Status status = WithErrorInfo(plain);
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(CleanMessage(status.message()));
  std::vector<std::pair<std::string, std::string>> details;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    if (absl::StartsWith(url, Prefix())) details.emplace_back(url, payload);
  });
  if (WorthRetrying(ReasonOf(status))) {
    const timespec delay = absl::ToTimespec(RetryDelayOf(status));
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(delay.tv_sec);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay.tv_nsec));
    details.emplace_back(absl::StrCat(Prefix(), "RetryInfo"), retry.SerializeAsString());
  }
  // "ErrorInfo" first: it is the one that must fit.
  std::stable_partition(details.begin(), details.end(),
                        [](const auto& d) { return absl::EndsWith(d.first, ".ErrorInfo"); });
  size_t total = 0;
  for (auto& [url, bytes] : details) {
    total += bytes.size();
    if (total > kMaxDetails) break;
    auto* any = wire.add_details();
    any->set_type_url(std::move(url));
    any->set_value(std::move(bytes));
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), wire.message(),
                      wire.SerializeAsString());
}

}  // namespace reprise::service
