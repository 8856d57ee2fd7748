// Events that observers have not heard of yet, in the order in which they happened.
#ifndef REPRISE_SCHEDULER_INTERNAL_OUTBOX_H_
#define REPRISE_SCHEDULER_INTERNAL_OUTBOX_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/sampling.h"
#include "scheduler/request.h"

namespace reprise::scheduler {

class Outbox {
 public:
  void AddToken(std::shared_ptr<RequestObserver> observer, kernels::SampledToken token) {
    events_.push_back({std::move(observer), std::move(token)});
  }
  // Keeps its own copy of the new tokens.
  void AddCheckpoint(std::shared_ptr<RequestObserver> observer, Checkpoint checkpoint) {
    std::vector<int32_t> tokens(checkpoint.new_tokens.begin(), checkpoint.new_tokens.end());
    events_.push_back({std::move(observer), Kept{std::move(checkpoint), std::move(tokens)}});
  }
  void AddFinish(std::shared_ptr<RequestObserver> observer, RequestResult result) {
    events_.push_back({std::move(observer), std::move(result)});
  }

  // Hands all over. `before_finish` is called before each OnFinish.
  template <typename BeforeFinish>
  void Deliver(const BeforeFinish& before_finish) {
    for (Event& event : events_) {
      // An observer goes after its last event, whatever it owns with it.
      const std::shared_ptr<RequestObserver> observer = std::move(event.observer);
      if (auto* token = std::get_if<kernels::SampledToken>(&event.what); token != nullptr) {
        observer->OnToken(*token);
      } else if (auto* kept = std::get_if<Kept>(&event.what); kept != nullptr) {
        kept->checkpoint.new_tokens = kept->new_tokens;
        observer->OnCheckpoint(std::move(kept->checkpoint));
      } else {
        before_finish();
        observer->OnFinish(std::move(std::get<RequestResult>(event.what)));
      }
    }
    events_.clear();
  }

 private:
  struct Kept {
    Checkpoint checkpoint;
    std::vector<int32_t> new_tokens;
  };
  struct Event {
    std::shared_ptr<RequestObserver> observer;
    std::variant<kernels::SampledToken, Kept, RequestResult> what;
  };

  std::vector<Event> events_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_OUTBOX_H_
