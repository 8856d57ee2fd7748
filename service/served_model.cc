#include "service/served_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

// Scoring keeps the logits of whole chunks; this many rows at most, since a row is a vocabulary
// wide.
constexpr int kLogitRows = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<ServedModel>> ServeModel(
    std::string name, std::unique_ptr<models::HybridModel> model,
    std::unique_ptr<models::Tokenizer> tokenizer, const kernels::Context& context,
    std::unique_ptr<kernels::DeviceQueue> queue, const Clock* clock,
    const ComputeSettings& settings, scheduler::SchedulerMetrics* metrics,
    std::shared_ptr<scheduler::PrefixSpill> spill, std::shared_ptr<kernels::DeviceHealth> health) {
  // Token ids must mean the same on both sides; a model may have padding rows behind the
  // tokenizer's.
  if (tokenizer != nullptr && tokenizer->vocab_size() > model->info().vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("model ", name, ": its tokenizer has ",
                                                   tokenizer->vocab_size(), " tokens, the model ",
                                                   model->info().vocab_size));
  }
  scheduler::SchedulerOptions options;
  options.step_tokens = StepTokens(settings, context.device);
  options.prefill_chunk_tokens = settings.prefill_chunk_tokens;
  if (options.prefill_chunk_tokens == 0) {
    options.prefill_chunk_tokens = std::max(1, options.step_tokens / 2);
  }
  options.num_slots = settings.slots > 0 ? settings.slots : MostSlots(settings, context.device);
  options.step_logit_rows = LogitRows(settings, context.device, options.num_slots);
  options.max_queued = settings.max_queued;
  options.max_queued_per_tenant =
      settings.max_queued_per_tenant > 0 ? settings.max_queued_per_tenant : settings.max_queued;
  options.max_wait = settings.max_wait;
  options.time_slice = settings.time_slice;
  options.max_request_bytes = settings.max_request_bytes;
  options.max_parked_bytes = settings.max_parked_bytes;
  auto weights = std::make_shared<TenantWeights>(settings.tenant_weights);
  options.tenant_weight = [weights](const std::string& tenant) { return weights->Of(tenant); };
  options.metrics = metrics;

  if (settings.prefix_cache_bytes > 0) {
    scheduler::PrefixCacheOptions cache;
    cache.max_bytes = settings.prefix_cache_bytes;
    cache.ttl = settings.prefix_cache_ttl;
    if (const auto bytes = settings.prefix_cache_tenant_bytes; bytes.has_value()) {
      cache.tenant_bytes = [bytes = *bytes](const std::string&) { return bytes; };
    }
    cache.spill = std::move(spill);
    ASSIGN_OR_RETURN(options.prefix_cache, scheduler::PrefixCache::Create(clock, cache));
  }

  auto served = std::make_unique<ServedModel>();
  served->name = name;
  if (health == nullptr && queue != nullptr) health = queue->health();
  if (health == nullptr) health = std::make_shared<kernels::DeviceHealth>();
  served->health = std::move(health);
  served->queue = std::move(queue);
  served->tenant_weights = std::move(weights);
  served->identity = {.model_id = name,
                      .weights_fingerprint = model->info().weights_fingerprint,
                      .tokenizer_fingerprint = tokenizer == nullptr ? "" : tokenizer->fingerprint(),
                      .layout_digest = model->state_layout().Digest(),
                      .numerics_id = models::NumericsId(context.device)};
  served->device = context.device;
  served->model = std::move(model);
  served->tokenizer = std::move(tokenizer);
  kernels::Context watched = context;
  watched.health = served->health.get();
  ASSIGN_OR_RETURN(auto loop,
                   scheduler::Scheduler::Create(served->model.get(), watched, clock, options));
  served->scheduler = std::make_unique<scheduler::SchedulerThread>(std::move(loop));
  return served;
}

int StepTokens(const ComputeSettings& settings, kernels::Device device) {
  if (settings.step_tokens != 0) return settings.step_tokens;
  const int tokens = device == kernels::Device::kCpu ? 256 : 4096;
  return std::max({tokens, settings.slots, settings.prefill_chunk_tokens});
}

int MostSlots(const ComputeSettings& settings, kernels::Device device) {
  constexpr int kOnCpu = 32, kOnCuda = 512;
  return std::min(device == kernels::Device::kCpu ? kOnCpu : kOnCuda, StepTokens(settings, device));
}

int LogitRows(const ComputeSettings& settings, kernels::Device device, int slots) {
  const int rows =
      settings.step_logit_rows > 0 ? settings.step_logit_rows : std::max(slots, kLogitRows);
  return std::min(rows, StepTokens(settings, device));
}

absl::StatusOr<scheduler::SessionLegs> RestoreChecked(const ServedModel& model,
                                                      const state_store::Snapshot& snapshot) {
  ASSIGN_OR_RETURN(scheduler::SessionLegs legs, ReadLegsChecked(model, snapshot.manifest));
  ASSIGN_OR_RETURN(legs.sequence.image,
                   scheduler::ReadImage(model.layout(), snapshot.manifest, snapshot.payloads));
  return legs;
}

absl::StatusOr<scheduler::SessionLegs> ReadLegsChecked(
    const ServedModel& model, const state_store::SnapshotManifest& manifest) {
  ASSIGN_OR_RETURN(scheduler::SessionLegs legs, scheduler::ReadLegs(model.identity, manifest));
  const scheduler::SequenceState& sequence = legs.sequence;
  if (!sequence.pending.has_value() || *sequence.pending < 0 ||
      *sequence.pending >= model.vocab_size()) {
    return MakeError(v1::ERROR_REASON_CORRUPT_SNAPSHOT,
                     "the snapshot's pending token is impossible");
  }
  // Before anybody reads that many bytes. Stored with less precision they may be fewer, or, for
  // very short rows, a few more.
  if (manifest.LogicalBytes() / 2 > model.layout().bytes()) {
    return MakeError(v1::ERROR_REASON_CORRUPT_SNAPSHOT,
                     "the snapshot has more bytes than a state of the model");
  }
  return legs;
}

absl::StatusOr<ServedModel*> ModelRegistry::Find(std::string_view name,
                                                 std::string_view field) const {
  if (name.empty()) {
    if (models_.size() == 1) return models_.front().get();
    return FieldError(field, "must name one of the server's several models");
  }
  for (const auto& model : models_) {
    if (model->name == name) return model.get();
  }
  return WithResource(MakeError(v1::ERROR_REASON_MODEL_NOT_FOUND, "no such model is served here"),
                      "model", name);
}

absl::Status ModelRegistry::CheckDevices() const {
  for (const auto& model : models_) {
    if (!model->device_failed()) return absl::OkStatus();
  }
  return MakeError(v1::ERROR_REASON_DEVICE_FAILED, "the server's device has failed");
}

size_t ModelRegistry::max_state_bytes() const {
  size_t bytes = 0;
  for (const auto& model : models_) bytes = std::max(bytes, model->layout().bytes());
  return bytes;
}

}  // namespace reprise::service
