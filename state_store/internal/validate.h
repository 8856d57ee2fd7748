// Checks of what callers hand in; INVALID_ARGUMENT with the field's name.
#ifndef REPRISE_STATE_STORE_INTERNAL_VALIDATE_H_
#define REPRISE_STATE_STORE_INTERNAL_VALIDATE_H_

#include <string_view>

#include "absl/status/status.h"
#include "state_store/session.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

absl::Status ValidateTenant(std::string_view tenant);
absl::Status ValidateModelId(std::string_view model_id);
absl::Status ValidateLabels(const Labels& labels);

// ValidateManifest without the fields that the store fills in.
absl::Status ValidateNewManifest(const SnapshotManifest& manifest);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_VALIDATE_H_
