// A histogram for a loop that observes much: no lock and no shared memory until Flush.
#ifndef REPRISE_SERVICE_METRICS_BATCHED_HISTOGRAM_H_
#define REPRISE_SERVICE_METRICS_BATCHED_HISTOGRAM_H_

#include <prometheus/histogram.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace reprise::service {

// Not thread-safe: one thread observes and flushes; others see what was flushed.
class BatchedHistogram {
 public:
  // `target` has these `edges`, and outlives this object.
  BatchedHistogram(prometheus::Histogram& target, std::vector<double> edges)
      : target_(target), edges_(std::move(edges)), pending_(edges_.size() + 1) {}

  void Observe(double value) {
    const auto edge = std::lower_bound(edges_.begin(), edges_.end(), value);
    ++pending_[static_cast<size_t>(edge - edges_.begin())];
    sum_ += value;
    any_ = true;
  }

  void Flush() {
    if (!any_) return;
    target_.ObserveMultiple(pending_, sum_);
    std::fill(pending_.begin(), pending_.end(), 0);
    sum_ = 0;
    any_ = false;
  }

 private:
  prometheus::Histogram& target_;
  const std::vector<double> edges_;
  std::vector<double> pending_;  // per bucket, the last above all edges
  double sum_ = 0;
  bool any_ = false;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_BATCHED_HISTOGRAM_H_
