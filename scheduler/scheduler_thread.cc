#include "scheduler/scheduler_thread.h"

#include <utility>

namespace reprise::scheduler {
namespace {

// Deadlines and the drain's end must be noticed although no event announces them.
constexpr absl::Duration kPollWhenBlocked = absl::Milliseconds(20);

}  // namespace

SchedulerThread::SchedulerThread(std::unique_ptr<Scheduler> scheduler)
    : scheduler_(std::move(scheduler)), thread_([this] { Loop(); }) {
  scheduler_->SetWake([this] { Notify(); });
}

SchedulerThread::~SchedulerThread() {
  Stop();
  scheduler_->SetWake(nullptr);
}

void SchedulerThread::Loop() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      notified_ = false;
    }
    if (scheduler_->Step()) continue;
    const bool idle = scheduler_->Idle();
    absl::MutexLock lock(&mutex_);
    idle_ = idle && !notified_;
    const auto woken = [this]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || notified_; };
    if (idle_) {
      mutex_.Await(absl::Condition(&woken));
    } else {
      mutex_.AwaitWithTimeout(absl::Condition(&woken), kPollWhenBlocked);
    }
  }
}

void SchedulerThread::Notify() {
  absl::MutexLock lock(&mutex_);
  notified_ = true;
  idle_ = false;
}

absl::StatusOr<RequestId> SchedulerThread::Submit(Request&& request) {
  absl::StatusOr<RequestId> id = scheduler_->Submit(std::move(request));
  if (id.ok()) Notify();
  return id;
}

void SchedulerThread::Cancel(RequestId id) {
  scheduler_->Cancel(id);
  Notify();
}

void SchedulerThread::Wake() { Notify(); }

void SchedulerThread::Drain(absl::Time deadline) {
  scheduler_->Drain(deadline);
  Notify();
}

bool SchedulerThread::WaitIdle(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(&idle_), deadline);
}

void SchedulerThread::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace reprise::scheduler
