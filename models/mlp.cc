#include "models/mlp.h"

#include "base/status_macros.h"

namespace reprise::models {

absl::StatusOr<GatedMlp> GatedMlp::Load(const Weights& weights, const RecurrentGemmaConfig& config,
                                        int layer, const kernels::Context& context) {
  using enum WeightId;
  GatedMlp mlp;
  mlp.activation_ = config.activation;
  const bool gated = context.device == kernels::Device::kCuda;
  ASSIGN_OR_RETURN(mlp.gate_up_,
                   Linear::Load(weights, {{kMlpGate, kMlpGateBias}, {kMlpUp, kMlpUpBias}}, layer,
                                context, gated));
  ASSIGN_OR_RETURN(mlp.down_, Linear::Load(weights, {{kMlpDown, kMlpDownBias}}, layer, context));
  return mlp;
}

absl::Status GatedMlp::Run(int num_rows, const Operand& x, const Sink& out,
                           const Activations& scratch, const kernels::Context& context) const {
  const Operand inner = scratch.Feed(scratch.mlp);
  RETURN_IF_ERROR(kernels::MatMul(gate_up_.Product(num_rows, x, {.f32 = inner.f32}), context));
  const int64_t width = down_.inputs();
  kernels::GatedActivationParams params;
  params.activation = activation_;
  params.num_rows = num_rows;
  params.dim = static_cast<int>(width);
  params.gate_stride = params.up_stride = params.out_stride = 2 * width;
  params.gate = inner.f32;
  params.up = inner.f32 + width;
  params.out = inner.f32;
  RETURN_IF_ERROR(kernels::GatedActivation(params, context));
  return kernels::MatMul(down_.Product(num_rows, inner, out, 2 * width), context);
}

std::array<kernels::MatMulParams, 2> GatedMlp::Products(int num_rows, const Operand& x,
                                                        const Sink& out,
                                                        const Activations& scratch) const {
  const Operand inner = scratch.Feed(scratch.mlp);
  return {gate_up_.Product(num_rows, x, {.bf16 = inner.bf16}, 0, activation_),
          down_.Product(num_rows, inner, out)};
}

}  // namespace reprise::models
