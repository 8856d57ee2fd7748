#include "kernels/attention_step.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate_attention.h"

namespace reprise::kernels {
namespace {

absl::Status Validate(const AttentionStepParams& params, const Context& context) {
  const RopeParams& rope = params.rope;
  const WindowAttentionParams& p = params.attention;
  internal::Validator v("AttentionStep");
  internal::ValidateWindow(v, p, 256, context);
  if (!v.ok()) return v.status();
  const int64_t q_elements = int64_t{p.heads} * p.head_dim;
  const int64_t kv_elements = int64_t{p.kv_heads} * p.head_dim;
  v.Check(rope.num_rows == p.rows.num_rows && rope.heads == p.heads + p.kv_heads &&
              rope.plain_heads == p.kv_heads && rope.head_dim == p.head_dim,
          "rope", "the attention's rows and heads", "others")
      .Range("rotary_dims", rope.rotary_dims, 0, p.head_dim)
      .Check(rope.rotary_dims % 2 == 0, "rotary_dims", "an even number",
             absl::StrCat(rope.rotary_dims))
      .AtLeast("x_stride", rope.x_stride, q_elements + 2 * kv_elements);
  if (!v.ok() || p.rows.num_rows == 0) return v.status();
  v.Pointer("x", rope.x).Pointer("out_bf16", p.out_bf16);
  if (rope.rotary_dims > 0) v.Pointer("cos", rope.cos).Pointer("sin", rope.sin);
  if (p.num_slots > 0) {
    v.Pointer("k_ring_bf16", p.k_ring_bf16).Pointer("v_ring_bf16", p.v_ring_bf16);
  }
  v.Disjoint("out_bf16", {p.out_bf16, p.rows.num_rows, q_elements, p.out_stride, sizeof(BF16)}, "x",
             {rope.x, p.rows.num_rows, q_elements + 2 * kv_elements, rope.x_stride});
  return v.status();
}

}  // namespace

bool CanAttentionStep(const AttentionStepParams& params, const Context& context) {
  return context.device == Device::kCuda && context.queue != nullptr &&
         cuda::CanAttentionStep(params, *context.queue);
}

absl::Status AttentionStep(const AttentionStepParams& params, const Context& context) {
  if (context.device != Device::kCuda) {
    return absl::UnimplementedError("AttentionStep: a device other than CUDA");
  }
  RETURN_IF_ERROR(internal::ValidateContext("AttentionStep", context));
  RETURN_IF_ERROR(Validate(params, context));
  if (params.attention.rows.num_rows == 0) return absl::OkStatus();
  if (!CanAttentionStep(params, context)) {
    return absl::UnimplementedError("AttentionStep: rows, sizes or strides that it does not take");
  }
  return cuda::AttentionStep(params, *context.queue);
}

}  // namespace reprise::kernels
