// What tenants use, against what they may: TenantQuota has the limits.
#ifndef REPRISE_SERVICE_AUTH_QUOTA_BOOK_H_
#define REPRISE_SERVICE_AUTH_QUOTA_BOOK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "service/auth/tenants_file.h"
#include "state_store/session_store.h"

namespace reprise::service {

// Fills at `per_second` up to `capacity`. Taking may leave it below zero, which later fillings pay.
class TokenBucket {
 public:
  // To be called before the others with what holds now; a new one is full.
  void Refill(absl::Time now, double per_second, double capacity);
  double level() const { return level_; }
  void Take(double amount) { level_ -= amount; }
  // From the last Refill until the level is above `level`.
  absl::Duration UntilAbove(double level) const;

 private:
  double level_ = 0, per_second_ = 0;
  absl::Time filled_ = absl::InfinitePast();
};

// All refusals are RESOURCE_EXHAUSTED (QUOTA_EXCEEDED) with QuotaFailure, and RetryInfo where
// waiting helps. Limits are those of the moment of the call: a changed file holds at once, for what
// has been admitted as for what comes. Thread-safe; must outlive its permits and reservations.
class QuotaBook {
 public:
  // `tenants` gives the limits that hold now; `store` is asked what a tenant has in it. Borrowed.
  QuotaBook(const Clock* clock, std::function<std::shared_ptr<const TenantsFile>()> tenants,
            state_store::SessionStore* store)
      : clock_(clock), tenants_(std::move(tenants)), store_(store) {}

  // A call in progress. Move-only.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept
        : book_(std::exchange(other.book_, nullptr)), tenant_(std::move(other.tenant_)) {}
    Permit& operator=(Permit&& other) noexcept {
      std::swap(book_, other.book_);
      std::swap(tenant_, other.tenant_);
      return *this;
    }
    ~Permit() {
      if (book_ != nullptr) book_->Leave(tenant_);
    }

   private:
    friend class QuotaBook;
    Permit(QuotaBook* book, std::string tenant) : book_(book), tenant_(std::move(tenant)) {}
    QuotaBook* book_ = nullptr;
    std::string tenant_;
  };
  // Counts one request: requests_per_second and concurrent_requests.
  absl::StatusOr<Permit> Admit(const std::string& tenant);

  // Counts the tokens of a prompt. Refused while the tenant has used up what the last minutes gave
  // it; admitted otherwise, whatever their number.
  absl::Status SpendPrompt(const std::string& tenant, int64_t tokens);
  // Counts tokens of an answer, which are not refused: the next prompt is.
  void SpendAnswer(const std::string& tenant, int64_t tokens);

  // Room in the store, kept until it goes. Move-only.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept {
      std::swap(book_, other.book_);
      std::swap(tenant_, other.tenant_);
      std::swap(sessions_, other.sessions_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Reservation() {
      if (book_ != nullptr) book_->Release(tenant_, sessions_, bytes_);
    }

   private:
    friend class QuotaBook;
    QuotaBook* book_ = nullptr;
    std::string tenant_;
    int64_t sessions_ = 0, bytes_ = 0;
  };
  // Before `sessions` sessions and at most `bytes` bytes of states are added to the store. Asks the
  // store from time to time, and before it refuses; blocks. Servers that share a store do not see
  // each other's reservations, only what is stored; and while several calls take the last places,
  // one may be refused that would have fitted.
  absl::StatusOr<Reservation> Reserve(const std::string& tenant, int64_t sessions, int64_t bytes);
  // After something was deleted: what the store said before is not true any more.
  void Forget(const std::string& tenant);

 private:
  struct Usage {
    TokenBucket requests, tokens;
    int64_t calls = 0;
    int64_t reserved_sessions = 0, reserved_bytes = 0;
    // What the store said, and what has been added since.
    int64_t sessions = 0, bytes = 0;
    absl::Time asked = absl::InfinitePast();
    bool known = false;
  };

  void Leave(const std::string& tenant);
  void Release(const std::string& tenant, int64_t sessions, int64_t bytes);
  // Forgets tenants that use nothing, when there are many.
  Usage& UsageOf(const std::string& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TenantQuota QuotaOf(const std::string& tenant) const { return tenants_()->QuotaOf(tenant); }

  const Clock* const clock_;
  const std::function<std::shared_ptr<const TenantsFile>()> tenants_;
  state_store::SessionStore* const store_;
  static constexpr size_t kTenantsRemembered = 4096;
  absl::Mutex mutex_;
  size_t remembered_ ABSL_GUARDED_BY(mutex_) = kTenantsRemembered;
  std::map<std::string, Usage> usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_QUOTA_BOOK_H_
