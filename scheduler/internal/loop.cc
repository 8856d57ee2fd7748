#include "scheduler/internal/loop.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/internal/request_check.h"

namespace reprise::scheduler {
namespace {

// Clients of parked sequences that are asked in one step whether they read again.
constexpr size_t kPausedPolls = 256;
// One of so many parts of the slots' time is for overdue sequences. Not all of it: a long queue of
// a low priority is overdue as a whole, and must not shut out the higher ones.
constexpr int kOverdueShare = 4;

// The request's sequence, then those of its forks.
std::vector<std::unique_ptr<Sequence>> MakeSequences(RequestId id, Request&& request,
                                                     std::vector<Admission::Ticket> tickets,
                                                     absl::Time now) {
  std::vector<std::unique_ptr<Sequence>> sequences(tickets.size());
  if (tickets.size() > 1) {
    const std::vector<Fork> forks = std::exchange(request.forks, {});
    // Only the first has a state to begin with.
    std::optional<SequenceState> state = std::exchange(request.state, std::nullopt);
    std::shared_ptr<StateFuture> source = std::exchange(request.state_source, nullptr);
    for (size_t i = 1; i < tickets.size(); ++i) {
      Request fork = request;
      fork.sampling = forks[i - 1].sampling;
      fork.observer = forks[i - 1].observer;
      fork.export_state = request.export_state && forks[i - 1].export_state;
      sequences[i] = std::make_unique<Sequence>(id + i, std::move(fork), std::move(tickets[i]), now,
                                                /*is_fork=*/true);
    }
    request.state = std::move(state);
    request.state_source = std::move(source);
  }
  sequences[0] = std::make_unique<Sequence>(id, std::move(request), std::move(tickets[0]), now);
  for (size_t i = 1; i < sequences.size(); ++i) sequences[0]->forks.push_back(id + i);
  return sequences;
}

}  // namespace

Loop::Loop(models::HybridModel* model, std::unique_ptr<models::StateSlots> slots,
           std::unique_ptr<StepRunner> runner, kernels::DeviceHealth* health, const Clock* clock,
           const SchedulerOptions& options)
    : options_(options),
      model_(model),
      health_(health),
      clock_(clock),
      model_name_(absl::StrCat(model->info().weights_fingerprint, "/",
                               model->state_layout().Digest(), "/",
                               model->state_layout().numerics_id())),
      cache_(options_.prefix_cache.get()),
      admission_(options),
      slots_(std::move(slots)),
      mover_(slots_.get(), options.max_parked_bytes, clock, options.metrics),
      runner_(std::move(runner)),
      delivers_late_(options.delivery == Delivery::kBesideNextStep ||
                     (options.delivery == Delivery::kAuto && runner_->runs_beside_host())),
      planner_(options) {}

Loop::~Loop() {
  SetWake(nullptr);
  mover_.SettleAll();
  cache_ = nullptr;  // nothing is kept any more
  now_ = clock_->Now();
  Intake();
  for (Sequence* sequence : Live()) {
    Finish(*sequence, absl::CancelledError("shutting down"), FinishReason::kMaxTokens);
  }
  DropEnded();
  TellObservers();
}

absl::StatusOr<RequestId> Loop::Submit(Request&& request) {
  RETURN_IF_ERROR(CheckRequest(request, *model_));
  if (device_failed()) {
    absl::MutexLock lock(&mutex_);
    ++stats_.rejected;
    return DeviceFailed();
  }
  const absl::Time now = clock_->Now();
  const int64_t bytes =
      PredictedBytes(request, static_cast<int64_t>(model_->state_layout().bytes()));
  std::vector<Admission::Ticket> tickets;
  for (size_t i = 0; i <= request.forks.size(); ++i) {
    absl::StatusOr<Admission::Ticket> ticket = admission_.Admit(request, bytes, now);
    if (!ticket.ok()) {
      absl::MutexLock lock(&mutex_);
      ++stats_.rejected;
      return ticket.status();
    }
    if (i > 0) ticket->Fed(static_cast<int64_t>(request.prompt.size()));  // computed once
    tickets.push_back(*std::move(ticket));
  }
  const std::shared_ptr<StateFuture> source = request.state_source;
  const RequestId id = next_id_.fetch_add(tickets.size());
  std::vector<std::unique_ptr<Sequence>> sequences =
      MakeSequences(id, std::move(request), std::move(tickets), now);
  {
    absl::MutexLock lock(&mutex_);
    live_ += static_cast<int64_t>(sequences.size());
    std::move(sequences.begin(), sequences.end(), std::back_inserter(inbox_));
  }
  if (source != nullptr) {
    source->NotifyWhenReady([id, arrivals = arrivals_] { arrivals->Add(id); });
  }
  return id;
}

void Loop::SetWake(std::function<void()> wake) {
  absl::MutexLock lock(&arrivals_->mutex);
  arrivals_->wake = std::move(wake);
}

void Loop::Cancel(RequestId id) {
  absl::MutexLock lock(&mutex_);
  cancels_.push_back(id);
}

void Loop::Drain(absl::Time deadline) {
  admission_.Close();
  absl::MutexLock lock(&mutex_);
  drain_asked_ = true;
  drain_asked_until_ = std::min(drain_asked_until_, deadline);
}

bool Loop::Idle() const {
  absl::MutexLock lock(&mutex_);
  return live_ == 0;
}

SchedulerStats Loop::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

bool Loop::Step() {
  ++step_;
  now_ = clock_->Now();
  const absl::Time begin = now_;
  restores_ = parks_ = checkpoints_ = 0;
  Intake();
  if (device_failed()) {
    EndAllWithDevice();
    Publish({});
    return false;
  }
  EndDue();
  DropEnded();
  PollClients();
  AssignSlots();
  DropEnded();
  const absl::Span<const PlannedRows> plan = PlanRows();
  SchedulerMetrics::Step report;
  if (!plan.empty()) RunRows(plan, &report);
  // Else a later step does it, while its rows run.
  if (plan.empty()) {
    mover_.SettleAll();
    TellObservers();
  }
  DropEnded();
  if (!delivers_late_ || running_.empty()) mover_.SettleAll();  // no later step would hide it
  if (!plan.empty()) report.total = clock_->Now() - begin;
  counts_.busy += report.total;
  Publish(report);
  return !plan.empty();
}

// Moves what callers left into the loop's own structures.
void Loop::Intake() {
  // Before the inbox: whoever has a state here is then either known or at its end.
  {
    absl::MutexLock lock(&arrivals_->mutex);
    delivered_.swap(arrivals_->ids);
  }
  {
    absl::MutexLock lock(&mutex_);
    arriving_.swap(inbox_);
    cancelling_.swap(cancels_);
    draining_ = drain_asked_;
    drain_deadline_ = drain_asked_until_;
  }
  for (std::unique_ptr<Sequence>& arriving : arriving_) {
    Sequence& sequence = *arriving;
    sequence.hears_late = delivers_late_ && !sequence.request.observer->MayStop();
    sequence.tenant = tenants_.Enter(sequence.request.tenant, sequence.ticket.weight());
    sequence.place = next_place_++;
    if (sequence.request.deadline < absl::InfiniteFuture()) {
      deadlines_.emplace(sequence.request.deadline, sequence.id);
    }
    ++not_started_;
    sequences_.emplace(sequence.id, std::move(arriving));
    if (sequence.phase == Phase::kQueued) BeginWaiting(sequence);
  }
  arriving_.clear();
  for (RequestId id : delivered_) Deliver(id);
  delivered_.clear();
}

void Loop::Deliver(RequestId id) {
  const auto entry = sequences_.find(id);
  if (entry == sequences_.end() || entry->second->phase != Phase::kLoading) return;
  Sequence& sequence = *entry->second;
  sequence.timeline.load = now_ - sequence.submitted;
  if (sequence.fetching) {  // it is in the prefix cache now, or nowhere
    sequence.phase = Phase::kQueued;
    BeginWaiting(sequence);
    return;
  }
  absl::StatusOr<SequenceState> state =
      std::exchange(sequence.request.state_source, nullptr)->Take();
  const absl::Status status =
      state.ok() ? CheckStart(sequence.request, &*state, *model_) : state.status();
  if (!status.ok()) {
    Finish(sequence, status, FinishReason::kMaxTokens);
    return;
  }
  sequence.Deliver(*std::move(state));
  BeginWaiting(sequence);
}

void Loop::BeginWaiting(Sequence& sequence) {
  if (FetchPrefix(sequence)) return;
  queue_.Push(&sequence);
  // Feed-only, and one token: it is the pending one, and needs no slot.
  if (sequence.rows_left() == 0) Finish(sequence, absl::OkStatus(), FinishReason::kMaxTokens);
}

void Loop::PollClients() {
  for (Sequence* sequence : running_) {
    if (!sequence->decoding() || sequence->request.observer->Writable()) {
      sequence->paused_since = absl::InfiniteFuture();
    } else {
      sequence->paused_since = std::min(sequence->paused_since, now_);
    }
  }
  for (size_t polls = std::min(paused_.size(), kPausedPolls); polls > 0; --polls) {
    if (next_paused_ >= paused_.size()) next_paused_ = 0;
    Sequence* sequence = paused_[next_paused_];
    if (!sequence->request.observer->Writable()) {
      ++next_paused_;
      continue;
    }
    paused_[next_paused_] = paused_.back();
    paused_.pop_back();
    sequence->phase = Phase::kQueued;
    sequence->paused_since = absl::InfiniteFuture();
    sequence->waiting_since = now_;
    sequence->place = next_place_++;
    queue_.Push(sequence);
  }
}

void Loop::AssignSlots() {
  while (true) {
    const WaitingQueue::Choice next = queue_.Best(
        now_, now_ >= next_overdue_turn_ ? options_.max_wait : absl::InfiniteDuration());
    if (next.sequence == nullptr) break;
    if (mover_.free_slots() == 0) {
      Sequence* leaver = ChooseLeaver(next);
      if (leaver == nullptr || !Park(*leaver, *next.sequence)) break;
    }
    EnterSlot(*next.sequence, next.overdue);
  }
  // Only now, so that none comes back in the step in which it left.
  for (Sequence* sequence : parked_now_) {
    if (sequence->phase == Phase::kPaused) {
      paused_.push_back(sequence);
    } else {
      queue_.Push(sequence);
    }
  }
  parked_now_.clear();
}

Sequence* Loop::ChooseLeaver(const WaitingQueue::Choice& next) {
  holders_.clear();
  for (const Sequence* sequence : running_) {
    holders_.push_back({sequence->request.priority, sequence->tenant->slot_share(),
                        sequence->tenant == next.sequence->tenant, sequence->slot_since,
                        sequence->protected_until, sequence->paused_since,
                        sequence->phase == Phase::kRunning && sequence->last_moved_step != step_,
                        sequence->served_in_slot});
  }
  const Tenant& tenant = *next.sequence->tenant;
  const SlotContender contender{next.sequence->request.priority, (tenant.slots + 1) / tenant.weight,
                                next.overdue, next.sequence->started};
  const int index = ChooseVictim(holders_, contender, now_, options_);
  return index < 0 ? nullptr : running_[index];
}

// False when there is no room for its state. Otherwise its slot is free, even if the export failed
// and the sequence with it.
bool Loop::Park(Sequence& sequence, const Sequence& next) {
  if (!mover_.MayPark(sequence, next)) return false;
  const absl::Time begin = clock_->Now();
  if (absl::Status status = mover_.Park(sequence); !status.ok()) {
    FinishUnsound(sequence, Prefixed(status, "parking"));
    return true;
  }
  sequence.timeline.snapshot += clock_->Now() - begin;
  ++sequence.timeline.parks;
  ++counts_.parks;
  ++parks_;
  --sequence.tenant->slots;
  sequence.parked_since = sequence.waiting_since = now_;
  sequence.place = next_place_++;
  sequence.last_moved_step = step_;
  sequence.phase = sequence.paused_since < absl::InfiniteFuture() ? Phase::kPaused : Phase::kQueued;
  running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  parked_now_.push_back(&sequence);
  return true;
}

void Loop::EnterSlot(Sequence& sequence, bool overdue, const Sequence* leader) {
  FindPrefix(sequence);
  const absl::Time begin = clock_->Now();
  const bool imports = sequence.position() > 0;
  const absl::Status entered =
      leader != nullptr && imports ? mover_.EnterCopy(sequence, *leader) : mover_.Enter(sequence);
  if (!entered.ok()) {
    FinishUnsound(sequence, entered);
    return;
  }
  const absl::Duration restore = imports ? clock_->Now() - begin : absl::ZeroDuration();
  sequence.timeline.restore += restore;
  restores_ += imports;
  queue_.Remove(&sequence);
  if (sequence.started) {
    sequence.timeline.parked += now_ - sequence.parked_since;
  } else {
    sequence.started = true;
    sequence.admitted = now_;
    sequence.first_restore = restore;
    sequence.ticket.LeaveQueue(now_);
    --not_started_;
  }
  sequence.phase = Phase::kRunning;
  sequence.slot_since = now_;
  sequence.protected_until = absl::InfinitePast();
  if (overdue) {
    // Else a higher priority would take the slot back before it had run at all.
    sequence.protected_until = now_ + options_.time_slice;
    next_overdue_turn_ = now_ + kOverdueShare * options_.time_slice / options_.num_slots;
  }
  sequence.last_moved_step = sequence.last_served_step = step_;
  sequence.served_in_slot = false;
  ++sequence.tenant->slots;
  running_.push_back(&sequence);
  ReleaseForks(sequence);
}

void Loop::TellObservers() {
  outbox_.Deliver([this] {
    absl::MutexLock lock(&mutex_);
    --live_;
  });
}

void Loop::Publish(const SchedulerMetrics::Step& report) {
  SchedulerStats stats = counts_;
  stats.running = static_cast<int>(running_.size());
  stats.waiting = not_started_;
  stats.parked = static_cast<int>(sequences_.size()) - stats.running - stats.waiting;
  stats.paused = static_cast<int>(paused_.size());
  for (const Sequence* sequence : running_) {
    stats.paused += sequence->paused_since < absl::InfiniteFuture();
  }
  stats.free_slots = mover_.free_slots();
  stats.parked_bytes = mover_.parked_bytes();
  {
    absl::MutexLock lock(&mutex_);
    stats.rejected = stats_.rejected;  // counted by Submit
    stats_ = stats;
  }
  if (options_.metrics == nullptr || report.decode_rows + report.prefill_rows == 0) return;
  SchedulerMetrics::Step step = report;
  step.running = stats.running;
  step.waiting = stats.waiting;
  step.parked = stats.parked;
  step.paused = stats.paused;
  step.free_slots = stats.free_slots;
  step.parked_bytes = stats.parked_bytes;
  step.parks = parks_;
  step.restores = restores_;
  step.checkpoints = checkpoints_;
  step.refused = admission_.TakeRefusals();
  options_.metrics->OnStep(step);
}

absl::Status Loop::CheckIntegrity() const {
  RETURN_IF_ERROR(slots_->CheckIntegrity());
  const int running = static_cast<int>(running_.size());
  if (slots_->free_slots() + running != slots_->num_slots()) {
    return absl::InternalError(absl::StrCat("slots: ", slots_->free_slots(), " free and ", running,
                                            " running of ", slots_->num_slots()));
  }
  std::vector<bool> held(slots_->num_slots());
  for (const Sequence* sequence : running_) {
    if (!sequence->slot.valid() || held[sequence->slot.slot()]) {
      return absl::InternalError("slots: a running sequence has none, or another's");
    }
    held[sequence->slot.slot()] = true;
  }
  int with_slot = 0, queued = 0, paused = 0, not_started = 0, waiting_forks = 0, listed_forks = 0;
  int64_t parked_bytes = 0;
  absl::flat_hash_map<const Tenant*, int> tenant_slots;
  for (const auto& [id, sequence] : sequences_) {
    with_slot += sequence->phase == Phase::kRunning;
    queued += sequence->phase == Phase::kQueued;
    paused += sequence->phase == Phase::kPaused;
    not_started += !sequence->started;
    waiting_forks += sequence->waits_for_leader();
    for (RequestId fork : sequence->forks) {
      const auto entry = sequences_.find(fork);
      listed_forks += entry != sequences_.end() && entry->second->waits_for_leader();
    }
    tenant_slots[sequence->tenant] += sequence->phase == Phase::kRunning;
    if (sequence->started) parked_bytes += mover_.image_bytes(*sequence);
  }
  if (with_slot != running || queued != queue_.size() ||
      paused != static_cast<int>(paused_.size()) || not_started != not_started_) {
    return absl::InternalError(
        absl::StrCat("sequences: ", with_slot, " with a slot, ", queued, " queued, ", paused,
                     " paused, ", not_started, " not started; counted were ", running, ", ",
                     queue_.size(), ", ", paused_.size(), ", ", not_started_));
  }
  if (waiting_forks != listed_forks) {
    return absl::InternalError(absl::StrCat("forks: ", waiting_forks, " wait for another, ",
                                            listed_forks, " are waited for"));
  }
  for (const auto& [tenant, slots] : tenant_slots) {
    if (tenant->slots != slots) return absl::InternalError("slots: a tenant's count is wrong");
  }
  if (parked_bytes != mover_.parked_bytes()) {
    return absl::InternalError(
        absl::StrCat("parked states: ", parked_bytes, " bytes, counted ", mover_.parked_bytes()));
  }
  absl::MutexLock lock(&mutex_);
  if (inbox_.empty() && admission_.queued() != not_started_) {
    return absl::InternalError("admission: its queue is not the loop's");
  }
  if (live_ == 0 && admission_.bytes() != 0) {
    return absl::InternalError("admission: bytes are left although nothing is");
  }
  return absl::OkStatus();
}

}  // namespace reprise::scheduler
