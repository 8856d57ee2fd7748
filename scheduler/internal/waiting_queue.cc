#include "scheduler/internal/waiting_queue.h"

#include <tuple>

namespace reprise::scheduler {
namespace {

// Lower goes first.
auto Rank(const Sequence& sequence) {
  return std::make_tuple(-static_cast<int>(sequence.request.priority),
                         sequence.tenant->slot_share(), sequence.tenant->service, !sequence.started,
                         sequence.place);
}

}  // namespace

void WaitingQueue::Push(Sequence* sequence) {
  lines_[KeyOf(*sequence)].emplace(sequence->place, sequence);
  ++size_;
}

void WaitingQueue::Remove(Sequence* sequence) {
  const auto line = lines_.find(KeyOf(*sequence));
  line->second.erase(sequence->place);
  if (line->second.empty()) lines_.erase(line);
  --size_;
}

WaitingQueue::Choice WaitingQueue::Best(absl::Time now, absl::Duration max_wait) const {
  Choice choice;
  for (const auto& [key, line] : lines_) {
    // A line is in order of waiting_since too: whoever joins it later has waited for less.
    Sequence* first = line.begin()->second;
    const bool overdue = now - first->waiting_since >= max_wait;
    const bool better =
        choice.sequence == nullptr ||
        (overdue != choice.overdue ? overdue
                                   : (overdue ? first->place < choice.sequence->place
                                              : Rank(*first) < Rank(*choice.sequence)));
    if (better) choice = {first, overdue};
  }
  return choice;
}

}  // namespace reprise::scheduler
