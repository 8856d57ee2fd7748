// Threads for work that blocks: store calls, encoding long prompts. gRPC's threads and the
// scheduler's never wait for a disk.
#ifndef REPRISE_SERVICE_WORKER_POOL_H_
#define REPRISE_SERVICE_WORKER_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace reprise::service {

// Admitted work first, then new work in order of arrival. Thread-safe. A task must not wait for
// another task.
class WorkerPool {
 public:
  // `threads` >= 1; `max_queued`: tasks that TryRun lets wait.
  WorkerPool(int threads, int max_queued);
  // Runs what is queued, then ends.
  ~WorkerPool();

  // For new work: false when too many tasks wait; then nothing is kept.
  bool TryRun(std::function<void()> task);
  // For work that was admitted already and must happen, such as a commit.
  void Run(std::function<void()> task);

 private:
  void Loop();

  const size_t max_queued_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> urgent_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;  // last: joined before the rest goes
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_WORKER_POOL_H_
