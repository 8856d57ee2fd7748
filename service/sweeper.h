// Removes expired sessions and prefixes from time to time, and, more rarely, what crashes left in
// the store.
#ifndef REPRISE_SERVICE_SWEEPER_H_
#define REPRISE_SERVICE_SWEEPER_H_

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/environment.h"

namespace reprise::service {

class Sweeper {
 public:
  // Starts its thread; destruction ends it after the sweep in progress.
  Sweeper(Environment* environment, absl::Duration interval);
  ~Sweeper();

 private:
  void Loop(absl::Duration interval);

  Environment* const environment_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: joined before the rest goes
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SWEEPER_H_
