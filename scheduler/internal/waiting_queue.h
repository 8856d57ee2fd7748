// Requests that wait for a slot, in fair turns between tenants.
#ifndef REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_
#define REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_

#include <deque>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "scheduler/internal/sequence.h"

namespace reprise::scheduler {

// First in, first out within a tenant; tenants take turns. Not thread-safe.
class WaitingQueue {
 public:
  void Push(std::unique_ptr<Sequence> sequence) {
    const std::string& tenant = sequence->request.tenant;
    auto entry = by_tenant_.find(tenant);
    if (entry == by_tenant_.end()) {
      turns_.emplace_back(tenant);
      entry = by_tenant_.emplace(tenant, std::prev(turns_.end())).first;
    }
    entry->second->sequences.push_back(std::move(sequence));
    ++size_;
  }

  // The next in turn, or null. Its tenant goes to the end of the turns.
  std::unique_ptr<Sequence> Pop() {
    if (turns_.empty()) return nullptr;
    Turn& turn = turns_.front();
    std::unique_ptr<Sequence> sequence = std::move(turn.sequences.front());
    turn.sequences.pop_front();
    --size_;
    if (turn.sequences.empty()) {
      by_tenant_.erase(turn.tenant);
      turns_.pop_front();
    } else {
      turns_.splice(turns_.end(), turns_, turns_.begin());
    }
    return sequence;
  }

  // Takes out every sequence for which `ends` is true and hands it to `take`.
  template <typename Predicate, typename Take>
  void RemoveIf(Predicate ends, Take take) {
    for (auto turn = turns_.begin(); turn != turns_.end();) {
      std::deque<std::unique_ptr<Sequence>> kept;
      for (std::unique_ptr<Sequence>& sequence : turn->sequences) {
        if (ends(*sequence)) {
          --size_;
          take(std::move(sequence));
        } else {
          kept.push_back(std::move(sequence));
        }
      }
      turn->sequences = std::move(kept);
      if (turn->sequences.empty()) {
        by_tenant_.erase(turn->tenant);
        turn = turns_.erase(turn);
      } else {
        ++turn;
      }
    }
  }

  int size() const { return size_; }

 private:
  struct Turn {
    explicit Turn(std::string tenant) : tenant(std::move(tenant)) {}
    std::string tenant;
    std::deque<std::unique_ptr<Sequence>> sequences;  // never empty between calls
  };
  std::list<Turn> turns_;
  absl::flat_hash_map<std::string, std::list<Turn>::iterator> by_tenant_;
  int size_ = 0;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_
