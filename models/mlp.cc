#include "models/mlp.h"

#include "base/status_macros.h"

namespace reprise::models {

absl::StatusOr<GatedMlp> GatedMlp::Load(const Weights& weights, const RecurrentGemmaConfig& config,
                                        int layer, const kernels::Context& context) {
  using enum WeightId;
  GatedMlp mlp;
  mlp.activation_ = config.activation;
  ASSIGN_OR_RETURN(mlp.gate_, Linear::Load(weights, kMlpGate, kMlpGateBias, layer, context));
  ASSIGN_OR_RETURN(mlp.up_, Linear::Load(weights, kMlpUp, kMlpUpBias, layer, context));
  ASSIGN_OR_RETURN(mlp.down_, Linear::Load(weights, kMlpDown, kMlpDownBias, layer, context));
  return mlp;
}

absl::Status GatedMlp::Run(int num_rows, const float* x, float* out, const Activations& scratch,
                           const kernels::Context& context) const {
  float* gate = scratch.mlp_gate.as<float>();
  float* up = scratch.mlp_up.as<float>();
  RETURN_IF_ERROR(gate_.Run(num_rows, x, gate, context));
  RETURN_IF_ERROR(up_.Run(num_rows, x, up, context));

  kernels::GatedActivationParams params;
  params.activation = activation_;
  params.num_rows = num_rows;
  params.dim = static_cast<int>(gate_.outputs());
  params.gate_stride = params.up_stride = params.out_stride = params.dim;
  params.gate = gate;
  params.up = up;
  params.out = gate;
  RETURN_IF_ERROR(kernels::GatedActivation(params, context));
  return down_.Run(num_rows, gate, out, context);
}

}  // namespace reprise::models
