// Who gets the next free slot.
#ifndef REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_
#define REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_

#include <cstdint>
#include <map>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "scheduler/internal/sequence.h"

namespace reprise::scheduler {

// Sequences that could run if they had a slot: new requests and parked ones alike. Those of one
// tenant and priority stand in the order of their places. Borrowed pointers. Not thread-safe.
class WaitingQueue {
 public:
  struct Choice {
    Sequence* sequence = nullptr;
    bool overdue = false;
  };

  void Push(Sequence* sequence);
  // It must be in the queue.
  void Remove(Sequence* sequence);

  // The earliest place among those that have waited for `max_wait` (infinite: nobody counts as
  // overdue), else the best: highest priority, then the tenant with the fewest slots for its
  // weight, then the one that was served least, then those that have started, then the earliest
  // place. Null when empty.
  Choice Best(absl::Time now, absl::Duration max_wait) const;

  int size() const { return size_; }

 private:
  using Key = std::tuple<const Tenant*, Priority, bool>;  // the last: whether it has started
  using Line = std::map<uint64_t, Sequence*>;             // by place; not empty
  static Key KeyOf(const Sequence& sequence) {
    return {sequence.tenant, sequence.request.priority, sequence.started};
  }
  absl::flat_hash_map<Key, Line> lines_;
  int size_ = 0;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_
