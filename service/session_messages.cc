#include "service/session_messages.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "service/resource_names.h"
#include "state_store/session.h"

namespace reprise::service {
namespace {

constexpr int kMaxLabels = 32;
constexpr size_t kMaxLabelKey = 63;
constexpr size_t kMaxLabelValue = 255;
constexpr size_t kMaxRequestId = 128;
constexpr int32_t kMaxPageSize = 1000;
constexpr size_t kMaxPageToken = 1024;
// The range of google.protobuf.Duration.
constexpr int64_t kMaxDurationSeconds = 315'576'000'000;

// The last of google.protobuf.Timestamp: the end of the year 9999.
constexpr int64_t kMaxTimestampSeconds = 253'402'300'799;

// In whole microseconds, as the store has it.
void SetTime(absl::Time time, google::protobuf::Timestamp* timestamp) {
  time = std::min(time, absl::FromUnixSeconds(kMaxTimestampSeconds));
  const int64_t seconds = absl::ToUnixSeconds(time);
  timestamp->set_seconds(seconds);
  timestamp->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

}  // namespace

absl::StatusOr<v1::Session> DescribeSession(state_store::SessionStore* store,
                                            const state_store::Session& session) {
  v1::Session described;
  described.set_name(MakeSessionName(session.id));
  described.set_model(session.model_id);
  described.set_version(session.version);
  described.set_token_count(static_cast<int64_t>(session.token_count));
  if (!session.head_snapshot_id.empty()) {
    described.set_head_snapshot(MakeSnapshotName(session.id, session.head_snapshot_id));
    auto head = store->GetSnapshot(session.tenant, session.id, session.head_snapshot_id);
    // The head may have moved on since; its successor's size is the same.
    if (!head.ok()) head = store->GetSnapshot(session.tenant, session.id, "");
    if (head.ok()) {
      described.set_state_bytes(static_cast<int64_t>(head->manifest.LogicalBytes()));
    } else if (!absl::IsNotFound(head.status())) {
      return head.status();
    }
  }
  if (!session.parent_snapshot_id.empty()) {
    described.set_parent_snapshot(
        MakeSnapshotName(session.parent_session_id, session.parent_snapshot_id));
  }
  SetTime(session.created, described.mutable_create_time());
  SetTime(session.updated, described.mutable_update_time());
  if (session.expires != absl::InfiniteFuture()) {
    SetTime(session.expires, described.mutable_expire_time());
  }
  for (const auto& [key, value] : session.labels) (*described.mutable_labels())[key] = value;
  return described;
}

v1::Snapshot DescribeSnapshot(const std::string& session_id,
                              const state_store::SnapshotInfo& snapshot) {
  const state_store::SnapshotManifest& manifest = snapshot.manifest;
  v1::Snapshot described;
  described.set_name(MakeSnapshotName(session_id, manifest.snapshot_id));
  described.set_model(manifest.model_id);
  described.set_token_count(static_cast<int64_t>(manifest.token_count));
  described.set_state_bytes(static_cast<int64_t>(manifest.LogicalBytes()));
  if (!manifest.parent_snapshot_id.empty()) {
    described.set_parent_snapshot(MakeSnapshotName(session_id, manifest.parent_snapshot_id));
  }
  SetTime(manifest.created_at, described.mutable_create_time());
  described.set_weights_fingerprint(manifest.weights_fingerprint);
  described.set_layout_digest(manifest.layout_digest);
  described.set_token_hash(HexDigest(manifest.token_hash));
  described.set_retained(snapshot.retained || snapshot.is_origin);
  return described;
}

void CheckLabels(const google::protobuf::Map<std::string, std::string>& labels,
                 const std::string& field, FieldViolations* violations) {
  if (labels.size() > kMaxLabels) {
    violations->Add(field, absl::StrCat("must have at most ", kMaxLabels, " entries"));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kMaxLabelKey) {
      violations->Add(field, absl::StrCat("keys must be 1 to ", kMaxLabelKey, " bytes"));
    }
    if (value.size() > kMaxLabelValue) {
      violations->Add(field, absl::StrCat("values must be at most ", kMaxLabelValue, " bytes"));
    }
  }
}

absl::Duration ReadTtl(const google::protobuf::Duration& ttl, const std::string& field,
                       FieldViolations* violations) {
  if (ttl.seconds() >= 0 && ttl.seconds() <= kMaxDurationSeconds && ttl.nanos() >= 0 &&
      ttl.nanos() < 1'000'000'000 && (ttl.seconds() > 0 || ttl.nanos() >= 1000)) {
    return absl::Seconds(ttl.seconds()) + absl::Nanoseconds(ttl.nanos());
  }
  violations->Add(field, absl::StrCat("must be a duration from a microsecond to ",
                                      kMaxDurationSeconds, " seconds"));
  return absl::Seconds(1);
}

absl::StatusOr<state_store::NewSessionOptions> ReadNewSession(
    const v1::CreateSessionRequest& request, const Environment& environment,
    const std::string& path_prefix) {
  FieldViolations violations;
  state_store::NewSessionOptions options;
  options.id = request.session_id();
  if (!options.id.empty() && !state_store::IsValidSessionId(options.id)) {
    violations.Add(path_prefix + "session_id",
                   "must be 1 to 63 lower-case letters, digits and hyphens, the first and the last "
                   "not a hyphen");
  }
  options.ttl = request.has_ttl() ? ReadTtl(request.ttl(), path_prefix + "ttl", &violations)
                                  : environment.limits.default_session_ttl;
  CheckLabels(request.labels(), path_prefix + "labels", &violations);
  options.labels = {request.labels().begin(), request.labels().end()};
  options.request_id = request.request_id();
  if (options.request_id.size() > kMaxRequestId) {
    violations.Add(path_prefix + "request_id",
                   absl::StrCat("must be at most ", kMaxRequestId, " bytes"));
  }
  RETURN_IF_ERROR(violations.ToStatus());
  options.model_id = request.model();
  if (!options.model_id.empty()) {
    RETURN_IF_ERROR(environment.models->Find(options.model_id, path_prefix + "model").status());
  }
  return options;
}

absl::StatusOr<state_store::PageRequest> ReadPage(int32_t page_size,
                                                  const std::string& page_token) {
  FieldViolations violations;
  if (page_size < 0 || page_size > kMaxPageSize) {
    violations.Add("page_size", absl::StrCat("must be between 0 and ", kMaxPageSize));
  }
  if (page_token.size() > kMaxPageToken) violations.Add("page_token", "is not one of this server");
  RETURN_IF_ERROR(violations.ToStatus());
  return state_store::PageRequest{page_size, page_token};
}

}  // namespace reprise::service
