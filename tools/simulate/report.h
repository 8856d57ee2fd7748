// What a run has found, for people and for programs.
#ifndef REPRISE_TOOLS_SIMULATE_REPORT_H_
#define REPRISE_TOOLS_SIMULATE_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tools/simulate/distribution.h"

namespace reprise::simulate {

// One tenant's, or all. Times of requests that arrived after the warm-up.
struct LatencyStats {
  Distribution ttft;        // arrival to first token, refusals and restores included
  Distribution itl;         // between two tokens of one request
  Distribution queue;       // submission to slot, of the last attempt
  Distribution latency;     // arrival to end
  double slowdown_sum = 0;  // latency over what the request takes alone on the device
  int64_t slowdowns = 0;
  int64_t completed = 0, prompt_tokens = 0, output_tokens = 0;
  double computed_rows = 0;  // of all requests, ended or not

  double mean_slowdown() const {
    return slowdowns == 0 ? 0 : slowdown_sum / static_cast<double>(slowdowns);
  }
};

struct Report {
  std::string title;

  // Turns of all scripts that started. Each ends as exactly one of the seven below it.
  int64_t turns = 0;
  int64_t completed = 0;
  int64_t expired = 0;     // reached, or would have reached, the deadline
  int64_t dropped = 0;     // refused max_attempts times
  int64_t failed = 0;      // refused or ended with an error
  int64_t abandoned = 0;   // never sent, because the turn before was dropped or failed
  int64_t unfinished = 0;  // sent, and still under way at the end
  int64_t unsent = 0;      // not yet due at the end
  std::string first_failure;

  int64_t rejections = 0;  // refused submissions
  Distribution retry_delay;
  int64_t resubmitted = 0;  // lost with a replica, or moved from one that drains

  // Where a turn found the state that it goes on from.
  int64_t states_local = 0, states_from_store = 0, sessions_moved = 0;
  // Turns and tokens that the prefix cache saved, of all that would have been computed.
  int64_t cache_hits = 0, cached_tokens = 0, fed_tokens = 0;
  int64_t imports = 0, exports = 0, parks = 0;  // on the device

  double duration = 0;  // seconds from the warm-up to the last end
  // Of replicas with a scheduler.
  int64_t steps = 0, rows = 0;
  double busy_seconds = 0, slot_seconds = 0, replica_seconds = 0;
  int num_slots = 0;

  LatencyStats all;
  std::vector<LatencyStats> tenants;
  std::vector<std::string> tenant_names;
  std::vector<double> tenant_weights;

  // Fleet: how even, and what is extrapolated.
  int replicas = 1, with_scheduler = 1;
  double load_mean = 0, load_max = 0, load_variation = 0;  // turns of a replica
  // Standard errors over the replicas with a scheduler, for what it says of all; 0 for one.
  double ttft_mean_error = 0, itl_mean_error = 0;
  // Turns of a replica with a scheduler over turns of any.
  double sampled_load_ratio = 1;

  // Empty, or what does not add up.
  std::string Conservation() const;
  double jain_service() const;   // of computed rows over weight
  double jain_slowdown() const;  // of 1 / mean slowdown
};

std::string ReportJson(const Report& report);
std::string ReportTable(const Report& report);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_REPORT_H_
