// The same traces on a real model, in real time: what a simulation is held against.
#ifndef REPRISE_TOOLS_SIMULATE_REPLAY_H_
#define REPRISE_TOOLS_SIMULATE_REPLAY_H_

#include "absl/status/statusor.h"
#include "models/hybrid_model.h"
#include "scheduler/scheduler.h"
#include "tools/simulate/report.h"
#include "tools/simulate/trace.h"

namespace reprise::simulate {

// Runs `source` on one scheduler in this thread and returns when the last turn has ended; sessions'
// states wait in memory, or with `resend_history` each turn sends all that was said. Refused turns
// come back as in a simulation. INTERNAL when a turn ends otherwise than with all its tokens.
absl::StatusOr<Report> Replay(ScriptSource& source, models::HybridModel* model,
                              const kernels::Context& context,
                              const scheduler::SchedulerOptions& options,
                              bool resend_history = false);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_REPLAY_H_
