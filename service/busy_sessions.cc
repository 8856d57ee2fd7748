#include "service/busy_sessions.h"

#include "service/errors.h"
#include "service/resource_names.h"

namespace reprise::service {

absl::StatusOr<BusySessions::Guard> BusySessions::Mark(const std::string& tenant,
                                                       const std::string& session_id) {
  Key key(tenant, session_id);
  absl::MutexLock lock(&mutex_);
  if (!busy_.insert(key).second) {
    return WithResource(MakeError(v1::ERROR_REASON_SESSION_BUSY,
                                  "another turn of the session is running on this server"),
                        "session", MakeSessionName(session_id));
  }
  return Guard(this, std::move(key));
}

}  // namespace reprise::service
