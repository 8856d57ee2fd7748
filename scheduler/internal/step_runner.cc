#include "scheduler/internal/step_runner.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::scheduler {
namespace {

class HostStepRunner final : public StepRunner {
 public:
  HostStepRunner(models::HybridModel* model, kernels::ThreadPool* pool, int max_logit_rows)
      : model_(model), pool_(pool), vocab_size_(static_cast<size_t>(model->info().vocab_size)) {
    logits_.resize(static_cast<size_t>(max_logit_rows) * vocab_size_);
  }

  bool runs_beside_host() const override { return false; }

  absl::Status Begin(const models::RaggedBatch& batch, models::StateSlots& slots,
                     absl::Span<const RowRequest> requests) override {
    if (batch.logit_rows.size() != requests.size() ||
        requests.size() * vocab_size_ > logits_.size()) {
      return absl::InternalError(absl::StrCat(
          "step: ", batch.logit_rows.size(), " rows of logits for ", requests.size(), " requests"));
    }
    batch_ = &batch;
    slots_ = &slots;
    requests_ = requests;
    return absl::OkStatus();
  }

  absl::Status End(std::vector<absl::StatusOr<kernels::SampledToken>>* results) override {
    const absl::Span<const RowRequest> requests = requests_;
    RETURN_IF_ERROR(model_->Forward(*batch_, *slots_,
                                    absl::MakeSpan(logits_.data(), requests.size() * vocab_size_)));
    results->assign(requests.size(), absl::UnknownError("not run"));
    const auto answer = [&](int64_t begin, int64_t end, int /*thread*/) {
      for (int64_t i = begin; i < end; ++i) {
        const absl::Span<const float> row(logits_.data() + i * vocab_size_, vocab_size_);
        const RowRequest& request = requests[i];
        (*results)[i] = request.score >= 0
                            ? kernels::Score(row, request.score, request.sample.top_logprobs)
                            : kernels::Sample(row, request.sample);
      }
    };
    const int64_t count = static_cast<int64_t>(requests.size());
    if (pool_ == nullptr || count < 2) {
      answer(0, count, 0);
    } else {
      pool_->Run(count, 1, answer);
    }
    return absl::OkStatus();
  }

 private:
  models::HybridModel* const model_;
  kernels::ThreadPool* const pool_;
  const size_t vocab_size_;
  std::vector<float> logits_;  // [max_logit_rows, vocab]
  // From Begin to End.
  const models::RaggedBatch* batch_ = nullptr;
  models::StateSlots* slots_ = nullptr;
  absl::Span<const RowRequest> requests_;
};

class DeviceStepRunner final : public StepRunner {
 public:
  DeviceStepRunner(models::HybridModel* model, std::unique_ptr<kernels::DeviceSampler> sampler)
      : model_(model), sampler_(std::move(sampler)) {}

  bool runs_beside_host() const override { return true; }

  absl::Status Begin(const models::RaggedBatch& batch, models::StateSlots& slots,
                     absl::Span<const RowRequest> requests) override {
    if (batch.logit_rows.size() != requests.size()) {
      return absl::InternalError(absl::StrCat(
          "step: ", batch.logit_rows.size(), " rows of logits for ", requests.size(), " requests"));
    }
    ASSIGN_OR_RETURN(const float* logits, model_->ForwardOnDevice(batch, slots));
    samples_ = !requests.empty();
    return samples_ ? sampler_->Queue(logits, requests) : absl::OkStatus();
  }

  absl::Status End(std::vector<absl::StatusOr<kernels::SampledToken>>* results) override {
    if (samples_) return sampler_->Collect(results);
    // A step that only prefills: its failure must be known before its states are used.
    results->clear();
    return model_->context().queue->Synchronize();
  }

 private:
  models::HybridModel* const model_;
  const std::unique_ptr<kernels::DeviceSampler> sampler_;
  bool samples_ = false;  // in the step that has begun
};

}  // namespace

std::unique_ptr<StepRunner> NewHostStepRunner(models::HybridModel* model, kernels::ThreadPool* pool,
                                              int max_logit_rows) {
  return std::make_unique<HostStepRunner>(model, pool, max_logit_rows);
}

absl::StatusOr<std::unique_ptr<StepRunner>> NewDeviceStepRunner(models::HybridModel* model,
                                                                int max_logit_rows) {
  ASSIGN_OR_RETURN(
      std::unique_ptr<kernels::DeviceSampler> sampler,
      kernels::DeviceSampler::Create(max_logit_rows, model->info().vocab_size, model->context()));
  return std::make_unique<DeviceStepRunner>(model, std::move(sampler));
}

absl::StatusOr<std::unique_ptr<StepRunner>> NewStepRunner(models::HybridModel* model,
                                                          kernels::ThreadPool* pool,
                                                          int max_logit_rows) {
  if (model->context().device == kernels::Device::kCuda &&
      model->info().vocab_size <= kernels::DeviceSampler::kMaxVocab) {
    return NewDeviceStepRunner(model, max_logit_rows);
  }
  return NewHostStepRunner(model, pool, max_logit_rows);
}

}  // namespace reprise::scheduler
