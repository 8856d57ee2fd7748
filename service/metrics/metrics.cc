#include "service/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <iterator>
#include <sstream>
#include <utility>

#include "service/metrics/measured_store.h"

namespace reprise::service {

Metrics::Metrics(int max_tenants) : rpc_(registry_), tenants_(max_tenants) {}

ModelMetrics* Metrics::AddModel(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [known, model] : models_) {
    if (known == name) return model.get();
  }
  models_.emplace_back(name, std::make_unique<ModelMetrics>(registry_, name));
  return models_.back().second.get();
}

std::unique_ptr<state_store::SessionStore> Metrics::Measured(
    std::unique_ptr<state_store::SessionStore> store, const std::string& tier) {
  return std::make_unique<MeasuredStore>(std::move(store), registry_, tier);
}

void Metrics::CountTenant(const std::string& tenant, bool ok, int64_t prompt_tokens,
                          int64_t generated_tokens) {
  if (!tenants_.enabled()) return;
  const prometheus::Labels label = {{"tenant", tenants_.LabelOf(tenant)}};
  const auto add = [&](const char* name, const char* help, const prometheus::Labels& labels,
                       double value) {
    prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels).Increment(
        value);
  };
  prometheus::Labels outcome = label;
  outcome.emplace("outcome", ok ? "ok" : "failed");
  add("reprise_tenant_requests_total", "Generate calls that came to the scheduler, by tenant",
      outcome, 1);
  add("reprise_tenant_prompt_tokens_total", "Tokens of prompts, by tenant", label,
      static_cast<double>(prompt_tokens));
  add("reprise_tenant_generation_tokens_total", "Tokens that were generated, by tenant", label,
      static_cast<double>(generated_tokens));
}

void Metrics::AddSource(Source source) {
  absl::MutexLock lock(&mutex_);
  sources_.push_back(std::move(source));
}

void Metrics::ForgetSources() {
  absl::MutexLock lock(&mutex_);
  sources_.clear();
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  {
    Scrape scrape;
    absl::MutexLock lock(&mutex_);
    for (const Source& source : sources_) source(scrape);
    std::vector<prometheus::MetricFamily> pulled = scrape.Take();
    std::move(pulled.begin(), pulled.end(), std::back_inserter(families));
  }
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace reprise::service
