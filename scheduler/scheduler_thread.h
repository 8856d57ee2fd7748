// A thread that steps a scheduler while it has work.
#ifndef REPRISE_SCHEDULER_SCHEDULER_THREAD_H_
#define REPRISE_SCHEDULER_SCHEDULER_THREAD_H_

#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {

// Starts the thread on construction; Stop (or destruction) ends it after the current step. Submit,
// Cancel, Wake and Drain go through this class so that a sleeping thread hears of them.
// Thread-safe.
class SchedulerThread {
 public:
  explicit SchedulerThread(std::unique_ptr<Scheduler> scheduler);
  ~SchedulerThread();

  absl::StatusOr<RequestId> Submit(Request&& request);
  void Cancel(RequestId id);
  void Wake();
  void Drain(absl::Time deadline);
  // Blocks until every request has ended or `deadline` is reached; true if idle.
  bool WaitIdle(absl::Time deadline);
  void Stop();

  SchedulerStats stats() const { return scheduler_->stats(); }
  const SchedulerOptions& options() const { return scheduler_->options(); }

 private:
  void Loop();
  void Notify();

  std::unique_ptr<Scheduler> scheduler_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool notified_ ABSL_GUARDED_BY(mutex_) = false;
  bool idle_ ABSL_GUARDED_BY(mutex_) = true;
  std::thread thread_;  // last: joined before the rest goes
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SCHEDULER_THREAD_H_
