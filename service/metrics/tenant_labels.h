// Names of tenants as label values: a bounded number of them.
#ifndef REPRISE_SERVICE_METRICS_TENANT_LABELS_H_
#define REPRISE_SERVICE_METRICS_TENANT_LABELS_H_

#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace reprise::service {

// The first `max_tenants` names stand for themselves as long as the process lives, later ones for
// "other". Thread-safe.
class TenantLabels {
 public:
  explicit TenantLabels(int max_tenants) : max_tenants_(static_cast<size_t>(max_tenants)) {}

  // Whether there are labels of tenants at all.
  bool enabled() const { return max_tenants_ > 0; }

  std::string LabelOf(const std::string& tenant) {
    absl::MutexLock lock(&mutex_);
    if (names_.count(tenant) > 0) return tenant;
    if (names_.size() >= max_tenants_) return "other";
    names_.insert(tenant);
    return tenant;
  }

 private:
  const size_t max_tenants_;
  absl::Mutex mutex_;
  std::set<std::string> names_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_TENANT_LABELS_H_
