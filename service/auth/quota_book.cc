#include "service/auth/quota_book.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "google/rpc/error_details.pb.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

// So long what the store said of a tenant counts as true, but for what this server adds to it.
constexpr absl::Duration kUsageAge = absl::Seconds(10);
// So long after a refusal the store is not asked again: a tenant at its limit must not keep it
// busy.
constexpr absl::Duration kRefusalAge = absl::Seconds(1);

std::string DetailUrl(const char* name) {
  return absl::StrCat(absl::string_view(kDetailPrefix.data(), kDetailPrefix.size()), name);
}

// `retry` zero: waiting does not help.
absl::Status Exceeded(const std::string& tenant, absl::string_view limit, double allowed,
                      absl::Duration retry) {
  const std::string what = absl::StrCat(limit, ": ", allowed);
  absl::Status status = MakeError(v1::ERROR_REASON_QUOTA_EXCEEDED,
                                  absl::StrCat("the tenant's quota is used up: ", what),
                                  {{"quota", std::string(limit)}});
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(absl::StrCat("tenant:", tenant));
  violation->set_description(what);
  status.SetPayload(DetailUrl("QuotaFailure"), absl::Cord(failure.SerializeAsString()));
  if (retry > absl::ZeroDuration()) {
    google::rpc::RetryInfo info;
    const timespec delay = absl::ToTimespec(std::max(retry, absl::Milliseconds(1)));
    info.mutable_retry_delay()->set_seconds(delay.tv_sec);
    info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay.tv_nsec));
    status.SetPayload(DetailUrl("RetryInfo"), absl::Cord(info.SerializeAsString()));
  }
  return status;
}

double Burst(const TenantQuota& quota) {
  return quota.request_burst > 0 ? quota.request_burst : std::max(1.0, quota.requests_per_second);
}

}  // namespace

void TokenBucket::Refill(absl::Time now, double per_second, double capacity) {
  if (filled_ == absl::InfinitePast()) {
    level_ = capacity;
  } else {
    // A clock that was set back gives nothing, and takes nothing.
    const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - filled_));
    level_ = std::min(capacity, level_ + seconds * per_second);
  }
  filled_ = now;
  per_second_ = per_second;
}

absl::Duration TokenBucket::UntilAbove(double level) const {
  if (level_ > level) return absl::ZeroDuration();
  return absl::Seconds((level - level_) / per_second_) + absl::Milliseconds(1);
}

QuotaBook::Usage& QuotaBook::UsageOf(const std::string& tenant) {
  if (usage_.size() > remembered_) {
    // Of those that stay, a bucket may not be full; to forget it would be a present.
    const absl::Time now = clock_->Now();
    for (auto it = usage_.begin(); it != usage_.end();) {
      Usage& usage = it->second;
      const TenantQuota quota = QuotaOf(it->first);
      usage.requests.Refill(now, quota.requests_per_second, Burst(quota));
      const auto minute = static_cast<double>(quota.tokens_per_minute);
      usage.tokens.Refill(now, minute / 60, minute);
      const bool idle = usage.calls == 0 && usage.reserved_sessions == 0 &&
                        usage.reserved_bytes == 0 && usage.requests.level() >= Burst(quota) &&
                        usage.tokens.level() >= minute;
      it = idle && it->first != tenant ? usage_.erase(it) : std::next(it);
    }
    remembered_ = std::max(kTenantsRemembered, 2 * usage_.size());
  }
  return usage_[tenant];
}

absl::StatusOr<QuotaBook::Permit> QuotaBook::Admit(const std::string& tenant) {
  const TenantQuota quota = QuotaOf(tenant);
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  Usage& usage = UsageOf(tenant);
  if (quota.concurrent_requests > 0 && usage.calls >= quota.concurrent_requests) {
    return Exceeded(tenant, "concurrent_requests", static_cast<double>(quota.concurrent_requests),
                    absl::Seconds(1));
  }
  if (quota.requests_per_second > 0) {
    usage.requests.Refill(now, quota.requests_per_second, Burst(quota));
    if (usage.requests.level() < 1) {
      return Exceeded(tenant, "requests_per_second", quota.requests_per_second,
                      usage.requests.UntilAbove(1));
    }
    usage.requests.Take(1);
  }
  ++usage.calls;
  return Permit(this, tenant);
}

void QuotaBook::Leave(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  --UsageOf(tenant).calls;
}

absl::Status QuotaBook::SpendPrompt(const std::string& tenant, int64_t tokens) {
  const auto minute = static_cast<double>(QuotaOf(tenant).tokens_per_minute);
  if (minute == 0) return absl::OkStatus();
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  TokenBucket& bucket = UsageOf(tenant).tokens;
  bucket.Refill(now, minute / 60, minute);
  if (bucket.level() <= 0) {
    return Exceeded(tenant, "tokens_per_minute", minute, bucket.UntilAbove(0));
  }
  bucket.Take(static_cast<double>(tokens));
  return absl::OkStatus();
}

void QuotaBook::SpendAnswer(const std::string& tenant, int64_t tokens) {
  const auto minute = static_cast<double>(QuotaOf(tenant).tokens_per_minute);
  if (minute == 0) return;
  const absl::Time now = clock_->Now();
  absl::MutexLock lock(&mutex_);
  TokenBucket& bucket = UsageOf(tenant).tokens;
  bucket.Refill(now, minute / 60, minute);
  bucket.Take(static_cast<double>(tokens));
}

absl::StatusOr<QuotaBook::Reservation> QuotaBook::Reserve(const std::string& tenant,
                                                          int64_t sessions, int64_t bytes) {
  const TenantQuota quota = QuotaOf(tenant);
  Reservation reserved;
  if (quota.sessions == 0 && quota.stored_bytes == 0) return reserved;
  const auto missing = [&](const Usage& usage) -> absl::Status {
    if (quota.sessions > 0 && sessions > 0 &&
        usage.sessions + usage.reserved_sessions > quota.sessions) {
      return Exceeded(tenant, "sessions", static_cast<double>(quota.sessions),
                      absl::ZeroDuration());
    }
    if (quota.stored_bytes > 0 && bytes > 0 &&
        usage.bytes + usage.reserved_bytes > quota.stored_bytes) {
      return Exceeded(tenant, "stored_bytes", static_cast<double>(quota.stored_bytes),
                      absl::ZeroDuration());
    }
    return absl::OkStatus();
  };
  // A refusal gives back at once what it held, and counts nothing.
  const auto check = [&](Usage& usage) -> absl::Status {
    absl::Status status = missing(usage);
    if (status.ok()) return status;
    usage.reserved_sessions -= sessions;
    usage.reserved_bytes -= bytes;
    reserved.book_ = nullptr;
    return status;
  };
  {
    const absl::Time now = clock_->Now();
    absl::MutexLock lock(&mutex_);
    Usage& usage = UsageOf(tenant);
    usage.reserved_sessions += sessions;
    usage.reserved_bytes += bytes;
    reserved.book_ = this;
    reserved.tenant_ = tenant;
    reserved.sessions_ = sessions;
    reserved.bytes_ = bytes;
    const absl::Duration age = missing(usage).ok() ? kUsageAge : kRefusalAge;
    if (usage.known && now - usage.asked < age) {
      RETURN_IF_ERROR(check(usage));
      return reserved;
    }
  }
  ASSIGN_OR_RETURN(const state_store::StoreUsage stored, store_->Usage(tenant));
  absl::MutexLock lock(&mutex_);
  Usage& usage = UsageOf(tenant);
  usage.sessions = static_cast<int64_t>(stored.sessions);
  usage.bytes = static_cast<int64_t>(stored.stored_bytes);
  usage.asked = clock_->Now();
  usage.known = true;
  RETURN_IF_ERROR(check(usage));
  return reserved;
}

void QuotaBook::Release(const std::string& tenant, int64_t sessions, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  Usage& usage = UsageOf(tenant);
  usage.reserved_sessions -= sessions;
  usage.reserved_bytes -= bytes;
  // It may have been used; until the store is asked again it counts as used.
  usage.sessions += sessions;
  usage.bytes += bytes;
}

void QuotaBook::Forget(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  UsageOf(tenant).known = false;
}

}  // namespace reprise::service
