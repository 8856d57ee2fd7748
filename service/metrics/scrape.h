// Families of metrics that are put together when somebody asks, from counts that exist anyway.
#ifndef REPRISE_SERVICE_METRICS_SCRAPE_H_
#define REPRISE_SERVICE_METRICS_SCRAPE_H_

#include <prometheus/metric_family.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace reprise::service {

using LabelList = std::vector<prometheus::ClientMetric::Label>;

// Not thread-safe.
class Scrape {
 public:
  // `help` counts where a name comes for the first time. A counter's name ends with "_total".
  void Counter(const std::string& name, const char* help, LabelList labels, double value) {
    prometheus::ClientMetric& metric =
        Add(name, help, prometheus::MetricType::Counter, std::move(labels));
    metric.counter.value = value;
  }
  void Gauge(const std::string& name, const char* help, LabelList labels, double value) {
    prometheus::ClientMetric& metric =
        Add(name, help, prometheus::MetricType::Gauge, std::move(labels));
    metric.gauge.value = value;
  }

  // Sorted by name.
  std::vector<prometheus::MetricFamily> Take() {
    std::vector<prometheus::MetricFamily> taken;
    for (auto& [name, family] : families_) taken.push_back(std::move(family));
    families_.clear();
    return taken;
  }

 private:
  prometheus::ClientMetric& Add(const std::string& name, const char* help,
                                prometheus::MetricType type, LabelList labels) {
    prometheus::MetricFamily& family = families_[name];
    if (family.metric.empty()) {
      family.name = name;
      family.help = help;
      family.type = type;
    }
    family.metric.emplace_back().label = std::move(labels);
    return family.metric.back();
  }

  std::map<std::string, prometheus::MetricFamily> families_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_SCRAPE_H_
