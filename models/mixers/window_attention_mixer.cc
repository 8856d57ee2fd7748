#include "models/mixers/window_attention_mixer.h"

#include <cmath>

#include "base/status_macros.h"
#include "kernels/attention.h"

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
  ASSIGN_OR_RETURN(mixer->q_, Linear::Load(weights, kQuery, kQueryBias, layer, context));
  ASSIGN_OR_RETURN(mixer->k_, Linear::Load(weights, kKey, kKeyBias, layer, context));
  ASSIGN_OR_RETURN(mixer->v_, Linear::Load(weights, kValue, kValueBias, layer, context));
  ASSIGN_OR_RETURN(mixer->out_,
                   Linear::Load(weights, kAttentionOut, kAttentionOutBias, layer, context));
  return mixer;
}

void WindowAttentionMixer::DeclareState(int layer, StateLayout& layout) {
  keys_index_ = static_cast<int>(layout.tensors().size());
  layout.Add(layer, StateRole::kWindowKeys, kernels::DType::kF32,
             {ring_blocks_, kv_heads_, head_dim_, kernels::kGridTokens});
  values_index_ = static_cast<int>(layout.tensors().size());
  layout.Add(layer, StateRole::kWindowValues, kernels::DType::kF32,
             {ring_blocks_, kv_heads_, kernels::kGridTokens, head_dim_});
}

size_t WindowAttentionMixer::bytes() const {
  return q_.bytes() + k_.bytes() + v_.bytes() + out_.bytes();
}

absl::Status WindowAttentionMixer::Rotate(const MixerStep& step, int heads, float* x) const {
  if (rotary_dims_ == 0) return absl::OkStatus();
  kernels::RopeParams params;
  params.num_rows = step.rows.num_rows;
  params.heads = heads;
  params.head_dim = head_dim_;
  params.rotary_dims = rotary_dims_;
  params.x_stride = int64_t{heads} * head_dim_;
  params.cos = step.scratch->rope_cos.as<float>();
  params.sin = step.scratch->rope_sin.as<float>();
  params.x = x;
  return kernels::Rope(params, step.context);
}

absl::Status WindowAttentionMixer::Attend(const MixerStep& step) const {
  kernels::WindowAttentionParams params;
  params.rows = step.rows;
  params.heads = heads_;
  params.kv_heads = kv_heads_;
  params.head_dim = head_dim_;
  params.window = window_;
  params.ring_blocks = ring_blocks_;
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
  params.q_stride = params.out_stride = q_.outputs();
  params.k_stride = params.v_stride = k_.outputs();
  params.k_slot_stride = step.slots->slot_stride(keys_index_);
  params.v_slot_stride = step.slots->slot_stride(values_index_);
  params.num_slots = step.slots->num_slots();
  params.q = step.scratch->q.as<float>();
  params.k = step.scratch->k.as<float>();
  params.v = step.scratch->v.as<float>();
  params.k_ring = static_cast<float*>(step.slots->tensor(keys_index_));
  params.v_ring = static_cast<float*>(step.slots->tensor(values_index_));
  params.out = step.scratch->attended.as<float>();
  return kernels::WindowAttention(params, step.context);
}

absl::Status WindowAttentionMixer::Run(const MixerStep& step, const float* x, float* out) const {
  const int rows = step.rows.num_rows;
  float* q = step.scratch->q.as<float>();
  float* k = step.scratch->k.as<float>();
  RETURN_IF_ERROR(q_.Run(rows, x, q, step.context));
  RETURN_IF_ERROR(k_.Run(rows, x, k, step.context));
  RETURN_IF_ERROR(v_.Run(rows, x, step.scratch->v.as<float>(), step.context));
  RETURN_IF_ERROR(Rotate(step, heads_, q));
  RETURN_IF_ERROR(Rotate(step, kv_heads_, k));
  RETURN_IF_ERROR(Attend(step));
  return out_.Run(rows, step.scratch->attended.as<float>(), out, step.context);
}

}  // namespace reprise::models
