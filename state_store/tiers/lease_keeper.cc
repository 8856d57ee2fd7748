#include "state_store/tiers/lease_keeper.h"

#include <unistd.h>

#include <algorithm>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

// An answer that took longer than any call may: this process stood still meanwhile.
constexpr absl::Duration kLongestCall = absl::Seconds(16);

bool IsAnswer(const absl::Status& status) {
  const StoreError error = GetStoreError(status);
  return status.ok() || error == StoreError::kLeaseLost || error == StoreError::kSessionLeased ||
         error == StoreError::kSessionNotFound;
}

}  // namespace

struct LeaseRef::Held {
  std::string tenant, session_id;
  // Held while the server is asked about this lease; before the keeper's mu_.
  absl::Mutex io;
  // The keeper's mu_ guards the rest.
  Lease lease;
  std::chrono::steady_clock::time_point until, next_renewal;
  int shares = 0;
  bool unreachable = false;  // no answer since its last renewal
  bool lost = false;
};

std::string MakeLeaseOwner() {
  char host[128] = "";
  gethostname(host, sizeof(host) - 1);
  return Cat(host, ":", getpid(), ":", MakeFreshId().substr(0, 8));
}

LeaseRef::LeaseRef(LeaseRef&& other) noexcept
    : keeper_(std::exchange(other.keeper_, nullptr)), held_(std::move(other.held_)) {
  other.held_ = nullptr;
}

LeaseRef& LeaseRef::operator=(LeaseRef&& other) noexcept {
  std::swap(keeper_, other.keeper_);
  std::swap(held_, other.held_);
  return *this;
}

LeaseRef::~LeaseRef() {
  if (held_ != nullptr) keeper_->Drop(std::move(held_), /*later=*/true);
}

void LeaseRef::Release() {
  if (held_ == nullptr) return;
  if (const auto last = keeper_->Drop(std::exchange(held_, nullptr), /*later=*/false);
      last != nullptr) {
    // A failure costs others the rest of the lease's length.
    keeper_->GiveBack(*last).IgnoreError();
  }
}

LeaseRef LeaseRef::Share() const {
  if (held_ == nullptr) return {};
  absl::MutexLock lock(&keeper_->mu_);
  ++held_->shares;
  return LeaseRef(keeper_, held_);
}

std::string LeaseRef::token() const {
  if (held_ == nullptr) return "";
  absl::MutexLock lock(&keeper_->mu_);
  return held_->lease.token;
}

bool LeaseRef::Runs() const {
  if (held_ == nullptr) return false;
  absl::MutexLock lock(&keeper_->mu_);
  return keeper_->Runs(*held_);
}

bool LeaseRef::Lapsed() const {
  if (held_ == nullptr) return false;
  absl::MutexLock lock(&keeper_->mu_);
  return !keeper_->Runs(*held_) && keeper_->Unreachable(*held_) && !held_->lost;
}

absl::Status LeaseRef::Recover() {
  if (held_ == nullptr) return MakeStoreError(StoreError::kLeaseLost, "there is no lease");
  absl::MutexLock lock(&held_->io);
  return keeper_->Recover(*held_);
}

LeaseKeeper::LeaseKeeper(LeaseTable* table, std::string owner, absl::Duration length)
    : table_(table), owner_(std::move(owner)), length_(length), thread_([this] { Loop(); }) {}

LeaseKeeper::~LeaseKeeper() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

bool LeaseKeeper::Runs(const Held& held) const { return !held.lost && Steady::now() < held.until; }

bool LeaseKeeper::Unreachable(const Held& held) const {
  // While one renewal hangs, the others do not even get their turn.
  const bool hangs = asking_since_.has_value() &&
                     Steady::now() - *asking_since_ <= absl::ToChronoNanoseconds(kLongestCall);
  return held.unreachable || hangs;
}

void LeaseKeeper::MarkLost(Held& held) {
  if (!held.lost) ++stats_.lost;
  held.lost = true;
  const auto entry = held_.find(Key(held.tenant, held.session_id));
  if (entry != held_.end() && entry->second.get() == &held) held_.erase(entry);
}

absl::StatusOr<LeaseRef> LeaseKeeper::Acquire(const std::string& tenant,
                                              const std::string& session_id) {
  LeaseRef ref = Find(tenant, session_id);
  if (ref.Runs()) return ref;
  if (ref.Lapsed()) {
    RETURN_IF_ERROR(ref.Recover());
    return ref;
  }
  const auto asked = Steady::now();
  ASSIGN_OR_RETURN(Lease lease, table_->AcquireLease(tenant, session_id, owner_, length_));
  auto held = std::make_shared<Held>();
  held->tenant = tenant;
  held->session_id = session_id;
  held->lease = std::move(lease);
  held->until = asked + absl::ToChronoNanoseconds(length_);
  held->next_renewal = asked + absl::ToChronoNanoseconds(length_ / 3);
  held->shares = 1;
  absl::MutexLock lock(&mu_);
  ++stats_.acquired;
  // What was here before is another turn's, and lost: this acquisition has outdated its token.
  if (const auto old = held_.find(Key(tenant, session_id)); old != held_.end()) {
    MarkLost(*std::shared_ptr<Held>(old->second));
  }
  held_[Key(tenant, session_id)] = held;
  return LeaseRef(this, std::move(held));
}

LeaseRef LeaseKeeper::Find(const std::string& tenant, const std::string& session_id) {
  absl::MutexLock lock(&mu_);
  const Key key(tenant, session_id);
  auto entry = held_.find(key);
  if (entry == held_.end()) {
    // What waits to be given back is still ours, and would stand in our own way.
    const auto waits = std::find_if(
        to_give_back_.begin(), to_give_back_.end(), [&](const std::shared_ptr<Held>& held) {
          return Key(held->tenant, held->session_id) == key && Runs(*held);
        });
    if (waits == to_give_back_.end()) return {};
    entry = held_.emplace(key, std::move(*waits)).first;
    to_give_back_.erase(waits);
  }
  ++entry->second->shares;
  return LeaseRef(this, entry->second);
}

void LeaseKeeper::WaitUntilBack(const std::string& tenant, const std::string& session_id,
                                absl::Duration patience) {
  const Key key(tenant, session_id);
  absl::MutexLock lock(&mu_);
  const auto back = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !going_.contains(key) &&
           std::none_of(to_give_back_.begin(), to_give_back_.end(), [&](const auto& held) {
             return Key(held->tenant, held->session_id) == key;
           });
  };
  mu_.AwaitWithTimeout(absl::Condition(&back), patience);
}

std::shared_ptr<LeaseKeeper::Held> LeaseKeeper::Drop(std::shared_ptr<Held> held, bool later) {
  absl::MutexLock lock(&mu_);
  if (--held->shares > 0) return nullptr;
  const Key key(held->tenant, held->session_id);
  const auto entry = held_.find(key);
  if (entry != held_.end() && entry->second == held) held_.erase(entry);
  if (held->lost) return nullptr;
  if (later) {
    to_give_back_.push_back(std::move(held));
    return nullptr;
  }
  going_.insert(key);
  return held;
}

absl::Status LeaseKeeper::GiveBack(const Held& held) {
  const absl::Status status = table_->ReleaseLease(held.tenant, held.session_id, held.lease);
  absl::MutexLock lock(&mu_);
  going_.erase(going_.find(Key(held.tenant, held.session_id)));
  return status;
}

absl::Status LeaseKeeper::Recover(Held& held) {
  {
    absl::MutexLock lock(&mu_);
    if (Runs(held)) return absl::OkStatus();
    if (held.lost || !Unreachable(held)) {
      MarkLost(held);
      return MakeStoreError(StoreError::kLeaseLost,
                            Cat("the lease on session ", held.session_id, " has run out"));
    }
  }
  const auto asked = Steady::now();
  absl::StatusOr<Lease> lease = table_->AcquireLease(held.tenant, held.session_id, owner_, length_);
  absl::MutexLock lock(&mu_);
  if (!lease.ok()) {
    if (GetStoreError(lease.status()) == StoreError::kSessionNotFound) MarkLost(held);
    return lease.status();
  }
  held.lease = *std::move(lease);
  held.until = asked + absl::ToChronoNanoseconds(length_);
  held.next_renewal = asked + absl::ToChronoNanoseconds(length_ / 3);
  held.unreachable = false;
  ++stats_.recovered;
  return absl::OkStatus();
}

void LeaseKeeper::Renew(const std::shared_ptr<Held>& held) {
  absl::MutexLock io(&held->io);
  Lease lease;
  {
    absl::MutexLock lock(&mu_);
    if (held->lost || held->shares == 0) return;
    lease = held->lease;
    asking_since_ = Steady::now();
  }
  const auto asked = Steady::now();
  const absl::StatusOr<Lease> renewed =
      table_->RenewLease(held->tenant, held->session_id, lease, length_);
  absl::MutexLock lock(&mu_);
  asking_since_.reset();
  const auto now = Steady::now();
  held->next_renewal = now + absl::ToChronoNanoseconds(length_ / 3);
  if (renewed.ok()) {
    held->until = asked + absl::ToChronoNanoseconds(length_);
    held->unreachable = false;
    return;
  }
  const bool stood_still = now - asked > absl::ToChronoNanoseconds(kLongestCall);
  if (!IsAnswer(renewed.status())) {
    // Who could not be asked about one could not be asked about any.
    for (const auto& [key, other] : held_) other->unreachable = !stood_still;
    // Soon again: what comes back should find its lease running.
    held->next_renewal = now + absl::ToChronoNanoseconds(length_ / 10);
    return;
  }
  // After an outage it may be taken anew, when somebody wants to commit.
  if (held->unreachable && GetStoreError(renewed.status()) == StoreError::kLeaseLost) return;
  MarkLost(*held);
}

void LeaseKeeper::Loop() {
  const absl::Duration tick = std::min(length_ / 10, absl::Milliseconds(500));
  for (;;) {
    std::vector<std::shared_ptr<Held>> due;
    size_t give_back = 0;
    {
      absl::MutexLock lock(&mu_);
      auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stop_ || !to_give_back_.empty();
      };
      mu_.AwaitWithTimeout(absl::Condition(&wanted), tick);
      give_back = to_give_back_.size();
      const auto now = Steady::now();
      for (const auto& [key, held] : held_) {
        if (held->next_renewal <= now) due.push_back(held);
      }
      if (stop_) due.clear();
      if (stop_ && give_back == 0) return;
    }
    for (; give_back > 0; --give_back) {
      std::shared_ptr<Held> held;
      {
        absl::MutexLock lock(&mu_);
        if (to_give_back_.empty()) break;  // wanted again
        held = std::move(to_give_back_.front());
        to_give_back_.pop_front();
        going_.emplace(held->tenant, held->session_id);
      }
      const absl::Status given = GiveBack(*held);
      absl::MutexLock lock(&mu_);
      if (stop_ && !IsAnswer(given)) return;
    }
    for (const auto& held : due) Renew(held);
  }
}

LeaseStats LeaseKeeper::stats() const {
  absl::MutexLock lock(&mu_);
  LeaseStats stats = stats_;
  stats.held = held_.size();
  return stats;
}

}  // namespace reprise::state_store
