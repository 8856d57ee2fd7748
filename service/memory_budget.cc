#include "service/memory_budget.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kernels/device_queue.h"
#include "models/state_slots.h"
#include "service/served_model.h"

namespace reprise::service {
namespace {

using Items = std::vector<MemoryItem>;
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

// Flags may say more than there is in the world.
int64_t Plus(int64_t a, int64_t b) { return a > kMost - b ? kMost : a + b; }

int64_t Total(const Items& items) {
  int64_t bytes = 0;
  for (const MemoryItem& item : items) bytes = Plus(bytes, item.bytes);
  return bytes;
}

absl::Status NotEnough(absl::string_view flag, int64_t limit, Items items) {
  const int64_t needed = Total(items);
  std::stable_sort(items.begin(), items.end(),
                   [](const MemoryItem& a, const MemoryItem& b) { return a.bytes > b.bytes; });
  return absl::ResourceExhaustedError(absl::StrCat(
      flag, ": ", limit, " bytes are not enough, ", needed,
      " are needed: ", absl::StrJoin(items, ", ", [](std::string* out, const MemoryItem& item) {
        absl::StrAppend(out, item.bytes, " ", item.what);
      })));
}

// What a model takes on its device with that many slots.
Items OnDevice(const ComputeSettings& settings, kernels::Device device, const PlannedModel& model,
               int slots) {
  const std::string of = absl::StrCat(" of model ", model.name);
  const auto state = static_cast<int64_t>(model.plan.state_bytes);
  const int64_t row = int64_t{model.plan.vocab_size} * static_cast<int64_t>(sizeof(float));
  Items items = {
      {absl::StrCat("of weights", of), static_cast<int64_t>(model.plan.weight_bytes)},
      {absl::StrCat("of --step-tokens", of), static_cast<int64_t>(model.plan.step_bytes)},
      {absl::StrCat("of --step-logit-rows", of), LogitRows(settings, device, slots) * row},
      {absl::StrCat("of ", slots, " --slots", of), slots * state},
      {absl::StrCat("of states on their way", of), models::StateSlots::kTransfers * state}};
  if (device == kernels::Device::kCuda) {
    items.push_back({absl::StrCat("of scratch", of), kernels::DeviceQueue::kScratchBytes});
  }
  return items;
}

// Beside the device.
Items OnHost(const ServerOptions& options, kernels::Device device,
             const std::vector<PlannedModel>& models) {
  Items items;
  for (const PlannedModel& model : models) {
    const std::string of = absl::StrCat(" of model ", model.name);
    const auto state = static_cast<int64_t>(model.plan.state_bytes);
    items.push_back(
        {absl::StrCat("of --prefix-cache-bytes", of), options.compute.prefix_cache_bytes});
    items.push_back(
        {absl::StrCat("of --max-request-bytes", of), options.compute.max_request_bytes});
    // One more while two sequences change places.
    const int64_t parked = options.compute.max_parked_bytes;
    items.push_back(
        {absl::StrCat("of --max-parked-bytes", of), parked == 0 ? 0 : Plus(parked, state)});
    if (device == kernels::Device::kCuda) {
      items.push_back(
          {absl::StrCat("of states on their way", of), models::StateSlots::kTransfers * state});
    }
  }
  const StoreSettings& store = options.store;
  const auto bytes = [](uint64_t value) {
    return static_cast<int64_t>(std::min<uint64_t>(value, kMost));
  };
  items.push_back({"of --prefix-spill-bytes", store.prefix_spill_bytes});
  if (store.kind == StoreSettings::Kind::kMemory) {
    items.push_back({"of --store-max-bytes", bytes(store.max_bytes)});
  } else if (store.kind == StoreSettings::Kind::kRedis) {
    items.push_back({"of --host-cache-bytes", bytes(store.host_cache_bytes)});
    items.push_back({"of --write-behind-bytes", bytes(store.write_behind_bytes)});
  }
  return items;
}

void Append(Items more, Items* items) {
  for (MemoryItem& item : more) {
    if (item.bytes > 0) items->push_back(std::move(item));
  }
}

// On one device, with `limit` bytes (kMost: without limit) beside what `items` has already; fills
// in items and slots.
absl::Status PlaceModels(const ComputeSettings& settings, kernels::Device device,
                         const std::vector<PlannedModel>& models, absl::string_view flag,
                         int64_t limit, Items* items, std::vector<int>* slots) {
  const int least = settings.slots > 0 ? settings.slots : 1;
  const auto cost = [&](const PlannedModel& model, int count) {
    return Total(OnDevice(settings, device, model, count));
  };
  Items smallest = *items;
  for (const PlannedModel& model : models) {
    Append(OnDevice(settings, device, model, least), &smallest);
  }
  const int64_t needed = Total(smallest);
  if (needed > limit) return NotEnough(flag, limit, std::move(smallest));

  // Whoever needs less leaves its share to those after it.
  std::vector<size_t> order(models.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const int most = settings.slots > 0 ? settings.slots : MostSlots(settings, device);
  const auto wish = [&](size_t i) { return cost(models[i], most) - cost(models[i], least); };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return wish(a) < wish(b); });
  slots->assign(models.size(), least);
  int64_t left = limit - needed;
  for (size_t k = 0; k < order.size(); ++k) {
    const PlannedModel& model = models[order[k]];
    const int64_t share = left / static_cast<int64_t>(order.size() - k);
    int& count = (*slots)[order[k]];
    count = most;
    while (count > least && cost(model, count) - cost(model, least) > share) --count;
    left -= cost(model, count) - cost(model, least);
  }
  for (size_t i = 0; i < models.size(); ++i) {
    Append(OnDevice(settings, device, models[i], (*slots)[i]), items);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const ServerOptions& options, kernels::Device device,
                                      int64_t device_free_bytes,
                                      const std::vector<PlannedModel>& models) {
  const ComputeSettings& compute = options.compute;
  const bool cuda = device == kernels::Device::kCuda;
  const int64_t limit = compute.memory_bytes > 0 ? compute.memory_bytes : kMost;
  constexpr char kHostFlag[] = "--memory-bytes", kDeviceFlag[] = "--device-memory-bytes";
  if (compute.memory_bytes > 0 && options.store.kind == StoreSettings::Kind::kMemory &&
      options.store.max_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--store-max-bytes: 0 is not allowed with ",
                                                   kHostFlag,
                                                   " and a store in memory; allowed: at least 1"));
  }
  if (!cuda && compute.device_memory_bytes > 0) {
    return absl::InvalidArgumentError(absl::StrCat(kDeviceFlag, ": ", compute.device_memory_bytes,
                                                   " is not allowed on the CPU, whose memory ",
                                                   kHostFlag, " limits; allowed: auto"));
  }
  MemoryPlan plan;
  Append(OnHost(options, device, models), &plan.host);
  if (cuda) {
    // Recorded graphs, kernels and the driver want some too.
    constexpr double kShare = 0.9;
    const int64_t on_device =
        compute.device_memory_bytes > 0
            ? compute.device_memory_bytes
            : static_cast<int64_t>(kShare * static_cast<double>(device_free_bytes));
    RETURN_IF_ERROR(
        PlaceModels(compute, device, models, kDeviceFlag, on_device, &plan.device, &plan.slots));
    if (Total(plan.host) > limit) return NotEnough(kHostFlag, limit, plan.host);
  } else {
    RETURN_IF_ERROR(
        PlaceModels(compute, device, models, kHostFlag, limit, &plan.host, &plan.slots));
  }
  plan.host_bytes = Total(plan.host);
  plan.device_bytes = Total(plan.device);
  return plan;
}

}  // namespace reprise::service
