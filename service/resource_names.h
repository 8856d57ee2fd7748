// "sessions/{id}" and "sessions/{id}/snapshots/{id}", read strictly.
#ifndef REPRISE_SERVICE_RESOURCE_NAMES_H_
#define REPRISE_SERVICE_RESOURCE_NAMES_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace reprise::service {

struct SnapshotName {
  std::string session_id;
  std::string snapshot_id;  // empty where a session's name is allowed: its head
};

// INVALID_FIELD about `field` when `name` has another form.
absl::StatusOr<std::string> ParseSessionName(std::string_view name, std::string_view field);
absl::StatusOr<SnapshotName> ParseSnapshotName(std::string_view name, std::string_view field);
absl::StatusOr<SnapshotName> ParseSessionOrSnapshotName(std::string_view name,
                                                        std::string_view field);

std::string MakeSessionName(std::string_view session_id);
std::string MakeSnapshotName(std::string_view session_id, std::string_view snapshot_id);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_RESOURCE_NAMES_H_
