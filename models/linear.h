// y = W x + b with weights from a checkpoint.
#ifndef REPRISE_MODELS_LINEAR_H_
#define REPRISE_MODELS_LINEAR_H_

#include "absl/status/statusor.h"
#include "kernels/matmul.h"
#include "models/weights.h"

namespace reprise::models {

// Immutable.
class Linear {
 public:
  // A bias that the config does not have is none.
  static absl::StatusOr<Linear> Load(const Weights& weights, WeightId weight, WeightId bias,
                                     int layer, const kernels::Context& context);
  Linear() = default;

  int64_t inputs() const { return int64_t{weight_.blocks()} * weight_.k(); }
  int64_t outputs() const { return int64_t{weight_.blocks()} * weight_.n(); }
  size_t bytes() const { return weight_.bytes() + bias_.size(); }

  // x [num_rows, inputs] -> out [num_rows, outputs], both dense; they must not overlap.
  absl::Status Run(int num_rows, const float* x, float* out, const kernels::Context& context) const;

 private:
  kernels::PackedMatrix weight_;
  kernels::Buffer bias_;  // [outputs] or empty
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_LINEAR_H_
