#include "models/mixers/window_attention_mixer.h"

#include <cmath>
#include <vector>

#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/attention_step.h"

namespace reprise::models {

WindowAttentionMixer::WindowAttentionMixer(const RecurrentGemmaConfig& config)
    : heads_(config.num_heads),
      kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      rotary_dims_(config.rotary_dims),
      window_(config.window),
      ring_blocks_(kernels::WindowBlocks(config.window)) {}

absl::StatusOr<std::unique_ptr<WindowAttentionMixer>> WindowAttentionMixer::Load(
    const Weights& weights, const RecurrentGemmaConfig& config, int layer,
    const kernels::Context& context) {
  using enum WeightId;
  auto mixer = std::unique_ptr<WindowAttentionMixer>(new WindowAttentionMixer(config));
  ASSIGN_OR_RETURN(
      mixer->qkv_,
      Linear::Load(weights, {{kQuery, kQueryBias}, {kKey, kKeyBias}, {kValue, kValueBias}}, layer,
                   context));
  ASSIGN_OR_RETURN(mixer->out_,
                   Linear::Load(weights, {{kAttentionOut, kAttentionOutBias}}, layer, context));
  return mixer;
}

void WindowAttentionMixer::DeclareState(int layer, StateLayout& layout) {
  const bool cuda = layout.device() == kernels::Device::kCuda;
  const kernels::DType dtype = cuda ? kernels::DType::kBF16 : kernels::DType::kF32;
  const std::vector<int64_t> by_position = {ring_blocks_, kv_heads_, kernels::kGridTokens,
                                            head_dim_};
  const std::vector<int64_t> by_dim = {ring_blocks_, kv_heads_, head_dim_, kernels::kGridTokens};
  keys_index_ = static_cast<int>(layout.tensors().size());
  layout.Add(layer, StateRole::kWindowKeys, dtype, cuda ? by_position : by_dim);
  values_index_ = static_cast<int>(layout.tensors().size());
  layout.Add(layer, StateRole::kWindowValues, dtype, by_position);
}

size_t WindowAttentionMixer::bytes() const { return qkv_.bytes() + out_.bytes(); }

kernels::RopeParams WindowAttentionMixer::Rotation(const MixerStep& step) const {
  kernels::RopeParams params;
  params.num_rows = step.rows.num_rows;
  params.heads = heads_ + kv_heads_;
  params.plain_heads = kv_heads_;
  params.head_dim = head_dim_;
  params.rotary_dims = rotary_dims_;
  params.x_stride = params.out_stride = qkv_.outputs();
  params.cos = step.scratch->rope_cos.as<float>();
  params.sin = step.scratch->rope_sin.as<float>();
  params.x = step.scratch->qkv.as<float>();
  if (step.context.device == kernels::Device::kCuda) {
    params.out_bf16 = step.scratch->rotated.as<kernels::BF16>();
  }
  return params;
}

kernels::WindowAttentionParams WindowAttentionMixer::Attention(const MixerStep& step) const {
  kernels::WindowAttentionParams params;
  params.rows = step.rows;
  params.heads = heads_;
  params.kv_heads = kv_heads_;
  params.head_dim = head_dim_;
  params.window = window_;
  params.ring_blocks = ring_blocks_;
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
  params.q_stride = params.k_stride = params.v_stride = qkv_.outputs();
  params.out_stride = int64_t{heads_} * head_dim_;
  params.k_slot_stride = step.slots->slot_stride(keys_index_);
  params.v_slot_stride = step.slots->slot_stride(values_index_);
  params.num_slots = step.slots->num_slots();
  const int64_t k_at = int64_t{heads_} * head_dim_;
  const int64_t v_at = k_at + int64_t{kv_heads_} * head_dim_;
  void* const k_ring = step.slots->tensor(keys_index_);
  void* const v_ring = step.slots->tensor(values_index_);
  const Operand out = step.scratch->Feed(step.scratch->attended);
  if (step.context.device == kernels::Device::kCuda) {
    const kernels::BF16* qkv = step.scratch->rotated.as<kernels::BF16>();
    params.q_bf16 = qkv;
    params.k_bf16 = qkv + k_at;
    params.v_bf16 = qkv + v_at;
    params.k_ring_bf16 = static_cast<kernels::BF16*>(k_ring);
    params.v_ring_bf16 = static_cast<kernels::BF16*>(v_ring);
    params.out_bf16 = out.bf16;
  } else {
    const float* qkv = step.scratch->qkv.as<float>();
    params.q = qkv;
    params.k = qkv + k_at;
    params.v = qkv + v_at;
    params.k_ring = static_cast<float*>(k_ring);
    params.v_ring = static_cast<float*>(v_ring);
    params.out = out.f32;
  }
  return params;
}

kernels::MatMulParams WindowAttentionMixer::First(const MixerStep& step, const Operand& x) const {
  return qkv_.Product(step.rows.num_rows, x, {.f32 = step.scratch->qkv.as<float>()});
}

absl::Status WindowAttentionMixer::Mix(const MixerStep& step) const {
  const kernels::AttentionStepParams together = {Rotation(step), Attention(step)};
  if (kernels::CanAttentionStep(together, step.context)) {
    return kernels::AttentionStep(together, step.context);
  }
  if (rotary_dims_ != 0 || step.context.device == kernels::Device::kCuda) {
    RETURN_IF_ERROR(kernels::Rope(together.rope, step.context));
  }
  return kernels::WindowAttention(together.attention, step.context);
}

kernels::MatMulParams WindowAttentionMixer::Last(const MixerStep& step, const Sink& out) const {
  return out_.Product(step.rows.num_rows, step.scratch->Feed(step.scratch->attended), out);
}

}  // namespace reprise::models
