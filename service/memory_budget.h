// How much memory a server's models and stores will take, and how many slots fit.
#ifndef REPRISE_SERVICE_MEMORY_BUDGET_H_
#define REPRISE_SERVICE_MEMORY_BUDGET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "models/model_plan.h"
#include "service/server_options.h"

namespace reprise::service {

struct PlannedModel {
  std::string name;
  models::ModelPlan plan;
};

// A part of the memory, called by the flag that decides it where there is one.
struct MemoryItem {
  std::string what;
  int64_t bytes = 0;
};

struct MemoryPlan {
  std::vector<int> slots;  // of each model, in order
  // With all slots held and all caches full. On the CPU all of it is host memory.
  std::vector<MemoryItem> host, device;
  int64_t host_bytes = 0, device_bytes = 0;
};

// Plans before anything is loaded. `device_free_bytes` is what the GPU has free now (not looked at
// on the CPU). --slots that nobody chose are as many as there is room for, the same share of bytes
// for each model, up to MostSlots.
// RESOURCE_EXHAUSTED, beginning with --memory-bytes or --device-memory-bytes and followed by what
// the parts are and which flags decide them, when even one slot for each model does not fit.
// INVALID_ARGUMENT naming the flag for options that leave no bound to plan with, or ask for
// --device-memory-bytes where there is no GPU.
absl::StatusOr<MemoryPlan> PlanMemory(const ServerOptions& options, kernels::Device device,
                                      int64_t device_free_bytes,
                                      const std::vector<PlannedModel>& models);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_MEMORY_BUDGET_H_
