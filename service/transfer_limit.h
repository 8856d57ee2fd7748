// How many snapshots may be in flight between clients and the store at once.
#ifndef REPRISE_SERVICE_TRANSFER_LIMIT_H_
#define REPRISE_SERVICE_TRANSFER_LIMIT_H_

#include <atomic>
#include <utility>

#include "absl/status/statusor.h"
#include "service/errors.h"

namespace reprise::service {

// Thread-safe; must outlive its permits.
class TransferLimit {
 public:
  explicit TransferLimit(int permits) : free_(permits) {}

  // Move-only.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept : limit_(std::exchange(other.limit_, nullptr)) {}
    Permit& operator=(Permit&& other) noexcept {
      std::swap(limit_, other.limit_);
      return *this;
    }
    ~Permit() {
      if (limit_ != nullptr) ++limit_->free_;
    }

   private:
    friend class TransferLimit;
    explicit Permit(TransferLimit* limit) : limit_(limit) {}
    TransferLimit* limit_ = nullptr;
  };

  // QUEUE_FULL when all are taken.
  absl::StatusOr<Permit> Take() {
    if (--free_ >= 0) return Permit(this);
    ++free_;
    return MakeError(v1::ERROR_REASON_QUEUE_FULL, "too many exports and imports are in progress");
  }

 private:
  std::atomic<int> free_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TRANSFER_LIMIT_H_
