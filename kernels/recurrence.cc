#include "kernels/recurrence.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

absl::Status ValidateCausalConv1d(const CausalConv1dParams& p, const Context& context) {
  internal::Validator v("CausalConv1d");
  const int64_t state_floats = (int64_t{p.width} - 1) * p.channels;
  v.AtLeast("channels", p.channels, 1)
      .Range("width", p.width, 1, 8)
      .AtLeast("x_stride", p.x_stride, p.channels)
      .AtLeast("out_stride", p.out_stride, p.channels)
      .AtLeast("state_slot_stride", p.state_slot_stride, state_floats)
      .Rows(p.rows, p.num_slots, context);
  if (!v.ok() || p.rows.num_rows == 0) return v.status();
  v.Pointer("x", p.x).Pointer("weight", p.weight).Pointer("out", p.out);
  v.Check(p.out_bf16 == nullptr || context.device == Device::kCuda, "out_bf16", "null on the CPU",
          "a tensor");
  if (p.width > 1 && p.num_slots > 0) v.Pointer("state", p.state);
  v.Disjoint("out", {p.out, p.rows.num_rows, p.channels, p.out_stride}, "x",
             {p.x, p.rows.num_rows, p.channels, p.x_stride});
  return v.status();
}

absl::Status ValidateRgLru(const RgLruParams& p, const Context& context) {
  internal::Validator v("RgLru");
  v.AtLeast("width", p.width, 1)
      .AtLeast("u_stride", p.u_stride, p.width)
      .AtLeast("gate_stride", p.gate_stride, p.width)
      .AtLeast("out_stride", p.out_stride, p.width)
      .AtLeast("state_slot_stride", p.state_slot_stride, int64_t{3} * p.width)
      .Rows(p.rows, p.num_slots, context);
  if (!v.ok() || p.rows.num_rows == 0) return v.status();
  v.Pointer("u", p.u)
      .Pointer("input_gate", p.input_gate)
      .Pointer("recurrent_gate", p.recurrent_gate)
      .Pointer("log_a_scale", p.log_a_scale)
      .Either("out", p.out, p.out_bf16, context);
  if (p.join != nullptr) {
    v.AtLeast("join_stride", p.join_stride, p.width)
        .Range("join_activation", static_cast<int>(p.join_activation), 0,
               static_cast<int>(Activation::kRelu));
  }
  if (p.num_slots > 0) v.Pointer("state", p.state);
  return v.status();
}

}  // namespace

absl::Status CausalConv1d(const CausalConv1dParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("CausalConv1d", context));
  RETURN_IF_ERROR(ValidateCausalConv1d(params, context));
  if (params.rows.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::CausalConv1d(params, *context.queue);
  cpu::CausalConv1d(params, *context.pool);
  return absl::OkStatus();
}

absl::Status RgLru(const RgLruParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("RgLru", context));
  RETURN_IF_ERROR(ValidateRgLru(params, context));
  if (params.rows.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::RgLru(params, *context.queue);
  cpu::RgLru(params, *context.pool);
  if (params.join == nullptr) return absl::OkStatus();
  GatedActivationParams join;
  join.activation = params.join_activation;
  join.num_rows = params.rows.num_rows;
  join.dim = params.width;
  join.gate_stride = params.join_stride;
  join.up_stride = join.out_stride = params.out_stride;
  join.gate = params.join;
  join.up = join.out = params.out;
  cpu::GatedActivation(join, *context.pool);
  return absl::OkStatus();
}

}  // namespace reprise::kernels
