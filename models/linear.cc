#include "models/linear.h"

#include "base/status_macros.h"

namespace reprise::models {

absl::StatusOr<Linear> Linear::Load(const Weights& weights, WeightId weight, WeightId bias,
                                    int layer, const kernels::Context& context) {
  Linear linear;
  ASSIGN_OR_RETURN(linear.weight_, weights.Matrix(weight, layer, context));
  ASSIGN_OR_RETURN(linear.bias_, weights.Floats(bias, layer, context));
  return linear;
}

absl::Status Linear::Run(int num_rows, const float* x, float* out,
                         const kernels::Context& context) const {
  kernels::MatMulParams params;
  params.num_rows = num_rows;
  params.x_stride = inputs();
  params.out_stride = outputs();
  params.x = x;
  params.weight = &weight_;
  params.bias = bias_.size() == 0 ? nullptr : bias_.as<float>();
  params.out = out;
  return kernels::MatMul(params, context);
}

}  // namespace reprise::models
