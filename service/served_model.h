// The models of this server, each with its tokenizer and the thread that runs it.
#ifndef REPRISE_SERVICE_SERVED_MODEL_H_
#define REPRISE_SERVICE_SERVED_MODEL_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/device_health.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"
#include "models/hybrid_model.h"
#include "models/tokenizer/tokenizer.h"
#include "scheduler/scheduler_thread.h"
#include "scheduler/session_state.h"
#include "service/server_options.h"
#include "service/tenant_weights.h"
#include "state_store/snapshot.h"

namespace reprise::service {

struct ServedModel {
  std::string name;
  std::shared_ptr<kernels::DeviceHealth> health;  // of its device; never null
  std::unique_ptr<kernels::DeviceQueue> queue;    // of a model on CUDA
  std::unique_ptr<models::HybridModel> model;
  std::unique_ptr<models::Tokenizer> tokenizer;  // null: requests carry token ids
  scheduler::ModelIdentity identity;
  kernels::Device device = kernels::Device::kCpu;
  std::shared_ptr<TenantWeights> tenant_weights;
  std::unique_ptr<scheduler::SchedulerThread> scheduler;  // last: its thread uses the model

  bool device_failed() const { return health->failed(); }
  int vocab_size() const { return model->info().vocab_size; }
  const models::StateLayout& layout() const { return model->state_layout(); }
};

// Wraps a model and starts its scheduler thread. `clock`, `metrics` (may be null) and the context's
// pool are borrowed; `queue` is the context's, or null. `spill` may be null. `health` is shared by
// the models of one device; null makes one, or takes the queue's.
absl::StatusOr<std::unique_ptr<ServedModel>> ServeModel(
    std::string name, std::unique_ptr<models::HybridModel> model,
    std::unique_ptr<models::Tokenizer> tokenizer, const kernels::Context& context,
    std::unique_ptr<kernels::DeviceQueue> queue, const Clock* clock,
    const ComputeSettings& settings, scheduler::SchedulerMetrics* metrics = nullptr,
    std::shared_ptr<scheduler::PrefixSpill> spill = nullptr,
    std::shared_ptr<kernels::DeviceHealth> health = nullptr);

// Rows of one step, where nobody said.
int StepTokens(const ComputeSettings& settings, kernels::Device device);

// Slots of a model, where nobody said and memory is no matter: 32 on the CPU, 512 on CUDA.
int MostSlots(const ComputeSettings& settings, kernels::Device device);

// Rows of one step whose logits are kept.
int LogitRows(const ComputeSettings& settings, kernels::Device device, int slots);

// scheduler::RestoreSnapshot, and what it cannot know: that the pending token is one of the
// vocabulary. The snapshot may come from anyone.
// The same without the image, from the manifest alone.
absl::StatusOr<scheduler::SessionLegs> ReadLegsChecked(
    const ServedModel& model, const state_store::SnapshotManifest& manifest);
absl::StatusOr<scheduler::SessionLegs> RestoreChecked(const ServedModel& model,
                                                      const state_store::Snapshot& snapshot);

// Fixed once the server runs; thread-safe to read.
class ModelRegistry {
 public:
  explicit ModelRegistry(std::vector<std::unique_ptr<ServedModel>> models)
      : models_(std::move(models)) {}

  // The model of that name, or the only one if `name` is empty. MODEL_NOT_FOUND; INVALID_FIELD
  // about `field` when the name is empty and there are several.
  absl::StatusOr<ServedModel*> Find(std::string_view name, std::string_view field) const;
  const std::vector<std::unique_ptr<ServedModel>>& models() const { return models_; }
  // OK, or DEVICE_FAILED if there is no model left that can compute.
  absl::Status CheckDevices() const;
  // Of the largest state.
  size_t max_state_bytes() const;

 private:
  std::vector<std::unique_ptr<ServedModel>> models_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SERVED_MODEL_H_
