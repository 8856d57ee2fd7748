// Where the time of one request went.
#ifndef REPRISE_SCHEDULER_TIMELINE_H_
#define REPRISE_SCHEDULER_TIMELINE_H_

#include <cstdint>

#include "absl/time/time.h"

namespace reprise::scheduler {

// Zero where a phase did not happen. Only durations and counts: no clock is compared with
// another's.
struct Timeline {
  absl::Duration queue;                // Submit to the first slot
  absl::Duration load;                 // the part of it in which the state was not there yet
  absl::Duration restore;              // copies of states to slots, the first and after parking
  absl::Duration prefill;              // first slot to first token, without the first restore
  absl::Duration time_to_first_token;  // from Submit
  absl::Duration decode;               // first token to the end
  absl::Duration parked;               // without a slot after the first one
  absl::Duration snapshot;             // copies of states for parking, checkpoints and the end, as
                                       // far as the steps waited for them
  int parks = 0;
  int checkpoints = 0;
  // Between consecutive tokens.
  int64_t token_gaps = 0;
  absl::Duration token_gap_sum, token_gap_max;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_TIMELINE_H_
