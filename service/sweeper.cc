#include "service/sweeper.h"

#include "service/log_fields.h"
#include "service/logging.h"

namespace reprise::service {
namespace {

// A walk over all keys of the store; nothing that it removes is younger than an hour.
constexpr absl::Duration kCollectionInterval = absl::Minutes(30);

}  // namespace

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
  absl::Time next_collection = environment_->clock->Now() + kCollectionInterval;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), interval)) return;
    }
    if (environment_->collect_garbage && environment_->clock->Now() >= next_collection) {
      const absl::Status collected = environment_->collect_garbage();
      if (!collected.ok()) {
        environment_->log->error("garbage collection failed: {}", ForLog(collected));
      }
      next_collection = environment_->clock->Now() + kCollectionInterval;
    }
    for (const auto& model : environment_->models->models()) {
      const auto& cache = model->scheduler->options().prefix_cache;
      if (cache != nullptr) cache->Sweep();
    }
    const auto removed = environment_->store->SweepExpired(environment_->clock->Now());
    if (!removed.ok()) {
      environment_->log->error("sweep failed: {}", ForLog(removed.status()));
    } else if (*removed > 0) {
      environment_->log->info("sweep removed {} expired sessions", *removed);
    }
  }
}

}  // namespace reprise::service
