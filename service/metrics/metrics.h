// metrics: what the server counts, in the names and units of docs/metrics.md, for Prometheus.
//
//   Metrics metrics(settings.max_tenants);
//   scheduler_options.metrics = metrics.AddModel("m");   // pushed: histograms, tokens
//   store = metrics.Measured(std::move(store), "store"); // every call, its errors
//   metrics.AddSource([&](Scrape& scrape) { ... });      // pulled, when somebody asks
//   metrics.Text()                                       // the exposition format
//
// The only folder that includes prometheus-cpp.
#ifndef REPRISE_SERVICE_METRICS_METRICS_H_
#define REPRISE_SERVICE_METRICS_METRICS_H_

#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/metrics/model_metrics.h"
#include "service/metrics/rpc_metrics.h"
#include "service/metrics/scrape.h"
#include "service/metrics/tenant_labels.h"
#include "state_store/session_store.h"

namespace reprise::service {

// Thread-safe. Outlives all that it hands out.
class Metrics {
 public:
  using Source = std::function<void(Scrape&)>;

  // `max_tenants`: how many tenants have labels of their own; 0: no metric is split by tenant.
  explicit Metrics(int max_tenants = 0);

  // Of the model of that name; the second call gets what the first one got.
  ModelMetrics* AddModel(const std::string& name);
  RpcMetrics& rpc() { return rpc_; }
  // `store`, with its calls counted as those of `tier`: "host" for tiers in memory in front of
  // another store, "store" for the one that lasts.
  std::unique_ptr<state_store::SessionStore> Measured(
      std::unique_ptr<state_store::SessionStore> store, const std::string& tier);
  // A call of Generate that came to the scheduler has ended.
  void CountTenant(const std::string& tenant, bool ok, int64_t prompt_tokens,
                   int64_t generated_tokens);

  // `source` is called by each Text until ForgetSources.
  void AddSource(Source source);
  // When it returns, no source is being called, nor will be.
  void ForgetSources();

  std::string Text() const;

 private:
  prometheus::Registry registry_;
  RpcMetrics rpc_;
  TenantLabels tenants_;
  mutable absl::Mutex mutex_;
  std::vector<std::pair<std::string, std::unique_ptr<ModelMetrics>>> models_
      ABSL_GUARDED_BY(mutex_);
  std::vector<Source> sources_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_METRICS_H_
