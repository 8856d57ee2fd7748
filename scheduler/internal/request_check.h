// What a request must look like before it may queue.
#ifndef REPRISE_SCHEDULER_INTERNAL_REQUEST_CHECK_H_
#define REPRISE_SCHEDULER_INTERNAL_REQUEST_CHECK_H_

#include "absl/status/status.h"
#include "models/hybrid_model.h"
#include "scheduler/request.h"

namespace reprise::scheduler {

// INVALID_ARGUMENT names the field. A state that is still to come is left to CheckStart.
absl::Status CheckRequest(const Request& request, const models::HybridModel& model);

// The state, if any, and whether there is something to feed.
absl::Status CheckStart(const Request& request, const SequenceState* state,
                        const models::HybridModel& model);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_REQUEST_CHECK_H_
