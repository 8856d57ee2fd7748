// A spill in host memory, answered at once or when the test says so.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_TESTING_MEMORY_SPILL_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_TESTING_MEMORY_SPILL_H_

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/prefix_cache/prefix_spill.h"

namespace reprise::scheduler {

// Thread-safe.
class MemorySpill final : public PrefixSpill {
 public:
  void Put(SpillPath path, StateImage image) override;
  void Get(SpillPath path, std::function<void(absl::StatusOr<StateImage>)> done) override;
  void Erase(SpillPath path) override;

  // While held, Get waits for Release.
  void Hold();
  void Release();
  // Loses everything, as a store may.
  void Lose();
  // Every image becomes this long.
  void Truncate(size_t bytes);
  size_t size() const;
  int waiting() const;

 private:
  using MapKey = std::pair<std::string, Sha256Digest>;
  absl::StatusOr<StateImage> FindImage(const SpillPath& path) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<MapKey, StateImage> images_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::pair<SpillPath, std::function<void(absl::StatusOr<StateImage>)>>> waiting_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_TESTING_MEMORY_SPILL_H_
