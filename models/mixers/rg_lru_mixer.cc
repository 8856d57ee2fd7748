#include "models/mixers/rg_lru_mixer.h"

#include <cmath>

#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "kernels/recurrence.h"

namespace reprise::models {
namespace {

// The checkpoint has [width, 1, conv_width]; lanes run along the channels, so each tap is a row
// here.
void TransposeTaps(int width, int conv_width, const float* in, float* out) {
  for (int c = 0; c < width; ++c) {
    for (int j = 0; j < conv_width; ++j) out[j * width + c] = in[c * conv_width + j];
  }
}

// In double and once, so that the only rounding is the last.
void LogDecayScale(int width, float* recurrent_param) {
  for (int c = 0; c < width; ++c) {
    const double x = recurrent_param[c];
    const double softplus = std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
    recurrent_param[c] = static_cast<float>(-8.0 * softplus);
  }
}

}  // namespace

RgLruMixer::RgLruMixer(const RecurrentGemmaConfig& config)
    : width_(config.lru_width), conv_width_(config.conv_width), activation_(config.activation) {}

absl::StatusOr<std::unique_ptr<RgLruMixer>> RgLruMixer::Load(const Weights& weights,
                                                             const RecurrentGemmaConfig& config,
                                                             int layer,
                                                             const kernels::Context& context) {
  using enum WeightId;
  auto mixer = std::unique_ptr<RgLruMixer>(new RgLruMixer(config));
  const auto linear = [&](WeightId weight, WeightId bias, Linear& out) -> absl::Status {
    ASSIGN_OR_RETURN(out, Linear::Load(weights, weight, bias, layer, context));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(linear(kLinearX, kLinearXBias, mixer->linear_x_));
  RETURN_IF_ERROR(linear(kLinearY, kLinearYBias, mixer->linear_y_));
  RETURN_IF_ERROR(linear(kLinearOut, kLinearOutBias, mixer->linear_out_));
  RETURN_IF_ERROR(linear(kInputGate, kInputGateBias, mixer->input_gate_));
  RETURN_IF_ERROR(linear(kRecurrentGate, kRecurrentGateBias, mixer->recurrent_gate_));

  ASSIGN_OR_RETURN(const kernels::Buffer taps, weights.Floats(kConv, layer, context));
  ASSIGN_OR_RETURN(mixer->conv_weight_, kernels::Buffer::Allocate(context.device, taps.size()));
  TransposeTaps(config.lru_width, config.conv_width, taps.as<float>(),
                mixer->conv_weight_.as<float>());
  ASSIGN_OR_RETURN(mixer->conv_bias_, weights.Floats(kConvBias, layer, context));
  ASSIGN_OR_RETURN(mixer->log_a_scale_, weights.Floats(kRecurrentParam, layer, context));
  LogDecayScale(config.lru_width, mixer->log_a_scale_.as<float>());
  return mixer;
}

void RgLruMixer::DeclareState(int layer, StateLayout& layout) {
  if (conv_width_ > 1) {
    conv_index_ = static_cast<int>(layout.tensors().size());
    layout.Add(layer, StateRole::kConvTail, kernels::DType::kF32, {conv_width_ - 1, width_});
  }
  lru_index_ = static_cast<int>(layout.tensors().size());
  layout.Add(layer, StateRole::kRgLru, kernels::DType::kF32, {3, width_});
}

size_t RgLruMixer::bytes() const {
  return linear_x_.bytes() + linear_y_.bytes() + linear_out_.bytes() + input_gate_.bytes() +
         recurrent_gate_.bytes() + conv_weight_.size() + conv_bias_.size() + log_a_scale_.size();
}

absl::Status RgLruMixer::Convolve(const MixerStep& step) const {
  kernels::CausalConv1dParams params;
  params.rows = step.rows;
  params.channels = width_;
  params.width = conv_width_;
  params.x_stride = params.out_stride = width_;
  params.num_slots = step.slots->num_slots();
  params.x = step.scratch->lru_x.as<float>();
  params.weight = conv_weight_.as<float>();
  params.bias = conv_bias_.as<float>();
  if (conv_index_ >= 0) {
    params.state_slot_stride = step.slots->slot_stride(conv_index_);
    params.state = static_cast<float*>(step.slots->tensor(conv_index_));
  }
  params.out = step.scratch->lru_conv.as<float>();
  return kernels::CausalConv1d(params, step.context);
}

absl::Status RgLruMixer::Recur(const MixerStep& step) const {
  kernels::RgLruParams params;
  params.rows = step.rows;
  params.width = width_;
  params.u_stride = params.gate_stride = params.out_stride = width_;
  params.state_slot_stride = step.slots->slot_stride(lru_index_);
  params.num_slots = step.slots->num_slots();
  params.u = step.scratch->lru_conv.as<float>();
  params.input_gate = step.scratch->input_gate.as<float>();
  params.recurrent_gate = step.scratch->recurrent_gate.as<float>();
  params.log_a_scale = log_a_scale_.as<float>();
  params.state = static_cast<float*>(step.slots->tensor(lru_index_));
  params.out = step.scratch->lru_conv.as<float>();
  return kernels::RgLru(params, step.context);
}

absl::Status RgLruMixer::Run(const MixerStep& step, const float* x, float* out) const {
  const int rows = step.rows.num_rows;
  float* y = step.scratch->lru_y.as<float>();
  float* u = step.scratch->lru_conv.as<float>();
  RETURN_IF_ERROR(linear_y_.Run(rows, x, y, step.context));
  RETURN_IF_ERROR(linear_x_.Run(rows, x, step.scratch->lru_x.as<float>(), step.context));
  RETURN_IF_ERROR(Convolve(step));
  RETURN_IF_ERROR(input_gate_.Run(rows, u, step.scratch->input_gate.as<float>(), step.context));
  RETURN_IF_ERROR(
      recurrent_gate_.Run(rows, u, step.scratch->recurrent_gate.as<float>(), step.context));
  RETURN_IF_ERROR(Recur(step));

  kernels::GatedActivationParams join;
  join.activation = activation_;
  join.num_rows = rows;
  join.dim = width_;
  join.gate_stride = join.up_stride = join.out_stride = width_;
  join.gate = y;
  join.up = u;
  join.out = y;
  RETURN_IF_ERROR(kernels::GatedActivation(join, step.context));
  return linear_out_.Run(rows, y, out, step.context);
}

}  // namespace reprise::models
