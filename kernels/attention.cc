#include "kernels/attention.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

absl::Status ValidateRopeTable(const RopeTableParams& p) {
  internal::Validator v("RopeTable");
  v.AtLeast("rotary_dims", p.rotary_dims, 0)
      .Check(p.rotary_dims % 2 == 0, "rotary_dims", "an even number", absl::StrCat(p.rotary_dims))
      .Positive("theta", p.theta)
      .Rows(p.rows, std::numeric_limits<int>::max());
  if (p.rows.num_rows > 0 && p.rotary_dims > 0) v.Pointer("cos", p.cos).Pointer("sin", p.sin);
  return v.status();
}

absl::Status ValidateRope(const RopeParams& p) {
  internal::Validator v("Rope");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("heads", p.heads, 1)
      .AtLeast("head_dim", p.head_dim, 1)
      .Range("rotary_dims", p.rotary_dims, 0, p.head_dim)
      .Check(p.rotary_dims % 2 == 0, "rotary_dims", "an even number", absl::StrCat(p.rotary_dims))
      .AtLeast("x_stride", p.x_stride, int64_t{p.heads} * p.head_dim);
  if (p.num_rows > 0 && p.rotary_dims > 0) {
    v.Pointer("cos", p.cos).Pointer("sin", p.sin).Pointer("x", p.x);
  }
  return v.status();
}

absl::Status ValidateWindowAttention(const WindowAttentionParams& p) {
  internal::Validator v("WindowAttention");
  v.AtLeast("heads", p.heads, 1)
      .Range("kv_heads", p.kv_heads, 1, p.heads)
      .Range("head_dim", p.head_dim, 1, 512)
      .Range("window", p.window, 1, 1 << 30);
  if (!v.ok()) return v.status();
  const int64_t q_floats = int64_t{p.heads} * p.head_dim;
  const int64_t kv_floats = int64_t{p.kv_heads} * p.head_dim;
  v.Check(p.heads % p.kv_heads == 0, "kv_heads", absl::StrCat("a divisor of heads ", p.heads),
          absl::StrCat(p.kv_heads))
      .AtLeast("ring_blocks", p.ring_blocks, WindowBlocks(p.window))
      .Positive("scale", p.scale)
      .AtLeast("q_stride", p.q_stride, q_floats)
      .AtLeast("k_stride", p.k_stride, kv_floats)
      .AtLeast("v_stride", p.v_stride, kv_floats)
      .AtLeast("out_stride", p.out_stride, q_floats)
      .AtLeast("k_slot_stride", p.k_slot_stride, p.ring_blocks * kv_floats * kGridTokens)
      .AtLeast("v_slot_stride", p.v_slot_stride, p.ring_blocks * kv_floats * kGridTokens)
      .Rows(p.rows, p.num_slots);
  if (!v.ok() || p.rows.num_rows == 0) return v.status();
  v.Pointer("q", p.q).Pointer("k", p.k).Pointer("v", p.v).Pointer("out", p.out);
  if (p.num_slots > 0) v.Pointer("k_ring", p.k_ring).Pointer("v_ring", p.v_ring);
  const internal::Rows2D out{p.out, p.rows.num_rows, q_floats, p.out_stride};
  v.Disjoint("out", out, "q", {p.q, p.rows.num_rows, q_floats, p.q_stride})
      .Disjoint("out", out, "k", {p.k, p.rows.num_rows, kv_floats, p.k_stride})
      .Disjoint("out", out, "v", {p.v, p.rows.num_rows, kv_floats, p.v_stride});
  return v.status();
}

}  // namespace

absl::Status RopeTable(const RopeTableParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("RopeTable", context));
  RETURN_IF_ERROR(ValidateRopeTable(params));
  if (params.rows.num_rows == 0 || params.rotary_dims == 0) return absl::OkStatus();
  switch (context.device) {
    case Device::kCpu:
      cpu::RopeTable(params, *context.pool);
      return absl::OkStatus();
    case Device::kCuda:
      break;
  }
  return absl::UnimplementedError("RopeTable: no implementation for this device");
}

absl::Status Rope(const RopeParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("Rope", context));
  RETURN_IF_ERROR(ValidateRope(params));
  if (params.num_rows == 0 || params.rotary_dims == 0) return absl::OkStatus();
  switch (context.device) {
    case Device::kCpu:
      cpu::Rope(params, *context.pool);
      return absl::OkStatus();
    case Device::kCuda:
      break;
  }
  return absl::UnimplementedError("Rope: no implementation for this device");
}

absl::Status WindowAttention(const WindowAttentionParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("WindowAttention", context));
  RETURN_IF_ERROR(ValidateWindowAttention(params));
  if (params.rows.num_rows == 0) return absl::OkStatus();
  switch (context.device) {
    case Device::kCpu:
      cpu::WindowAttention(params, *context.pool);
      return absl::OkStatus();
    case Device::kCuda:
      break;
  }
  return absl::UnimplementedError("WindowAttention: no implementation for this device");
}

}  // namespace reprise::kernels
