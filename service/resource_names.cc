#include "service/resource_names.h"

#include <algorithm>

#include "service/errors.h"
#include "state_store/session.h"

namespace reprise::service {
namespace {

constexpr std::string_view kSessions = "sessions/";
constexpr std::string_view kSnapshots = "/snapshots/";
constexpr size_t kMaxSnapshotId = 128;
constexpr char kSessionForm[] = "must be \"sessions/{id}\"";
constexpr char kSnapshotForm[] = "must be \"sessions/{id}/snapshots/{id}\"";
constexpr char kEitherForm[] = "must be \"sessions/{id}\" or \"sessions/{id}/snapshots/{id}\"";

bool IsSnapshotId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxSnapshotId &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
         });
}

// False when `name` is neither form.
bool Split(std::string_view name, SnapshotName* parts) {
  if (name.substr(0, kSessions.size()) != kSessions) return false;
  name.remove_prefix(kSessions.size());
  const size_t slash = name.find('/');
  const std::string_view session = name.substr(0, slash);
  if (!state_store::IsValidSessionId(session)) return false;
  parts->session_id = std::string(session);
  if (slash == std::string_view::npos) return true;
  name.remove_prefix(slash);
  if (name.substr(0, kSnapshots.size()) != kSnapshots) return false;
  name.remove_prefix(kSnapshots.size());
  if (!IsSnapshotId(name)) return false;
  parts->snapshot_id = std::string(name);
  return true;
}

}  // namespace

absl::StatusOr<std::string> ParseSessionName(std::string_view name, std::string_view field) {
  SnapshotName parts;
  if (!Split(name, &parts) || !parts.snapshot_id.empty()) return FieldError(field, kSessionForm);
  return parts.session_id;
}

absl::StatusOr<SnapshotName> ParseSnapshotName(std::string_view name, std::string_view field) {
  SnapshotName parts;
  if (!Split(name, &parts) || parts.snapshot_id.empty()) return FieldError(field, kSnapshotForm);
  return parts;
}

absl::StatusOr<SnapshotName> ParseSessionOrSnapshotName(std::string_view name,
                                                        std::string_view field) {
  SnapshotName parts;
  if (!Split(name, &parts)) return FieldError(field, kEitherForm);
  return parts;
}

std::string MakeSessionName(std::string_view session_id) {
  return std::string(kSessions).append(session_id);
}

std::string MakeSnapshotName(std::string_view session_id, std::string_view snapshot_id) {
  return MakeSessionName(session_id).append(kSnapshots).append(snapshot_id);
}

}  // namespace reprise::service
