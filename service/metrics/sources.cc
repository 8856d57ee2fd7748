#include "service/metrics/sources.h"

#include <string>

#include "kernels/device_queue.h"
#include "scheduler/prefix_cache/prefix_stats.h"
#include "service/metrics/process_stats.h"
#include "service/version.h"

namespace reprise::service {
namespace {

double Number(int64_t value) { return static_cast<double>(value); }
double Number(uint64_t value) { return static_cast<double>(value); }

LabelList With(LabelList labels, const char* name, const char* value) {
  labels.push_back({name, value});
  return labels;
}

void ScrapePrefixCache(const scheduler::PrefixCacheStats& stats, const LabelList& model,
                       Scrape& scrape) {
  scrape.Gauge("reprise_prefix_cache_bytes", "Host memory of the prefix cache", model,
               Number(stats.bytes));
  scrape.Gauge("reprise_prefix_cache_entries", "States in the prefix cache", model,
               Number(stats.entries));
  scrape.Counter("reprise_prefix_cache_query_tokens_total",
                 "Tokens of the prompts that were looked up in the prefix cache", model,
                 Number(stats.lookup_tokens));
  scrape.Counter("reprise_prefix_cache_hit_tokens_total",
                 "Tokens of the prefixes that lookups found", model, Number(stats.hit_tokens));
  scrape.Counter("reprise_prefix_cache_inserts_total", "States that the prefix cache took", model,
                 Number(stats.inserts));
  const auto lookup = [&](const char* result, int64_t count) {
    scrape.Counter("reprise_prefix_cache_lookups_total",
                   "Lookups in the prefix cache: hit, or why nothing was reused",
                   With(model, "result", result), Number(count));
  };
  lookup("hit", stats.hits);
  for (int i = 1; i < scheduler::kNumPrefixMisses; ++i) {
    lookup(scheduler::PrefixMissName(static_cast<scheduler::PrefixMiss>(i)), stats.misses[i]);
  }
  const auto removal = [&](const char* cause, int64_t count) {
    scrape.Counter("reprise_prefix_cache_evictions_total",
                   "States that left the prefix cache, to make room or unused for too long",
                   With(model, "cause", cause), Number(count));
  };
  removal("room", stats.evictions);
  removal("age", stats.expirations);
  scrape.Counter("reprise_prefix_cache_spilled_total", "Evicted states that the spill was given",
                 model, Number(stats.spilled));
  const auto fetch = [&](const char* result, int64_t count) {
    scrape.Counter("reprise_prefix_cache_fetches_total",
                   "Requests that waited for a state from the spill: hit, or miss",
                   With(model, "result", result), Number(count));
  };
  fetch("hit", stats.spill_hits);
  fetch("miss", stats.spill_misses);
}

}  // namespace

void ScrapeModel(const ServedModel& served, Scrape& scrape) {
  const models::ModelInfo& info = served.model->info();
  const LabelList model = {{"model_name", served.name}};
  scrape.Gauge("reprise_model_info", "Facts about a model, as labels; 1",
               {{"model_name", served.name},
                {"architecture", info.architecture},
                {"dtype", info.dtype},
                {"device", served.device == kernels::Device::kCpu ? "cpu" : "cuda"},
                {"numerics", served.identity.numerics_id}},
               1);
  scrape.Gauge("reprise_model_weight_bytes", "Weights of the model, as held in memory", model,
               static_cast<double>(info.weight_bytes));
  scrape.Gauge("reprise_model_state_bytes", "State of one sequence", model,
               static_cast<double>(served.layout().bytes()));
  scrape.Gauge("reprise_device_failed", "1 once the model's device has failed", model,
               served.device_failed() ? 1 : 0);

  const scheduler::SchedulerStats stats = served.scheduler->stats();
  scrape.Gauge("reprise_requests_running", "Sequences with a slot", model, stats.running);
  scrape.Gauge("reprise_requests_waiting", "Requests that have not started", model, stats.waiting);
  scrape.Gauge("reprise_requests_parked", "Sequences that gave their slot up for another", model,
               stats.parked);
  scrape.Gauge("reprise_requests_paused", "Sequences whose client does not read", model,
               stats.paused);
  scrape.Gauge("reprise_slots", "Sequences that can run at the same time", model,
               served.scheduler->options().num_slots);
  scrape.Gauge("reprise_slots_free", "Slots without a sequence", model, stats.free_slots);
  scrape.Gauge("reprise_parked_bytes", "Host memory of the states of parked sequences", model,
               Number(stats.parked_bytes));
  scrape.Counter("reprise_steps_total", "Steps that ran rows", model, Number(stats.steps));
  const auto prompt = [&](const char* source, int64_t tokens) {
    scrape.Counter("reprise_prompt_tokens_total",
                   "Tokens of prompts: computed, found in the prefix cache, or shared by forks",
                   With(model, "source", source), Number(tokens));
  };
  prompt("computed", stats.prefill_tokens);
  prompt("cached", stats.cached_tokens);
  prompt("shared", stats.shared_tokens);
  if (const auto& cache = served.scheduler->options().prefix_cache; cache != nullptr) {
    ScrapePrefixCache(cache->TotalStats(), model, scrape);
  }
}

void ScrapeSpill(const scheduler::TieredSpillStats& stats, Scrape& scrape) {
  scrape.Gauge("reprise_prefix_spill_bytes", "Host memory of states evicted from prefix caches", {},
               Number(stats.host_bytes));
  scrape.Gauge("reprise_prefix_spill_entries", "These states", {}, Number(stats.host_entries));
  scrape.Counter("reprise_prefix_spill_evictions_total", "Of these, those that made room", {},
                 Number(stats.host_evictions));
  const auto hits = [&](const char* tier, int64_t count) {
    scrape.Counter("reprise_prefix_spill_hits_total",
                   "States that the spill gave, from host memory or the shared store",
                   {{"tier", tier}}, Number(count));
  };
  hits("host", stats.host_hits);
  hits("store", stats.store_hits);
  scrape.Gauge("reprise_prefix_share_queued_bytes", "States on their way to the shared store", {},
               Number(stats.queued_bytes));
  scrape.Gauge(
      "reprise_prefix_share_bytes",
      "Prefixes of all tenants in the shared store, as the last write from here found them", {},
      Number(stats.store.bytes));
  const auto evictions = [&](const char* cap, int64_t count) {
    scrape.Counter("reprise_prefix_share_evictions_total",
                   "Prefixes that made room in the shared store: beyond a tenant's cap, beyond "
                   "that of all",
                   {{"cap", cap}}, Number(count));
  };
  evictions("tenant", stats.store.tenant_evictions);
  evictions("total", stats.store.total_evictions);
  const auto event = [&](const char* name, int64_t count) {
    scrape.Counter("reprise_prefix_share_events_total",
                   "Prefixes in the shared store: states written, not taken, or damaged; "
                   "questions without an answer; calls that failed",
                   {{"event", name}}, Number(count));
  };
  event("written", stats.shared);
  event("dropped", stats.share_drops);
  event("damaged", stats.damaged);
  event("missed", stats.store_misses);
  event("failed", stats.store_failures);
}

void ScrapeTiers(const state_store::TierStats& stats, Scrape& scrape) {
  scrape.Gauge("reprise_store_up", "Whether the shared store answers", {},
               stats.backend_lost ? 0 : 1);
  scrape.Counter("reprise_store_outages_total", "Times that the shared store stopped answering", {},
                 Number(stats.backend_losses));
  const auto degraded = [&](const char* operation, uint64_t count) {
    scrape.Counter("reprise_store_degraded_total",
                   "Reads answered and commits accepted while the shared store did not answer",
                   {{"operation", operation}}, Number(count));
  };
  degraded("read", stats.degraded_reads);
  degraded("commit", stats.degraded_commits);

  scrape.Gauge("reprise_host_cache_bytes", "Host memory of the cache of sessions' states", {},
               Number(stats.cache.bytes));
  scrape.Gauge("reprise_host_cache_snapshots", "Snapshots in the host cache", {},
               Number(stats.cache.snapshots));
  const auto lookup = [&](const char* result, uint64_t count) {
    scrape.Counter("reprise_host_cache_lookups_total", "Snapshots looked up in the host cache",
                   {{"result", result}}, Number(count));
  };
  lookup("hit", stats.cache.hits);
  lookup("miss", stats.cache.misses);
  scrape.Counter("reprise_host_cache_evictions_total", "Snapshots that made room in the host cache",
                 {}, Number(stats.cache.evictions));

  scrape.Gauge("reprise_leases_held", "Sessions that this server holds", {},
               Number(stats.leases.held));
  const auto lease = [&](const char* event, uint64_t count) {
    scrape.Counter("reprise_lease_events_total", "Leases of sessions: acquired, lost, recovered",
                   {{"event", event}}, Number(count));
  };
  lease("acquired", stats.leases.acquired);
  lease("lost", stats.leases.lost);
  lease("recovered", stats.leases.recovered);

  scrape.Gauge("reprise_write_behind_commits", "Acknowledged commits that are not written yet", {},
               Number(stats.queue.commits));
  scrape.Gauge("reprise_write_behind_bytes", "Their bytes", {}, Number(stats.queue.bytes));
  const auto commit = [&](const char* event, uint64_t count) {
    scrape.Counter(
        "reprise_write_behind_events_total",
        "Commits of the write-behind queue: accepted, refused for want of room, written, "
        "lost; tries that failed and are repeated",
        {{"event", event}}, Number(count));
  };
  commit("accepted", stats.queue.accepted);
  commit("refused", stats.queue.refused);
  commit("written", stats.queue.written);
  commit("lost", stats.queue.lost);
  commit("retried", stats.queue.retries);
  scrape.Counter("reprise_store_lost_sessions_total",
                 "Sessions whose acknowledged commits could not be stored", {},
                 Number(stats.lost_sessions));
}

void ScrapeProcess(kernels::Device device, Scrape& scrape) {
  scrape.Gauge("reprise_build_info", "Facts about the build, as labels; 1",
               {{"version", kVersion}, {"compiler", __VERSION__}}, 1);
  const ProcessStats process = ReadProcessStats();
  scrape.Counter("process_cpu_seconds_total", "Processor time of user and system", {},
                 process.cpu_seconds);
  scrape.Gauge("process_start_time_seconds", "When the process started, since the epoch", {},
               process.start_time_seconds);
  scrape.Gauge("process_resident_memory_bytes", "Resident memory", {},
               Number(process.resident_bytes));
  scrape.Gauge("process_virtual_memory_bytes", "Virtual memory", {}, Number(process.virtual_bytes));
  scrape.Gauge("process_threads", "Threads", {}, Number(process.threads));
  scrape.Gauge("process_open_fds", "Open file descriptors", {}, Number(process.open_fds));
  scrape.Gauge("process_max_fds", "Most file descriptors that may be open", {},
               Number(process.max_fds));

  std::string name = "cpu";
  double total = 0, free = 0;
  if (device == kernels::Device::kCpu) {
    const HostMemory memory = ReadHostMemory();
    total = Number(memory.total_bytes);
    free = Number(memory.free_bytes);
  } else if (const auto info = kernels::QueryCudaDevice(); info.ok()) {
    name = info->name;
    total = static_cast<double>(info->memory_bytes);
    free = static_cast<double>(info->free_bytes);
  } else {
    return;  // it has failed, and reprise_device_failed says so
  }
  scrape.Gauge("reprise_device_memory_bytes", "Memory of the device that the models run on",
               {{"device", name}}, total);
  scrape.Gauge("reprise_device_memory_free_bytes", "The part of it that is free",
               {{"device", name}}, free);
}

void ScrapeServer(bool draining, Scrape& scrape) {
  scrape.Gauge("reprise_draining", "1 once the server has begun to shut down", {},
               draining ? 1 : 0);
}

}  // namespace reprise::service
