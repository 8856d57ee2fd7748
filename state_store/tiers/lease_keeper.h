// The leases that this process holds, kept alive while anybody needs them.
#ifndef REPRISE_STATE_STORE_TIERS_LEASE_KEEPER_H_
#define REPRISE_STATE_STORE_TIERS_LEASE_KEEPER_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "state_store/leases.h"

namespace reprise::state_store {

struct LeaseStats {
  uint64_t held = 0;                               // now
  uint64_t acquired = 0, lost = 0, recovered = 0;  // recovered: taken anew after an outage
};

class LeaseKeeper;

// A share in a lease; the last one to go gives the lease back. Move-only; must not outlive the
// keeper.
class LeaseRef {
 public:
  LeaseRef() = default;
  LeaseRef(LeaseRef&& other) noexcept;
  LeaseRef& operator=(LeaseRef&& other) noexcept;
  // Gives it back later, on the keeper's thread.
  ~LeaseRef();

  explicit operator bool() const { return held_ != nullptr; }
  LeaseRef Share() const;
  // Gives it back before it returns; blocks.
  void Release();
  std::string token() const;
  // Whether it runs, as far as this process can know: by its own steady clock since the last answer
  // of the server was asked for. The server has the last word.
  bool Runs() const;
  // It ran out while the server could not be reached, and not because this process stood still:
  // Recover may get it back.
  bool Lapsed() const;
  // Takes a lapsed lease anew. kSessionLeased or kLeaseLost when somebody else came.
  absl::Status Recover();

 private:
  friend class LeaseKeeper;
  struct Held;
  LeaseRef(LeaseKeeper* keeper, std::shared_ptr<Held> held)
      : keeper_(keeper), held_(std::move(held)) {}

  LeaseKeeper* keeper_ = nullptr;
  std::shared_ptr<Held> held_;
};

// Renews three times per length. A lease that the server refuses to renew is lost: who holds it
// hears of it from the server at the next commit, if not before from Runs(). Thread-safe.
class LeaseKeeper {
 public:
  // `table` is borrowed; `length` as AcquireLease wants it.
  LeaseKeeper(LeaseTable* table, std::string owner, absl::Duration length);
  // Gives back what nobody holds any more, if the server answers; the rest runs out by itself.
  ~LeaseKeeper();

  // A share in the lease that runs here already, or in a new one. kSessionLeased while another
  // owner has it. Calls for one session must not run at once.
  absl::StatusOr<LeaseRef> Acquire(const std::string& tenant, const std::string& session_id);
  // A share in the one that is held, running or not; empty if none is.
  LeaseRef Find(const std::string& tenant, const std::string& session_id);
  // Until none that nobody holds any more is on its way back, or that takes too long: what comes
  // without a lease would be refused because of it.
  void WaitUntilBack(const std::string& tenant, const std::string& session_id,
                     absl::Duration patience);

  LeaseStats stats() const;

 private:
  friend class LeaseRef;
  using Steady = std::chrono::steady_clock;
  using Key = std::pair<std::string, std::string>;
  using Held = LeaseRef::Held;

  void Loop();
  void Renew(const std::shared_ptr<Held>& held);
  absl::Status Recover(Held& held);
  // Drops one share. If it was the last the lease goes: `later`, or it is returned, for GiveBack.
  std::shared_ptr<Held> Drop(std::shared_ptr<Held> held, bool later);
  // Of what is in going_.
  absl::Status GiveBack(const Held& held);
  bool Runs(const Held& held) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Unreachable(const Held& held) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MarkLost(Held& held) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  LeaseTable* const table_;
  const std::string owner_;
  const absl::Duration length_;
  mutable absl::Mutex mu_;
  std::map<Key, std::shared_ptr<Held>> held_ ABSL_GUARDED_BY(mu_);
  std::deque<std::shared_ptr<Held>> to_give_back_ ABSL_GUARDED_BY(mu_);
  std::multiset<Key> going_ ABSL_GUARDED_BY(mu_);  // are being given back
  // Of the renewal that has no answer yet.
  std::optional<Steady::time_point> asking_since_ ABSL_GUARDED_BY(mu_);
  LeaseStats stats_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: joined before the rest goes
};

// The part of the name of this process that tells it from all others: host, process id, random.
std::string MakeLeaseOwner();

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TIERS_LEASE_KEEPER_H_
