// A tenant's share of slots and prompt rows relative to others': what its file says, or a flag.
#ifndef REPRISE_SERVICE_TENANT_WEIGHTS_H_
#define REPRISE_SERVICE_TENANT_WEIGHTS_H_

#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace reprise::service {

// Thread-safe. Schedulers ask with each request, so that a changed file holds from a tenant's next
// request on.
class TenantWeights {
 public:
  // `flags`: of those named by --tenant-weight; all others have 1.
  explicit TenantWeights(std::map<std::string, double> flags) : flags_(std::move(flags)) {}

  // What the tenants' file says now; 0 where it says nothing. Must be callable as long as Of is.
  using File = std::function<double(const std::string& tenant)>;
  void Follow(File file) {
    absl::MutexLock lock(&mutex_);
    file_ = std::move(file);
  }

  double Of(const std::string& tenant) const {
    {
      absl::ReaderMutexLock lock(&mutex_);
      const double weight = file_ ? file_(tenant) : 0;
      if (weight > 0) return weight;
    }
    const auto named = flags_.find(tenant);
    return named == flags_.end() ? 1.0 : named->second;
  }

 private:
  const std::map<std::string, double> flags_;
  mutable absl::Mutex mutex_;
  File file_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TENANT_WEIGHTS_H_
