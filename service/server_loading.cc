#include "service/server_loading.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/device_queue.h"
#include "models/load_model.h"
#include "service/memory_budget.h"
#include "service/metrics/metrics.h"
#include "service/metrics/sources.h"
#include "service/open_store.h"
#include "service/served_model.h"

namespace reprise::service {
namespace {

constexpr int kMaxThreads = 256;

absl::StatusOr<kernels::Device> ChooseDevice(const std::string& wanted, spdlog::logger* log,
                                             int64_t* free_bytes) {
  if (wanted == "cpu") return kernels::Device::kCpu;
  const absl::StatusOr<kernels::DeviceInfo> info = kernels::QueryCudaDevice();
  if (info.ok()) {
    log->info("device: {}, {} multiprocessors, {} of {} bytes free", info->name,
              info->multiprocessors, info->free_bytes, info->memory_bytes);
    *free_bytes = static_cast<int64_t>(info->free_bytes);
    return kernels::Device::kCuda;
  }
  if (wanted == "cuda") return Prefixed(info.status(), "--device cuda");
  log->info("device: the CPU ({})", std::string(info.status().message()));
  return kernels::Device::kCpu;
}

models::LoadOptions LoadOptionsFor(const ServerOptions& options, const kernels::Context& context) {
  models::LoadOptions load;
  load.context = context;
  load.max_rows = StepTokens(options.compute, context.device);
  load.weight_format = models::WeightFormatOf(options.compute.weight_format);
  return load;
}

absl::Status OfModel(const absl::Status& status, const ModelSource& source) {
  return Prefixed(status, absl::StrCat("--model ", source.name, "=", source.directory));
}

absl::StatusOr<MemoryPlan> Plan(const ServerOptions& options, kernels::Device device,
                                int64_t device_free_bytes) {
  std::vector<PlannedModel> planned;
  for (const ModelSource& source : options.models) {
    const auto plan =
        models::PlanModel(source.directory, LoadOptionsFor(options, {device, nullptr}));
    if (!plan.ok()) return OfModel(plan.status(), source);
    planned.push_back({source.name, *plan});
  }
  return PlanMemory(options, device, device_free_bytes, planned);
}

}  // namespace

absl::StatusOr<ServerParts> LoadParts(const ServerOptions& options, const Clock* clock,
                                      const std::shared_ptr<spdlog::logger>& log) {
  ServerParts parts;
  parts.metrics = std::make_shared<Metrics>(options.telemetry.max_tenants);
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads =
      options.compute.threads > 0 ? options.compute.threads : std::clamp(cores, 1, kMaxThreads);
  ASSIGN_OR_RETURN(parts.compute, kernels::ThreadPool::Create(threads));
  kernels::Context context{kernels::Device::kCpu, parts.compute.get()};
  int64_t device_free_bytes = 0;
  ASSIGN_OR_RETURN(context.device,
                   ChooseDevice(options.compute.device, log.get(), &device_free_bytes));
  // First what may be refused at once: minutes pass before the last model is loaded.
  ASSIGN_OR_RETURN(const MemoryPlan memory, Plan(options, context.device, device_free_bytes));
  for (const auto* items : {&memory.host, &memory.device}) {
    for (const MemoryItem& item : *items) log->debug("memory: {} {}", item.bytes, item.what);
  }
  log->info("memory: {} bytes on the host with all caches full, {} on the device",
            memory.host_bytes, memory.device_bytes);
  RETURN_IF_ERROR(OpenStore(options.store, log, &parts));
  ASSIGN_OR_RETURN(const auto spill, OpenPrefixSpill(options.store, clock, log));
  if (spill != nullptr) {
    parts.metrics->AddSource([spill](Scrape& scrape) { ScrapeSpill(spill->stats(), scrape); });
  }
  // One for all models: an error of the device is the end of all that use it in this process.
  const auto health = std::make_shared<kernels::DeviceHealth>();
  for (const ModelSource& source : options.models) {
    const absl::Time start = clock->Now();
    std::unique_ptr<kernels::DeviceQueue> queue;
    if (context.device == kernels::Device::kCuda) {
      ASSIGN_OR_RETURN(queue,
                       kernels::DeviceQueue::Create(kernels::DeviceQueue::kScratchBytes, health));
      context.queue = queue.get();
    }
    auto loaded = models::LoadModel(source.directory, LoadOptionsFor(options, context));
    if (!loaded.ok()) return OfModel(loaded.status(), source);
    ComputeSettings compute = options.compute;
    compute.slots = memory.slots[parts.models.size()];
    ASSIGN_OR_RETURN(auto served,
                     ServeModel(source.name, std::move(loaded->model), std::move(loaded->tokenizer),
                                context, std::move(queue), clock, compute,
                                parts.metrics->AddModel(source.name), spill, health));
    const models::ModelInfo& info = served->model->info();
    log->info(
        "model {}: {} with {} parameters in {}, {} bytes of weights, {} bytes of state per "
        "sequence, {} slots, weights {}, loaded in {}",
        source.name, info.architecture, info.num_parameters, info.dtype, info.weight_bytes,
        served->layout().bytes(), served->scheduler->options().num_slots, info.weights_fingerprint,
        absl::FormatDuration(clock->Now() - start));
    parts.models.push_back(std::move(served));
  }
  return parts;
}

}  // namespace reprise::service
