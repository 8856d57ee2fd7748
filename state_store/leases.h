// Leases: which process works on a session that several share. Stores that are open in one process
// only have none.
#ifndef REPRISE_STATE_STORE_LEASES_H_
#define REPRISE_STATE_STORE_LEASES_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace reprise::state_store {

// The right to commit to a session, until it runs out by the server's clock.
struct Lease {
  std::string owner;
  std::string token;  // grows with each acquisition; decimal
  absl::Time until;   // by the server's clock: for logs, not for decisions
};

// Leases keep two replicas from working on one session in vain; what keeps them from both moving
// it is the version. While a lease runs, its holder alone commits, and nobody rewinds: others get
// ABORTED (kSessionLeased, with RetryAfter). A holder whose lease has run out or passed on gets
// ABORTED (kLeaseLost). Thread-safe; calls block.
class LeaseTable {
 public:
  virtual ~LeaseTable() = default;

  // The owner's own lease, if it has one, is replaced: its token is worth nothing then.
  virtual absl::StatusOr<Lease> AcquireLease(std::string_view tenant, std::string_view session_id,
                                             std::string_view owner, absl::Duration length) = 0;
  // Only while it runs: one that has run out is lost even if nobody else took it.
  virtual absl::StatusOr<Lease> RenewLease(std::string_view tenant, std::string_view session_id,
                                           const Lease& lease, absl::Duration length) = 0;
  virtual absl::Status ReleaseLease(std::string_view tenant, std::string_view session_id,
                                    const Lease& lease) = 0;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_LEASES_H_
