// From options to the parts of a server: checkpoints, store.
#ifndef REPRISE_SERVICE_SERVER_LOADING_H_
#define REPRISE_SERVICE_SERVER_LOADING_H_

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "service/logging.h"
#include "service/server.h"
#include "service/server_options.h"

namespace reprise::service {

// Says in the log what was loaded and opened. `clock` is borrowed.
absl::StatusOr<ServerParts> LoadParts(const ServerOptions& options, const Clock* clock,
                                      const std::shared_ptr<spdlog::logger>& log);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SERVER_LOADING_H_
