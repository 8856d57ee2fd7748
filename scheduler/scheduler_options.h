// What can be set on a scheduler, and what it counts.
#ifndef REPRISE_SCHEDULER_SCHEDULER_OPTIONS_H_
#define REPRISE_SCHEDULER_SCHEDULER_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/prefix_cache/keep_policy.h"
#include "scheduler/prefix_cache/prefix_cache.h"
#include "scheduler/scheduler_metrics.h"

namespace reprise::scheduler {

// When observers hear of what happened in a step.
enum class Delivery : uint8_t {
  kAtOnce,
  // While the next step runs on the device, which then need not wait for detokenizing and writing;
  // observers that may stop their sequence hear at once all the same.
  kBesideNextStep,
  kAuto,  // kBesideNextStep where steps run on a device
};

struct SchedulerOptions {
  // Sequences that run at the same time: slots on the device. >= 1.
  int num_slots = 32;
  // Rows of one step over all sequences. 1..model.max_rows().
  int step_tokens = 256;
  // Prompt rows that one sequence gets before the next one has its turn. 1..step_tokens.
  int prefill_chunk_tokens = 128;
  // Rows of one step whose logits are kept, vocabulary * 4 bytes each. 1..model.max_rows().
  int step_logit_rows = 256;

  // Requests that have not started yet, over all tenants and of one tenant. >= 1.
  int max_queued = 1024;
  int max_queued_per_tenant = 256;
  // Host memory that all requests together may come to need, as predicted when they are submitted:
  // the state that they bring or leave, prompt, answer, scores. >= 1.
  int64_t max_request_bytes = int64_t{4} << 30;
  // Host memory for states of sequences that started and gave up their slot. While two sequences
  // change places there may be one state more. 0 = a sequence keeps its slot to its end.
  int64_t max_parked_bytes = int64_t{1} << 30;

  // A request (or a parked sequence) that has waited this long for a slot is overdue. A quarter of
  // the slots' time goes to overdue ones whatever their priority, in turns of a time_slice. >= 0.
  absl::Duration max_wait = absl::Seconds(10);
  // A sequence that has had its slot this long gives it up to an overdue one, to a tenant with
  // fewer slots, or to another of its tenant that has started. >= 0.
  absl::Duration time_slice = absl::Seconds(1);
  // So does one whose client has not read for this long. >= 0.
  absl::Duration park_paused_after = absl::Milliseconds(100);

  // States of prompts for later requests; may be shared by schedulers. Null = none are kept.
  std::shared_ptr<PrefixCache> prefix_cache;
  KeepPolicy keep_policy;

  Delivery delivery = Delivery::kAuto;

  // A tenant's share of rows and slots relative to others', asked on Submit's thread whenever the
  // tenant appears; clamped to 0.001..1000. Must be thread-safe and must not block. Null = all
  // equal.
  std::function<double(const std::string& tenant)> tenant_weight;
  // Hears of every step. Borrowed; may be null.
  SchedulerMetrics* metrics = nullptr;
};

// INVALID_ARGUMENT names the field, its range and the value.
absl::Status ValidateOptions(const SchedulerOptions& options, int model_max_rows);

// Counters since start and gauges of now.
struct SchedulerStats {
  // Requests: with a slot; not started; started and without a slot. Of the first and the last:
  // whose client does not read.
  int running = 0, waiting = 0, parked = 0, paused = 0;
  int free_slots = 0;
  int64_t parked_bytes = 0;
  int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0;
  int64_t finished = 0, cancelled = 0, expired = 0, failed = 0, rejected = 0;
  int64_t parks = 0, checkpoints = 0;
  int64_t cached_tokens = 0, shared_tokens = 0;  // PrefixReuse, of all requests that started
  int64_t kept_prefixes = 0;                     // states given to the prefix cache
  absl::Duration busy;                           // time inside Step when it ran rows
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SCHEDULER_OPTIONS_H_
