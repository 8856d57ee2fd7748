// Requests that wait for a slot, in fair turns between tenants.
#ifndef REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_
#define REPRISE_SCHEDULER_INTERNAL_WAITING_QUEUE_H_

#include <algorithm>
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

  // The next in turn that is not loading, or null. Its tenant goes to the end of the turns.
  std::unique_ptr<Sequence> Pop() {
    for (auto turn = turns_.begin(); turn != turns_.end(); ++turn) {
      const auto next = std::find_if(turn->sequences.begin(), turn->sequences.end(),
                                     [](const auto& sequence) { return !sequence->loading; });
      if (next == turn->sequences.end()) continue;
      std::unique_ptr<Sequence> sequence = std::move(*next);
      turn->sequences.erase(next);
      --size_;
      if (turn->sequences.empty()) {
        by_tenant_.erase(turn->tenant);
        turns_.erase(turn);
      } else {
        turns_.splice(turns_.end(), turns_, turn);
      }
      return sequence;
    }
    return nullptr;
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

  template <typename Visit>
  void ForEach(Visit visit) {
    for (Turn& turn : turns_) {
      for (std::unique_ptr<Sequence>& sequence : turn.sequences) visit(*sequence);
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
