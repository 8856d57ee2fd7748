// The scheduler's loop: what happens in a step, and in which order.
//
//   loop.cc         a step; what callers leave for it and what it publishes; who gets a slot
//   loop_rows.cc    plans rows, runs them, hands out tokens and checkpoints
//   loop_reuse.cc   prefixes that need not be computed: the prefix cache, forks
//   loop_ending.cc  cancels, deadlines, drain, the end of a request
#ifndef REPRISE_SCHEDULER_INTERNAL_LOOP_H_
#define REPRISE_SCHEDULER_INTERNAL_LOOP_H_

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "kernels/device_health.h"
#include "models/hybrid_model.h"
#include "scheduler/internal/admission.h"
#include "scheduler/internal/outbox.h"
#include "scheduler/internal/sequence.h"
#include "scheduler/internal/slot_policy.h"
#include "scheduler/internal/state_mover.h"
#include "scheduler/internal/step_planner.h"
#include "scheduler/internal/step_runner.h"
#include "scheduler/internal/tenants.h"
#include "scheduler/internal/waiting_queue.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {

// Behind Scheduler, which says what its public functions do.
class Loop {
 public:
  Loop(models::HybridModel* model, std::unique_ptr<models::StateSlots> slots,
       std::unique_ptr<StepRunner> runner, kernels::DeviceHealth* health, const Clock* clock,
       const SchedulerOptions& options);
  ~Loop();

  absl::StatusOr<RequestId> Submit(Request&& request);
  void SetWake(std::function<void()> wake);
  void Cancel(RequestId id);
  void Drain(absl::Time deadline);
  bool Step();
  bool Idle() const;
  SchedulerStats stats() const;
  const SchedulerOptions& options() const { return options_; }
  absl::Status CheckIntegrity() const;

 private:
  using Phase = Sequence::Phase;

  // Requests whose states have arrived since the last step. Shared with the hooks in the
  // StateFutures, which may outlive the loop.
  struct Arrivals {
    absl::Mutex mutex;
    std::vector<RequestId> ids ABSL_GUARDED_BY(mutex);
    std::function<void()> wake ABSL_GUARDED_BY(mutex);

    void Add(RequestId id) {
      absl::MutexLock lock(&mutex);
      ids.push_back(id);
      if (wake) wake();
    }
  };

  // loop.cc
  void Intake();
  void Deliver(RequestId id);
  void BeginWaiting(Sequence& sequence);
  void PollClients();
  void AssignSlots();
  Sequence* ChooseLeaver(const WaitingQueue::Choice& next);
  bool Park(Sequence& sequence, const Sequence& next);
  // With `leader` its state is copied from there, where it is at the same position.
  void EnterSlot(Sequence& sequence, bool overdue, const Sequence* leader = nullptr);
  // What waits to be told.
  void TellObservers();
  void Publish(const SchedulerMetrics::Step& step);

  // loop_rows.cc
  absl::Span<const PlannedRows> PlanRows();
  void RunRows(absl::Span<const PlannedRows> plan, SchedulerMetrics::Step* step);
  void BuildBatch(absl::Span<const PlannedRows> plan);
  // Takes the sequence's results from *next_result on.
  void AfterRows(Sequence& sequence, int rows, int rows_end, size_t* next_result);
  void AcceptToken(Sequence& sequence, const absl::StatusOr<kernels::SampledToken>& token);
  void NoteTokenTime(Sequence& sequence);
  void TakeCheckpoint(Sequence& sequence);

  // loop_reuse.cc
  bool UsesCache(const Sequence& sequence) const;
  PrefixScope ScopeOf(const Sequence& sequence) const;
  static int64_t MostReused(const Sequence& sequence);
  bool FetchPrefix(Sequence& sequence);
  void FindPrefix(Sequence& sequence);
  void KeepPrefix(Sequence& sequence);
  void KeepLastPrefix(Sequence& sequence, const RequestResult& result);
  void GivePrefix(Sequence& sequence, StateImage image);
  void DropPrefixes(const Sequence& sequence);
  absl::StatusOr<StateImage> ShareState(const Sequence& sequence);
  void BeginAsFork(Sequence& fork, const Sequence& leader);
  void ReleaseForks(Sequence& leader);
  void PassOnForks(Sequence& leader, const absl::Status& status);

  // loop_ending.cc
  bool device_failed() const { return health_ != nullptr && health_->failed(); }
  static absl::Status DeviceFailed();
  void EndAllWithDevice();
  void EndDue();
  void EndForDrain(Sequence& sequence, bool grace_over);
  // All that have not ended, in the order of their ids.
  std::vector<Sequence*> Live();
  void FinishUnsound(Sequence& sequence, const absl::Status& status);
  void Finish(Sequence& sequence, absl::Status status, FinishReason reason);
  void KeepState(Sequence& sequence, RequestResult* result);
  // Out of whatever it is in; slot and image are given back.
  void Detach(Sequence& sequence);
  void CompleteTimeline(Sequence& sequence) const;
  // Drops sequences that have ended. Not while anybody iterates over running_ or sequences_.
  void DropEnded();

  const SchedulerOptions options_;
  models::HybridModel* const model_;
  kernels::DeviceHealth* const health_;  // null: nobody watches it
  const Clock* const clock_;
  const std::string model_name_;  // to the prefix cache
  PrefixCache* cache_;            // null: none
  Admission admission_;           // before the sequences, which hold tickets

  // Owned by the stepping thread.
  std::unique_ptr<models::StateSlots> slots_;
  StateMover mover_;
  const std::unique_ptr<StepRunner> runner_;
  const bool delivers_late_;
  StepPlanner planner_;
  TenantTable tenants_;
  absl::flat_hash_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  absl::btree_set<std::pair<absl::Time, RequestId>> deadlines_;
  WaitingQueue queue_;
  std::vector<Sequence*> running_;  // with those that ended in this step
  std::vector<Sequence*> paused_;   // parked, client does not read; with those that ended
  size_t next_paused_ = 0;          // to be polled
  std::vector<RequestId> ended_;
  Outbox outbox_;  // of sequences that hear late
  int not_started_ = 0;
  absl::Time next_overdue_turn_ = absl::InfinitePast();
  uint64_t next_place_ = 1;
  int64_t step_ = 0;
  absl::Time now_;  // of this step; moves on after the model has run
  absl::Time drain_deadline_ = absl::InfiniteFuture();
  bool draining_ = false;
  SchedulerStats counts_;                           // counters only
  int restores_ = 0, parks_ = 0, checkpoints_ = 0;  // in this step
  // Buffers of a step.
  std::vector<std::unique_ptr<Sequence>> arriving_;
  std::vector<RequestId> cancelling_, delivered_;
  std::vector<std::pair<RequestId, absl::Status>> failed_checkpoints_;  // of the last step
  std::vector<SlotHolder> holders_;
  std::vector<PlannerInput> planner_input_;
  std::vector<PlannerTenant> planner_tenants_;
  std::vector<Tenant*> planned_tenants_;
  std::vector<Sequence*> parked_now_;
  models::RaggedBatch batch_;
  std::vector<RowRequest> row_requests_;
  std::vector<absl::StatusOr<kernels::SampledToken>> row_results_;

  const std::shared_ptr<Arrivals> arrivals_ = std::make_shared<Arrivals>();
  std::atomic<RequestId> next_id_ = 1;
  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Sequence>> inbox_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestId> cancels_ ABSL_GUARDED_BY(mutex_);
  int64_t live_ ABSL_GUARDED_BY(mutex_) = 0;
  bool drain_asked_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time drain_asked_until_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  SchedulerStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_LOOP_H_
