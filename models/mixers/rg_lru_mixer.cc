#include "models/mixers/rg_lru_mixer.h"

#include <cmath>
#include <vector>

#include "base/status_macros.h"
#include "kernels/recurrence.h"

namespace reprise::models {
namespace {

// The checkpoint has [width, 1, conv_width]; lanes run along the channels, so each tap is a row
// here.
std::vector<float> TransposedTaps(int width, int conv_width, const std::vector<float>& taps) {
  std::vector<float> out(taps.size());
  for (int c = 0; c < width; ++c) {
    for (int j = 0; j < conv_width; ++j) out[j * width + c] = taps[c * conv_width + j];
  }
  return out;
}

// In double and once, so that the only rounding is the last.
float LogDecayScale(float recurrent_param) {
  const double x = recurrent_param;
  const double softplus = std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
  return static_cast<float>(-8.0 * softplus);
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
  ASSIGN_OR_RETURN(
      mixer->linear_in_,
      Linear::Load(weights, {{kLinearY, kLinearYBias}, {kLinearX, kLinearXBias}}, layer, context));
  ASSIGN_OR_RETURN(
      mixer->gates_,
      Linear::Load(weights, {{kInputGate, kInputGateBias}, {kRecurrentGate, kRecurrentGateBias}},
                   layer, context));
  ASSIGN_OR_RETURN(mixer->linear_out_,
                   Linear::Load(weights, {{kLinearOut, kLinearOutBias}}, layer, context));

  ASSIGN_OR_RETURN(const std::vector<float> taps, weights.HostFloats(kConv, layer));
  ASSIGN_OR_RETURN(
      mixer->conv_weight_,
      UploadFloats(TransposedTaps(config.lru_width, config.conv_width, taps), context));
  ASSIGN_OR_RETURN(mixer->conv_bias_, weights.Floats({kConvBias}, layer, context));
  ASSIGN_OR_RETURN(std::vector<float> decay, weights.HostFloats(kRecurrentParam, layer));
  for (float& value : decay) value = LogDecayScale(value);
  ASSIGN_OR_RETURN(mixer->log_a_scale_, UploadFloats(decay, context));
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
  return linear_in_.bytes() + gates_.bytes() + linear_out_.bytes() + conv_weight_.size() +
         conv_bias_.size() + log_a_scale_.size();
}

kernels::CausalConv1dParams RgLruMixer::Convolution(const MixerStep& step) const {
  kernels::CausalConv1dParams params;
  params.rows = step.rows;
  params.channels = width_;
  params.width = conv_width_;
  params.x_stride = 2 * width_;
  params.out_stride = width_;
  params.num_slots = step.slots->num_slots();
  params.x = step.scratch->lru_in.as<float>() + width_;
  params.weight = conv_weight_.as<float>();
  params.bias = conv_bias_.as<float>();
  if (conv_index_ >= 0) {
    params.state_slot_stride = step.slots->slot_stride(conv_index_);
    params.state = static_cast<float*>(step.slots->tensor(conv_index_));
  }
  params.out = step.scratch->lru_conv.as<float>();
  params.out_bf16 = step.scratch->Feed(step.scratch->lru_conv_in).bf16;
  return params;
}

kernels::RgLruParams RgLruMixer::Recurrence(const MixerStep& step) const {
  kernels::RgLruParams params;
  params.rows = step.rows;
  params.width = width_;
  params.join_activation = activation_;
  params.u_stride = params.out_stride = width_;
  params.gate_stride = params.join_stride = 2 * width_;
  params.state_slot_stride = step.slots->slot_stride(lru_index_);
  params.num_slots = step.slots->num_slots();
  params.u = step.scratch->lru_conv.as<float>();
  params.input_gate = step.scratch->gates.as<float>();
  params.recurrent_gate = step.scratch->gates.as<float>() + width_;
  params.log_a_scale = log_a_scale_.as<float>();
  params.join = step.scratch->lru_in.as<float>();
  params.state = static_cast<float*>(step.slots->tensor(lru_index_));
  const Operand out = step.scratch->Feed(step.scratch->lru_out);
  params.out = out.f32;
  params.out_bf16 = out.bf16;
  return params;
}

kernels::RecurrentStepParams RgLruMixer::Together(const MixerStep& step) const {
  kernels::RecurrentStepParams params;
  params.conv = Convolution(step);
  params.gates.num_rows = step.rows.num_rows;
  gates_.SetWeights(params.gates);
  params.lru = Recurrence(step);
  return params;
}

kernels::MatMulParams RgLruMixer::First(const MixerStep& step, const Operand& x) const {
  return linear_in_.Product(step.rows.num_rows, x, {.f32 = step.scratch->lru_in.as<float>()});
}

absl::Status RgLruMixer::Mix(const MixerStep& step) const {
  const Activations& scratch = *step.scratch;
  const kernels::RecurrentStepParams together = Together(step);
  if (kernels::CanRecurrentStep(together, step.context)) {
    return kernels::RecurrentStep(together, step.context);
  }
  RETURN_IF_ERROR(kernels::CausalConv1d(together.conv, step.context));
  const bool cuda = step.context.device == kernels::Device::kCuda;
  const Operand u = scratch.Feed(cuda ? scratch.lru_conv_in : scratch.lru_conv);
  RETURN_IF_ERROR(kernels::MatMul(
      gates_.Product(step.rows.num_rows, u, {.f32 = scratch.gates.as<float>()}), step.context));
  return kernels::RgLru(together.lru, step.context);
}

kernels::MatMulParams RgLruMixer::Last(const MixerStep& step, const Sink& out) const {
  return linear_out_.Product(step.rows.num_rows, step.scratch->Feed(step.scratch->lru_out), out);
}

}  // namespace reprise::models
