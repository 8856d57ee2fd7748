#include "service/server_loading.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/device_queue.h"
#include "models/load_model.h"
#include "service/served_model.h"
#include "state_store/disk_store.h"
#include "state_store/memory_store.h"
#include "state_store/redis/address.h"
#include "state_store/redis/redis_store.h"

namespace reprise::service {
namespace {

constexpr int kMaxThreads = 256;

absl::Status OpenStore(const StoreSettings& settings, spdlog::logger* log, ServerParts* parts) {
  state_store::StoreOptions store;
  store.max_stored_bytes = settings.max_bytes;
  if (settings.kind == StoreSettings::Kind::kMemory) {
    log->info("store: memory, sessions end with this process");
    ASSIGN_OR_RETURN(parts->store, state_store::CreateMemoryStore(store));
    return absl::OkStatus();
  }
  if (settings.kind == StoreSettings::Kind::kRedis) {
    state_store::redis::RedisStoreOptions redis;
    redis.client.url = settings.url;
    redis.store = store;
    redis.sync_replicas = settings.sync_replicas;
    // Its address, for a URL may hold a password.
    ASSIGN_OR_RETURN(const auto address, state_store::redis::ParseAddress(settings.url));
    log->info("store: Redis at {}{}", address.endpoints.front().ToString(),
              address.tls ? " with TLS" : "");
    ASSIGN_OR_RETURN(auto opened, state_store::redis::RedisStore::Create(redis));
    parts->collect_garbage = [redis_store = opened.get()] {
      return redis_store->CollectGarbage().status();
    };
    parts->store = std::move(opened);
    return absl::OkStatus();
  }
  state_store::DiskStoreOptions disk;
  disk.directory = settings.path;
  disk.store = store;
  auto opened = state_store::OpenDiskStore(disk);
  if (!opened.ok()) return Prefixed(opened.status(), absl::StrCat("--store disk:", settings.path));
  const state_store::RecoveryReport& report = opened->report;
  log->info(
      "store: disk {}, {} log records, {} bytes of a torn tail cut, {} orphan chunks and {} "
      "temporary files removed",
      settings.path, report.records, report.cut_bytes, report.orphan_chunks,
      report.temporary_files);
  for (const std::string& note : report.notes) log->warn("store: {}", note);
  parts->store = std::move(opened->store);
  return absl::OkStatus();
}

absl::StatusOr<kernels::Device> ChooseDevice(const std::string& wanted, spdlog::logger* log) {
  if (wanted == "cpu") return kernels::Device::kCpu;
  const absl::StatusOr<kernels::DeviceInfo> info = kernels::QueryCudaDevice();
  if (info.ok()) {
    log->info("device: {}, {} multiprocessors, {} of {} bytes free", info->name,
              info->multiprocessors, info->free_bytes, info->memory_bytes);
    return kernels::Device::kCuda;
  }
  if (wanted == "cuda") return Prefixed(info.status(), "--device cuda");
  log->info("device: the CPU ({})", std::string(info.status().message()));
  return kernels::Device::kCpu;
}

}  // namespace

absl::StatusOr<ServerParts> LoadParts(const ServerOptions& options, const Clock* clock,
                                      spdlog::logger* log) {
  ServerParts parts;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads =
      options.compute.threads > 0 ? options.compute.threads : std::clamp(cores, 1, kMaxThreads);
  ASSIGN_OR_RETURN(parts.compute, kernels::ThreadPool::Create(threads));
  kernels::Context context{kernels::Device::kCpu, parts.compute.get()};
  ASSIGN_OR_RETURN(context.device, ChooseDevice(options.compute.device, log));
  // First: a locked or damaged store shows before minutes of loading.
  RETURN_IF_ERROR(OpenStore(options.store, log, &parts));
  for (const ModelSource& source : options.models) {
    const absl::Time start = clock->Now();
    std::unique_ptr<kernels::DeviceQueue> queue;
    if (context.device == kernels::Device::kCuda) {
      ASSIGN_OR_RETURN(queue, kernels::DeviceQueue::Create());
      context.queue = queue.get();
    }
    models::LoadOptions load;
    load.context = context;
    load.max_rows = StepTokens(options.compute, context.device);
    auto loaded = models::LoadModel(source.directory, load);
    if (!loaded.ok()) {
      return Prefixed(loaded.status(),
                      absl::StrCat("--model ", source.name, "=", source.directory));
    }
    ASSIGN_OR_RETURN(auto served,
                     ServeModel(source.name, std::move(loaded->model), std::move(loaded->tokenizer),
                                context, std::move(queue), clock, options.compute));
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
