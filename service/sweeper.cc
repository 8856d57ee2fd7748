#include "service/sweeper.h"

#include "service/logging.h"

namespace reprise::service {

Sweeper::Sweeper(Environment* environment, absl::Duration interval)
    : environment_(environment), thread_([this, interval] { Loop(interval); }) {}

Sweeper::~Sweeper() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void Sweeper::Loop(absl::Duration interval) {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), interval)) return;
    }
    const auto removed = environment_->store->SweepExpired(environment_->clock->Now());
    if (!removed.ok()) {
      environment_->log->error("sweep failed: {}", ForLog(removed.status().ToString()));
    } else if (*removed > 0) {
      environment_->log->info("sweep removed {} expired sessions", *removed);
    }
  }
}

}  // namespace reprise::service
