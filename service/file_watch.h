// Notices that files have changed.
#ifndef REPRISE_SERVICE_FILE_WATCH_H_
#define REPRISE_SERVICE_FILE_WATCH_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace reprise::service {

// Calls `changed` on a thread of its own when the files that the paths lead to are others, or were
// written to. It looks at all of them from time to time rather than waiting for events: files that
// an orchestrator mounts change by a link far up the path.
class FileWatch {
 public:
  FileWatch(std::vector<std::string> paths, std::function<void()> changed,
            absl::Duration interval = absl::Seconds(1));
  // Waits for a call of `changed` that is under way.
  ~FileWatch();

 private:
  void Run();
  // Device, inode, size and time of change of each.
  std::vector<std::string> Look() const;

  const std::vector<std::string> paths_;
  const std::function<void()> changed_;
  const absl::Duration interval_;
  std::vector<std::string> seen_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: uses the rest
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_FILE_WATCH_H_
