// Replicas with the real scheduler behind a consistent-hash front, in simulated time.
#ifndef REPRISE_TOOLS_SIMULATE_SIMULATION_H_
#define REPRISE_TOOLS_SIMULATE_SIMULATION_H_

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/scheduler.h"
#include "tools/simulate/device_model.h"
#include "tools/simulate/report.h"
#include "tools/simulate/trace.h"

namespace reprise::simulate {

struct MembershipEvent {
  enum class Kind { kFail, kDrain, kJoin };
  double at = 0;  // seconds
  Kind kind = Kind::kFail;
  int replica = 0;
  double grace = 0;  // seconds, of a drain
};

// "at:fail:replica", "at:join:replica" or "at:drain:replica:grace".
absl::StatusOr<MembershipEvent> ParseMembershipEvent(const std::string& text);

struct SimulationOptions {
  scheduler::SchedulerOptions scheduler;
  DeviceModel device;
  // Host memory for states of sequences that gave up their slot, in the device's states: replaces
  // scheduler.max_parked_bytes.
  double parked_bytes = 16e9;
  // Host memory of one replica for states of prompts, in the device's states; 0 = no prefix cache.
  double prefix_bytes = 0;
  std::map<std::string, double> tenant_weights;  // 1 for those not named; > 0
  // A session's later turns send the whole conversation again and no state is kept, as with a
  // server that has no sessions.
  bool resend_history = false;

  int replicas = 1;  // 1..100'000
  // Replicas that run the scheduler; 0 = all. The others take the time that these took for like
  // requests under like load, and tell of no latencies (docs/simulation.md).
  int sampled = 0;
  int virtual_nodes = 64;  // of a replica on the ring; 1..4096
  double load_bound = 0;   // >= 1: bounded loads; 0 = unbounded
  // Whether forked sessions go where their root went, or where their own names hash to.
  bool route_by_root = true;
  std::vector<MembershipEvent> events;
  double failure_detection = 1.0;  // seconds until the clients of a failed replica come back

  // Seconds from a turn's arrival after which its client gives up; refusals come earlier.
  double deadline = std::numeric_limits<double>::infinity();
  double retry_delay = 1.0;  // seconds, where a refusal names none
  int max_attempts = 8;      // >= 1
  double warmup = 0;         // seconds; what arrives earlier counts for no latency
  double until = std::numeric_limits<double>::infinity();  // seconds; then the run is cut off
  uint64_t seed = 1;
};

// Runs all of `source`. Equal inputs give equal reports. INVALID_ARGUMENT names the option;
// INTERNAL when the scheduler or the simulation has broken one of its rules.
absl::StatusOr<Report> Simulate(ScriptSource& source, const SimulationOptions& options);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_SIMULATION_H_
