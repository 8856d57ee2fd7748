// The session store that the options name, with its tiers, and what the prefix caches spill to.
#ifndef REPRISE_SERVICE_OPEN_STORE_H_
#define REPRISE_SERVICE_OPEN_STORE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "scheduler/prefix_cache/tiered_spill.h"
#include "service/logging.h"
#include "service/server.h"
#include "service/server_options.h"

namespace reprise::service {

// Fills the parts that have to do with the store; parts->metrics is there. Errors name the flag.
absl::Status OpenStore(const StoreSettings& settings, std::shared_ptr<spdlog::logger> log,
                       ServerParts* parts);

// Null where no flag asks for one. `clock` is borrowed. Connects to nothing yet.
absl::StatusOr<std::shared_ptr<scheduler::TieredSpill>> OpenPrefixSpill(
    const StoreSettings& settings, const Clock* clock, std::shared_ptr<spdlog::logger> log);

// `url` with user and password put in, whatever characters they have; the user may be empty.
// INVALID_ARGUMENT if it has some already.
absl::StatusOr<std::string> WithCredentials(const std::string& url, const std::string& user,
                                            const std::string& password);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_OPEN_STORE_H_
