#include "base/fault_point.h"

#ifdef REPRISE_FAULT_POINTS

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace reprise {
namespace {

class Chosen {
 public:
  static Chosen& Get() {
    static Chosen& chosen = *new Chosen;
    return chosen;
  }
  void Set(const std::string& choice, std::function<void()> action) {
    absl::MutexLock lock(&mutex_);
    action_ = std::move(action);
    const size_t colon = choice.find(':');
    name_ = choice.substr(0, colon);
    left_ = colon == std::string::npos ? 1 : std::atoi(choice.c_str() + colon + 1);
  }
  bool IsDue(const char* name) {
    absl::MutexLock lock(&mutex_);
    return name_ == name && --left_ == 0;
  }
  std::function<void()> action() {
    absl::MutexLock lock(&mutex_);
    return action_;
  }

 private:
  Chosen() {
    if (const char* value = std::getenv("REPRISE_FAULT_POINT"); value != nullptr)
      Set(value, nullptr);
  }

  absl::Mutex mutex_;
  std::string name_ ABSL_GUARDED_BY(mutex_);
  int left_ ABSL_GUARDED_BY(mutex_) = 1;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

void ReachFaultPoint(const char* name) {
  if (!FaultIsDue(name)) return;
  if (const std::function<void()> action = Chosen::Get().action()) return action();
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

bool FaultIsDue(const char* name) { return Chosen::Get().IsDue(name); }

void ChooseFaultPoint(const std::string& choice, std::function<void()> action) {
  Chosen::Get().Set(choice, std::move(action));
}

}  // namespace reprise

#endif  // REPRISE_FAULT_POINTS
