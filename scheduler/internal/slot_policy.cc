#include "scheduler/internal/slot_policy.h"

#include <tuple>

namespace reprise::scheduler {
namespace {

constexpr int kStays = 5;

// Number of the rule above under which the holder goes.
int Rule(const SlotHolder& holder, const SlotContender& contender, absl::Time now,
         const SchedulerOptions& options) {
  if (!holder.movable) return kStays;
  if (now - holder.paused_since >= options.park_paused_after) return 1;
  if (holder.protected_until > now || !holder.served) return kStays;
  if (holder.priority < contender.priority) return 2;
  const bool used_up = now - holder.slot_since >= options.time_slice;
  if (contender.overdue) return used_up ? 3 : 4;
  if (!used_up) return kStays;
  if (holder.priority != contender.priority) return kStays;
  // Within a tenant those that have started take turns, and new ones wait for them to end: if all
  // began at once, each would stand still most of the time.
  const bool fair =
      holder.same_tenant ? contender.started : contender.tenant_share_with <= holder.tenant_share;
  return fair ? 3 : kStays;
}

auto Rank(const SlotHolder& holder, int rule) {
  return std::make_tuple(rule, static_cast<int>(holder.priority), -holder.tenant_share,
                         holder.slot_since);
}

}  // namespace

int ChooseVictim(absl::Span<const SlotHolder> holders, const SlotContender& contender,
                 absl::Time now, const SchedulerOptions& options) {
  int victim = -1, victim_rule = kStays;
  for (int i = 0; i < static_cast<int>(holders.size()); ++i) {
    const int rule = Rule(holders[i], contender, now, options);
    if (rule == kStays) continue;
    if (victim < 0 || Rank(holders[i], rule) < Rank(holders[victim], victim_rule)) {
      victim = i;
      victim_rule = rule;
    }
  }
  return victim;
}

}  // namespace reprise::scheduler
