#include "service/checkpointer.h"

#include <memory>
#include <utility>

namespace reprise::service {

Checkpointer::Checkpointer(WorkerPool* io, std::function<void(SessionTurn::Standing)> store,
                           std::function<void()> caught_up)
    : io_(io), store_(std::move(store)), caught_up_(std::move(caught_up)) {}

void Checkpointer::Offer(SessionTurn::Standing standing, std::shared_ptr<void> owner) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    if (storing_) {
      waiting_ = std::move(standing);
      return;
    }
    storing_ = true;
  }
  Run(std::move(standing), std::move(owner));
}

bool Checkpointer::behind() const {
  absl::MutexLock lock(&mutex_);
  return storing_ && waiting_.has_value();
}

void Checkpointer::Run(SessionTurn::Standing standing, std::shared_ptr<void> owner) {
  auto shared = std::make_shared<SessionTurn::Standing>(std::move(standing));
  io_->Run([this, shared, owner = std::move(owner)] {
    store_(std::move(*shared));
    std::optional<SessionTurn::Standing> next;
    std::function<void()> then;
    {
      absl::MutexLock lock(&mutex_);
      next.swap(waiting_);
      storing_ = next.has_value();
      if (!storing_) then = std::move(then_);
    }
    if (next.has_value()) Run(*std::move(next), owner);
    caught_up_();
    if (then) then();
  });
}

void Checkpointer::Close(std::function<void()> then) {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    waiting_.reset();
    if (storing_) {
      then_ = std::move(then);
      return;
    }
  }
  io_->Run(std::move(then));
}

}  // namespace reprise::service
