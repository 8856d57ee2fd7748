#include "service/server_loading.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "models/load_model.h"
#include "service/served_model.h"
#include "state_store/disk_store.h"
#include "state_store/memory_store.h"

namespace reprise::service {
namespace {

constexpr int kMaxThreads = 256;

absl::StatusOr<std::unique_ptr<state_store::SessionStore>> OpenStore(const StoreSettings& settings,
                                                                     spdlog::logger* log) {
  state_store::StoreOptions store;
  store.max_stored_bytes = settings.max_bytes;
  if (settings.kind == StoreSettings::Kind::kMemory) {
    log->info("store: memory, sessions end with this process");
    return state_store::CreateMemoryStore(store);
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
  return std::move(opened->store);
}

}  // namespace

absl::StatusOr<ServerParts> LoadParts(const ServerOptions& options, const Clock* clock,
                                      spdlog::logger* log) {
  ServerParts parts;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads =
      options.compute.threads > 0 ? options.compute.threads : std::clamp(cores, 1, kMaxThreads);
  ASSIGN_OR_RETURN(parts.compute, kernels::ThreadPool::Create(threads));
  const kernels::Context context{kernels::Device::kCpu, parts.compute.get()};
  // First: a locked or damaged store shows before minutes of loading.
  ASSIGN_OR_RETURN(parts.store, OpenStore(options.store, log));
  for (const ModelSource& source : options.models) {
    const absl::Time start = clock->Now();
    models::LoadOptions load;
    load.context = context;
    load.max_rows = options.compute.step_tokens;
    auto loaded = models::LoadModel(source.directory, load);
    if (!loaded.ok()) {
      return Prefixed(loaded.status(),
                      absl::StrCat("--model ", source.name, "=", source.directory));
    }
    ASSIGN_OR_RETURN(auto served,
                     ServeModel(source.name, std::move(loaded->model), std::move(loaded->tokenizer),
                                context, clock, options.compute));
    const models::ModelInfo& info = served->model->info();
    log->info(
        "model {}: {} with {} parameters in {}, {} bytes of weights, {} bytes of state per "
        "sequence, {} slots, weights {}, loaded in {}",
        source.name, info.architecture, info.num_parameters, info.dtype, info.weight_bytes,
        served->layout().bytes(), options.compute.slots, info.weights_fingerprint,
        absl::FormatDuration(clock->Now() - start));
    parts.models.push_back(std::move(served));
  }
  return parts;
}

}  // namespace reprise::service
