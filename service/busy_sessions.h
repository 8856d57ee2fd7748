// Which sessions have a turn running in this process.
#ifndef REPRISE_SERVICE_BUSY_SESSIONS_H_
#define REPRISE_SERVICE_BUSY_SESSIONS_H_

#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace reprise::service {

// Refuses a second turn before anything is computed. Only a courtesy: across processes, and for
// correctness anywhere, the compare-and-set on the session's version decides. Thread-safe; must
// outlive its guards.
class BusySessions {
 public:
  using Key = std::pair<std::string, std::string>;  // tenant, session id

  // Keeps the session marked until it goes. Move-only.
  class Guard {
   public:
    Guard() = default;
    Guard(Guard&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), key_(std::move(other.key_)) {}
    Guard& operator=(Guard&& other) noexcept {
      std::swap(owner_, other.owner_);
      std::swap(key_, other.key_);
      return *this;
    }
    ~Guard() {
      if (owner_ != nullptr) owner_->Release(key_);
    }

   private:
    friend class BusySessions;
    Guard(BusySessions* owner, Key key) : owner_(owner), key_(std::move(key)) {}
    BusySessions* owner_ = nullptr;
    Key key_;
  };

  // SESSION_BUSY when the session is marked already.
  absl::StatusOr<Guard> Mark(const std::string& tenant, const std::string& session_id);

 private:
  void Release(const Key& key) {
    absl::MutexLock lock(&mutex_);
    busy_.erase(key);
  }

  absl::Mutex mutex_;
  std::set<Key> busy_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_BUSY_SESSIONS_H_
