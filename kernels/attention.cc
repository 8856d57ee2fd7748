#include "kernels/attention.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate_attention.h"

namespace reprise::kernels {
namespace {

absl::Status ValidateRopeTable(const RopeTableParams& p, const Context& context) {
  internal::Validator v("RopeTable");
  v.AtLeast("rotary_dims", p.rotary_dims, 0)
      .Check(p.rotary_dims % 2 == 0, "rotary_dims", "an even number", absl::StrCat(p.rotary_dims))
      .Positive("theta", p.theta)
      .Rows(p.rows, std::numeric_limits<int>::max(), context);
  if (p.rows.num_rows > 0 && p.rotary_dims > 0) v.Pointer("cos", p.cos).Pointer("sin", p.sin);
  return v.status();
}

absl::Status ValidateRope(const RopeParams& p, const Context& context) {
  internal::Validator v("Rope");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("heads", p.heads, 1)
      .AtLeast("head_dim", p.head_dim, 1)
      .Range("rotary_dims", p.rotary_dims, 0, p.head_dim)
      .Check(p.rotary_dims % 2 == 0, "rotary_dims", "an even number", absl::StrCat(p.rotary_dims))
      .AtLeast("plain_heads", p.plain_heads, 0)
      .AtLeast("x_stride", p.x_stride, (int64_t{p.heads} + p.plain_heads) * p.head_dim);
  if (p.num_rows > 0 && p.rotary_dims > 0) v.Pointer("cos", p.cos).Pointer("sin", p.sin);
  if (context.device == Device::kCuda) {
    v.Pointer("x", p.x)
        .Pointer("out_bf16", p.out_bf16)
        .AtLeast("out_stride", p.out_stride, (int64_t{p.heads} + p.plain_heads) * p.head_dim);
  } else if (p.num_rows > 0 && p.rotary_dims > 0) {
    v.Pointer("x", p.x).Check(p.out_bf16 == nullptr, "out_bf16", "null on the CPU", "a tensor");
  }
  return v.status();
}

absl::Status ValidateWindowAttention(const WindowAttentionParams& p, const Context& context) {
  internal::Validator v("WindowAttention");
  internal::ValidateWindow(v, p, 512, context);
  if (!v.ok()) return v.status();
  const int64_t q_floats = int64_t{p.heads} * p.head_dim;
  const int64_t kv_floats = int64_t{p.kv_heads} * p.head_dim;
  v.AtLeast("q_stride", p.q_stride, q_floats)
      .AtLeast("k_stride", p.k_stride, kv_floats)
      .AtLeast("v_stride", p.v_stride, kv_floats);
  if (!v.ok() || p.rows.num_rows == 0) return v.status();
  v.Either("q", p.q, p.q_bf16, context)
      .Either("k", p.k, p.k_bf16, context)
      .Either("v", p.v, p.v_bf16, context)
      .Either("out", p.out, p.out_bf16, context);
  if (p.num_slots > 0) {
    v.Either("k_ring", p.k_ring, p.k_ring_bf16, context)
        .Either("v_ring", p.v_ring, p.v_ring_bf16, context);
  }
  if (context.device == Device::kCuda) return v.status();
  const internal::Rows2D out{p.out, p.rows.num_rows, q_floats, p.out_stride};
  v.Disjoint("out", out, "q", {p.q, p.rows.num_rows, q_floats, p.q_stride})
      .Disjoint("out", out, "k", {p.k, p.rows.num_rows, kv_floats, p.k_stride})
      .Disjoint("out", out, "v", {p.v, p.rows.num_rows, kv_floats, p.v_stride});
  return v.status();
}

}  // namespace

absl::Status RopeTable(const RopeTableParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("RopeTable", context));
  RETURN_IF_ERROR(ValidateRopeTable(params, context));
  if (params.rows.num_rows == 0 || params.rotary_dims == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::RopeTable(params, *context.queue);
  cpu::RopeTable(params, *context.pool);
  return absl::OkStatus();
}

absl::Status Rope(const RopeParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("Rope", context));
  RETURN_IF_ERROR(ValidateRope(params, context));
  const bool rounds = params.out_bf16 != nullptr;
  if (params.num_rows == 0 || (params.rotary_dims == 0 && !rounds)) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::Rope(params, *context.queue);
  cpu::Rope(params, *context.pool);
  return absl::OkStatus();
}

absl::Status WindowAttention(const WindowAttentionParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("WindowAttention", context));
  RETURN_IF_ERROR(ValidateWindowAttention(params, context));
  if (params.rows.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::WindowAttention(params, *context.queue);
  cpu::WindowAttention(params, *context.pool);
  return absl::OkStatus();
}

}  // namespace reprise::kernels
