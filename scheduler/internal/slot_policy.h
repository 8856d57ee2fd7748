// Who gives up a slot when all are taken: a pure function of what is running.
#ifndef REPRISE_SCHEDULER_INTERNAL_SLOT_POLICY_H_
#define REPRISE_SCHEDULER_INTERNAL_SLOT_POLICY_H_

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_options.h"

namespace reprise::scheduler {

// A sequence that has a slot.
struct SlotHolder {
  Priority priority = Priority::kNormal;
  double tenant_share = 0;   // slots of its tenant / the tenant's weight
  bool same_tenant = false;  // as the contender's
  absl::Time slot_since;
  absl::Time protected_until = absl::InfinitePast();
  absl::Time paused_since = absl::InfiniteFuture();
  bool movable = true;  // false: it got its slot in this very step
  bool served = true;   // has had a row since it got its slot
};

// The one that would get it.
struct SlotContender {
  Priority priority = Priority::kNormal;
  double tenant_share_with = 0;  // as tenant_share would be with one slot more
  bool overdue = false;
  bool started = false;  // has had a slot before
};

// Index of the holder that must go, or -1. In this order:
//   1. one whose client has not read for park_paused_after;
//   2. one of a lower priority;
//   3. one that has had its slot for time_slice, if the contender is overdue; or if it is of the
//      same priority, and of another tenant that does not end up with a smaller share than the
//      contender's, or of the same tenant and the contender has started too;
//   4. any, if the contender is overdue.
// All but 1 spare holders that are protected, or that have had no row yet: each turn gets
// somewhere. Among equals the lowest priority, the tenant with the largest share, the longest held.
int ChooseVictim(absl::Span<const SlotHolder> holders, const SlotContender& contender,
                 absl::Time now, const SchedulerOptions& options);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_SLOT_POLICY_H_
