// A step's batch where kernels can read it.
#ifndef REPRISE_MODELS_STEP_INPUTS_H_
#define REPRISE_MODELS_STEP_INPUTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"
#include "models/ragged_batch.h"

namespace reprise::models {

// Pointers to the arrays of one batch on the context's device.
struct StepView {
  kernels::RaggedRows rows;
  const int32_t* tokens = nullptr;      // [rows.num_rows]
  const int32_t* logit_rows = nullptr;  // [num_logit_rows]
  int32_t num_logit_rows = 0;
};

// On the CPU a view of the batch itself. On CUDA one pinned buffer and one copy per step; where the
// arrays lie depends on their sizes only, so that a graph recorded for a shape finds the next batch
// of that shape in the same place.
class StepInputs {
 public:
  // `max_rows`: most rows and most sequences of a batch.
  static absl::StatusOr<StepInputs> Create(int max_rows, const kernels::Context& context);
  StepInputs() = default;
  // Of its buffer on the device, and as much beside it.
  static size_t DeviceBytes(int max_rows, kernels::Device device);

  // The batch is valid. On the CPU it must outlive the view; on CUDA the copy is queued, and the
  // call waits until the one before has been read.
  absl::StatusOr<StepView> Stage(const RaggedBatch& batch);

 private:
  kernels::Context context_;
  kernels::PinnedBuffer host_;
  kernels::Buffer device_;
  kernels::DeviceEvent copied_;
  bool in_flight_ = false;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_STEP_INPUTS_H_
