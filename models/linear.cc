#include "models/linear.h"

#include <vector>

#include "base/status_macros.h"

namespace reprise::models {

absl::StatusOr<Linear> Linear::Load(const Weights& weights,
                                    std::initializer_list<LinearNames> layers, int layer,
                                    const kernels::Context& context, bool gated) {
  std::vector<WeightId> matrices, biases;
  for (const LinearNames& names : layers) {
    matrices.push_back(names.weight);
    biases.push_back(names.bias);
  }
  Linear linear;
  ASSIGN_OR_RETURN(linear.weight_, weights.Matrix(matrices, layer, context, gated));
  ASSIGN_OR_RETURN(linear.bias_, weights.Floats(biases, layer, context));
  return linear;
}

void Linear::SetWeights(kernels::MatMulParams& params) const {
  params.out_stride = outputs();
  params.weight = &weight_;
  params.bias = bias_.size() == 0 ? nullptr : bias_.as<float>();
}

kernels::MatMulParams Linear::Product(int num_rows, const Operand& x, const Sink& out,
                                      int64_t x_stride, kernels::Activation activation) const {
  kernels::MatMulParams params;
  params.num_rows = num_rows;
  params.x_stride = x_stride == 0 ? inputs() : x_stride;
  params.x = x.f32;
  params.x_bf16 = x.bf16;
  params.norm = x.norm;
  params.activation = activation;
  SetWeights(params);
  params.out = out.f32;
  params.out_bf16 = out.bf16;
  params.residual = out.residual;
  return params;
}

}  // namespace reprise::models
