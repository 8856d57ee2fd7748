// Runs one planned batch and answers each row that wants a token. The only place that sees logits:
// on a device that samples by itself they need not leave it.
#ifndef REPRISE_SCHEDULER_INTERNAL_STEP_RUNNER_H_
#define REPRISE_SCHEDULER_INTERNAL_STEP_RUNNER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device_sampling.h"
#include "kernels/sampling.h"
#include "models/hybrid_model.h"

namespace reprise::scheduler {

using kernels::RowRequest;

class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // Whether the step runs between Begin and End, so that the thread may do something else then.
  virtual bool runs_beside_host() const = 0;

  // Forward over `batch`; requests[i] belongs to batch.logit_rows[i]. All arguments stay as they
  // are until End. A failed status says that the step as a whole failed, and there is no End; the
  // states of its sequences are then unknown.
  virtual absl::Status Begin(const models::RaggedBatch& batch, models::StateSlots& slots,
                             absl::Span<const RowRequest> requests) = 0;
  // After a Begin that succeeded. (*results)[i] answers requests[i]: a token, or INTERNAL when that
  // row's logits are not finite. A failed status means what it means for Begin.
  virtual absl::Status End(std::vector<absl::StatusOr<kernels::SampledToken>>* results) = 0;
};

// Logits come to the host, at most `max_logit_rows` at once; their rows are spread over `pool`,
// which may be null. Both pointers are borrowed.
std::unique_ptr<StepRunner> NewHostStepRunner(models::HybridModel* model, kernels::ThreadPool* pool,
                                              int max_logit_rows);

// Samples on the model's device, which must be CUDA: logits stay there. Borrows `model`. Errors as
// kernels::DeviceSampler::Create.
absl::StatusOr<std::unique_ptr<StepRunner>> NewDeviceStepRunner(models::HybridModel* model,
                                                                int max_logit_rows);

// The one that suits the model: on CUDA the second, unless its vocabulary is too long for that.
absl::StatusOr<std::unique_ptr<StepRunner>> NewStepRunner(models::HybridModel* model,
                                                          kernels::ThreadPool* pool,
                                                          int max_logit_rows);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_INTERNAL_STEP_RUNNER_H_
