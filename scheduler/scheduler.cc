#include "scheduler/scheduler.h"

#include <utility>

#include "base/status_macros.h"
#include "scheduler/internal/loop.h"

namespace reprise::scheduler {

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(models::HybridModel* model,
                                                             const kernels::Context& context,
                                                             const Clock* clock,
                                                             const SchedulerOptions& options) {
  RETURN_IF_ERROR(ValidateOptions(options, model->max_rows()));
  ASSIGN_OR_RETURN(std::unique_ptr<models::StateSlots> slots,
                   models::StateSlots::Create(model->state_layout(), options.num_slots, context));
  ASSIGN_OR_RETURN(std::unique_ptr<StepRunner> runner,
                   NewStepRunner(model, context.pool, options.step_logit_rows));
  return std::unique_ptr<Scheduler>(new Scheduler(std::make_unique<Loop>(
      model, std::move(slots), std::move(runner), context.health, clock, options)));
}

Scheduler::Scheduler(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
Scheduler::~Scheduler() = default;

absl::StatusOr<RequestId> Scheduler::Submit(Request&& request) {
  return loop_->Submit(std::move(request));
}
void Scheduler::SetWake(std::function<void()> wake) { loop_->SetWake(std::move(wake)); }
void Scheduler::Cancel(RequestId id) { loop_->Cancel(id); }
void Scheduler::Drain(absl::Time deadline) { loop_->Drain(deadline); }
bool Scheduler::Step() { return loop_->Step(); }
bool Scheduler::Idle() const { return loop_->Idle(); }
SchedulerStats Scheduler::stats() const { return loop_->stats(); }
const SchedulerOptions& Scheduler::options() const { return loop_->options(); }
absl::Status Scheduler::CheckIntegrity() const { return loop_->CheckIntegrity(); }

}  // namespace reprise::scheduler
