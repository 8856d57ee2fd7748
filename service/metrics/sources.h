// What is read when somebody asks for metrics, from the parts of the server that count themselves.
#ifndef REPRISE_SERVICE_METRICS_SOURCES_H_
#define REPRISE_SERVICE_METRICS_SOURCES_H_

#include "scheduler/prefix_cache/tiered_spill.h"
#include "service/metrics/scrape.h"
#include "service/served_model.h"
#include "state_store/tiers/tiered_store.h"

namespace reprise::service {

void ScrapeModel(const ServedModel& model, Scrape& scrape);
// What all models spill to.
void ScrapeSpill(const scheduler::TieredSpillStats& stats, Scrape& scrape);
void ScrapeTiers(const state_store::TierStats& stats, Scrape& scrape);
// The process, its build, and the memory of the device that its models run on.
void ScrapeProcess(kernels::Device device, Scrape& scrape);
void ScrapeServer(bool draining, Scrape& scrape);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_SOURCES_H_
