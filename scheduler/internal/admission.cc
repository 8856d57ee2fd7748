#include "scheduler/internal/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::scheduler {
namespace {

constexpr absl::Duration kShortestDelay = absl::Milliseconds(100);
constexpr absl::Duration kLongestDelay = absl::Seconds(30);
constexpr absl::Duration kUnmeasuredDelay = absl::Seconds(1);
// A request is refused for its deadline only if even this part of the predicted time is too long.
constexpr double kOptimism = 0.8;
// Callers who want no limit ask for billions of tokens; no answer is expected to be longer than
// this.
constexpr int64_t kLongestAnswer = int64_t{1} << 20;

}  // namespace

int64_t PredictedBytes(const Request& request, int64_t state_bytes) {
  const bool has_image =
      request.state.has_value() || request.state_source != nullptr || request.export_state;
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t earlier =
      static_cast<int64_t>(request.earlier_prompt.size() + request.earlier_answer.size());
  constexpr int64_t kToken = sizeof(int32_t);
  constexpr int64_t kScore = sizeof(kernels::SampledToken);
  // Prompt and answer are kept twice: as tokens to feed, and as the request's and the result's.
  int64_t bytes = (has_image ? state_bytes : 0) + kToken * (2 * prompt + earlier) +
                  2 * kToken * std::min<int64_t>(request.max_tokens, kLongestAnswer);
  if (request.prompt_logprobs) {
    bytes += prompt *
             (kScore + request.top_logprobs * static_cast<int64_t>(sizeof(kernels::TokenLogprob)));
  }
  return bytes;
}

Admission::Ticket& Admission::Ticket::operator=(Ticket&& other) noexcept {
  if (this != &other) {
    Reset();
    admission_ = std::exchange(other.admission_, nullptr);
    tenant_ = std::move(other.tenant_);
    weight_ = other.weight_;
    priority_ = other.priority_;
    bytes_ = other.bytes_;
    backlog_ = other.backlog_;
    queued_ = other.queued_;
  }
  return *this;
}

void Admission::Ticket::Reset() {
  if (admission_ == nullptr) return;
  {
    absl::MutexLock lock(&admission_->mutex_);
    const int priority = static_cast<int>(priority_);
    auto entry = admission_->accounts_.find(tenant_);
    Account& account = entry->second;
    admission_->bytes_ -= bytes_;
    admission_->backlog_[priority] -= backlog_;
    account.backlog[priority] -= backlog_;
    admission_->prefilling_ -= backlog_ > 0;
    if (queued_) {
      --admission_->queued_;
      --account.queued;
    }
    if (--account.requests == 0) admission_->accounts_.erase(entry);
  }
  admission_ = nullptr;
}

void Admission::Ticket::LeaveQueue(absl::Time now) {
  if (!queued_) return;
  queued_ = false;
  absl::MutexLock lock(&admission_->mutex_);
  --admission_->queued_;
  --admission_->accounts_.find(tenant_)->second.queued;
  admission_->departures_.Note(now);
  admission_->refused_since_departure_ = 0;
}

void Admission::Ticket::Fed(int64_t rows) {
  rows = std::min(rows, backlog_);
  if (rows <= 0) return;
  backlog_ -= rows;
  absl::MutexLock lock(&admission_->mutex_);
  admission_->backlog_[static_cast<int>(priority_)] -= rows;
  admission_->accounts_.find(tenant_)->second.backlog[static_cast<int>(priority_)] -= rows;
  admission_->prefilling_ -= backlog_ == 0;
}

absl::StatusOr<Admission::Ticket> Admission::Admit(const Request& request, int64_t bytes,
                                                   absl::Time now) {
  const double weight = WeightOf(request.tenant);
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = Check(request, weight, bytes, now); !status.ok()) {
    ++refusals_[static_cast<int>(GetSchedulerError(status))];
    if (absl::IsResourceExhausted(status)) ++refused_since_departure_;
    return status;
  }
  Ticket ticket;
  ticket.admission_ = this;
  ticket.tenant_ = request.tenant;
  ticket.weight_ = weight;
  ticket.priority_ = request.priority;
  ticket.bytes_ = bytes;
  ticket.backlog_ = static_cast<int64_t>(request.prompt.size());
  ticket.queued_ = true;
  const int priority = static_cast<int>(request.priority);
  Account& account = accounts_[request.tenant];
  account.weight = weight;
  ++account.requests;
  ++account.queued;
  account.backlog[priority] += ticket.backlog_;
  ++queued_;
  bytes_ += bytes;
  backlog_[priority] += ticket.backlog_;
  prefilling_ += ticket.backlog_ > 0;
  return ticket;
}

absl::Status Admission::Check(const Request& request, double weight, int64_t bytes,
                              absl::Time now) const {
  if (closed_) {
    return MakeSchedulerError(SchedulerError::kDraining, "the server is draining");
  }
  if (bytes > options_.max_request_bytes) {
    return MakeSchedulerError(SchedulerError::kTooLarge,
                              absl::StrCat("the request may need ", bytes, " bytes, more than the ",
                                           options_.max_request_bytes, " for all requests"));
  }
  if (queued_ >= options_.max_queued) {
    return MakeSchedulerError(SchedulerError::kQueueFull,
                              absl::StrCat("queue full: ", queued_, " requests wait"),
                              RetryDelay(1.0, now));
  }
  const auto account = accounts_.find(request.tenant);
  if (account != accounts_.end() && account->second.queued >= options_.max_queued_per_tenant) {
    return MakeSchedulerError(
        SchedulerError::kTenantQueueFull,
        absl::StrCat("queue full: ", account->second.queued, " requests of this tenant wait"),
        RetryDelay(Share(request.tenant, weight), now));
  }
  if (bytes_ + bytes > options_.max_request_bytes) {
    return MakeSchedulerError(SchedulerError::kBytesExhausted,
                              absl::StrCat("memory: the request may need ", bytes, " bytes, ",
                                           options_.max_request_bytes - bytes_, " are free"),
                              RetryDelay(1.0, now));
  }
  if (request.deadline == absl::InfiniteFuture()) return absl::OkStatus();
  const absl::Duration needed = PredictFirstToken(request, weight, now);
  if (request.deadline <= now || now + needed * kOptimism > request.deadline) {
    return MakeSchedulerError(
        SchedulerError::kDeadlineUnreachable,
        absl::StrCat("the deadline is in ", absl::FormatDuration(request.deadline - now),
                     ", the first token would take about ", absl::FormatDuration(needed)));
  }
  return absl::OkStatus();
}

absl::Duration Admission::RetryDelay(double share, absl::Time now) const {
  // Places come free one by one: whoever is refused as the k-th since the last one may expect the
  // k-th that comes, so that not all return at once.
  const int ahead = refused_since_departure_ + 1;
  const double rate = departures_.PerSecond(now) * share;
  const absl::Duration delay = rate > 1e-3 ? absl::Seconds(ahead / rate) : kUnmeasuredDelay * ahead;
  return std::clamp(delay, kShortestDelay, kLongestDelay);
}

absl::Duration Admission::PredictFirstToken(const Request& request, double weight,
                                            absl::Time now) const {
  const double rate = speed_.RowsPerSecond(now);
  if (rate == 0.0) return absl::ZeroDuration();
  const double own = static_cast<double>(request.prompt.size());
  double ahead = 0, ahead_of_tenant = 0;
  const auto account = accounts_.find(request.tenant);
  for (int priority = static_cast<int>(request.priority); priority < kNumPriorities; ++priority) {
    ahead += static_cast<double>(backlog_[priority]);
    if (account != accounts_.end()) {
      ahead_of_tenant += static_cast<double>(account->second.backlog[priority]);
    }
  }
  // Three ways to see it, each right in its case: after all that wait; after the tenant's own, at
  // the tenant's share of the speed; in turns with each prompt that is not through. The least of
  // them, since a refusal must be sure.
  const double rows =
      std::min({own + ahead, (own + ahead_of_tenant) / Share(request.tenant, weight),
                own * (1 + prefilling_)});
  return absl::Seconds(rows / rate);
}

double Admission::Share(const std::string& tenant, double weight) const {
  double others = 0;
  for (const auto& [name, account] : accounts_) {
    if (name != tenant) others += account.weight;
  }
  return weight / (weight + others);
}

double Admission::WeightOf(const std::string& tenant) const {
  if (!options_.tenant_weight) return 1.0;
  const double weight = options_.tenant_weight(tenant);
  return weight >= 0.001 ? std::min(weight, 1000.0) : 0.001;  // NaN too
}

void Admission::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

void Admission::NoteStep(int prefill_rows, absl::Duration duration, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  speed_.Note(prefill_rows, options_.step_tokens, duration, now);
}

std::array<int, kNumSchedulerErrors> Admission::TakeRefusals() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(refusals_, {});
}

int Admission::queued() const {
  absl::MutexLock lock(&mutex_);
  return queued_;
}

int64_t Admission::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace reprise::scheduler
