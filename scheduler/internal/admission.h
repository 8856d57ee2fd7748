// The door: which requests may queue, and when the others should come back.
#ifndef REPRISE_SCHEDULER_INTERNAL_ADMISSION_H_
#define REPRISE_SCHEDULER_INTERNAL_ADMISSION_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "scheduler/internal/throughput.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_error.h"
#include "scheduler/scheduler_options.h"

namespace reprise::scheduler {

// Host bytes that a request may come to need: one state image if it brings or leaves a state, its
// prompt, the longest answer, and scores if they were asked for.
int64_t PredictedBytes(const Request& request, int64_t state_bytes);

// Counts queued requests, predicted bytes and prompt rows still to be computed, per tenant and in
// total. Thread-safe.
class Admission {
 public:
  // What one request takes; given back on destruction. Move-only; must not outlive the Admission.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket() { Reset(); }
    void Reset();
    // The request has started, or has ended before it could.
    void LeaveQueue(absl::Time now);
    // Prompt rows went through the model.
    void Fed(int64_t rows);
    double weight() const { return weight_; }  // the tenant's

   private:
    friend class Admission;
    Admission* admission_ = nullptr;
    std::string tenant_;
    double weight_ = 1.0;
    Priority priority_ = Priority::kNormal;
    int64_t bytes_ = 0;
    int64_t backlog_ = 0;
    bool queued_ = false;
  };

  explicit Admission(const SchedulerOptions& options) : options_(options) {}

  // kQueueFull, kTenantQueueFull, kBytesExhausted, kTooLarge, kDeadlineUnreachable, kDraining; then
  // nothing has changed but the count of refusals.
  absl::StatusOr<Ticket> Admit(const Request& request, int64_t bytes, absl::Time now);
  // No more tickets.
  void Close();
  // A step has computed that many prompt rows in `duration`.
  void NoteStep(int prefill_rows, absl::Duration duration, absl::Time now);
  // Refusals since the last call, by SchedulerError.
  std::array<int, kNumSchedulerErrors> TakeRefusals();

  // Sums over all tickets, for integrity checks.
  int queued() const;
  int64_t bytes() const;

 private:
  struct Account {
    int requests = 0;  // tickets
    int queued = 0;
    std::array<int64_t, kNumPriorities> backlog = {};  // prompt rows by priority
    double weight = 1.0;
  };

  absl::Status Check(const Request& request, double weight, int64_t bytes, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `share` of the places that come free are for the caller.
  absl::Duration RetryDelay(double share, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Least time to the request's first token, or zero when too little was measured lately.
  absl::Duration PredictFirstToken(const Request& request, double weight, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The tenant's part of the weights of those that have requests.
  double Share(const std::string& tenant, double weight) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double WeightOf(const std::string& tenant) const;

  const SchedulerOptions options_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Account> accounts_ ABSL_GUARDED_BY(mutex_);
  int queued_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<int64_t, kNumPriorities> backlog_ ABSL_GUARDED_BY(mutex_) = {};
  int prefilling_ ABSL_GUARDED_BY(mutex_) = 0;  // tickets with a backlog
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  PrefillSpeed speed_ ABSL_GUARDED_BY(mutex_);
  EventRate departures_ ABSL_GUARDED_BY(mutex_);  // requests that left the queue
  int refused_since_departure_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<int, kNumSchedulerErrors> refusals_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_ADMISSION_H_
