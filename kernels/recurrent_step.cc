#include "kernels/recurrent_step.h"

#include "base/status_macros.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

absl::Status Validate(const RecurrentStepParams& params, const Context& context) {
  const CausalConv1dParams& conv = params.conv;
  const RgLruParams& lru = params.lru;
  const RaggedRows& rows = lru.rows;
  internal::Validator v("RecurrentStep");
  v.AtLeast("width", lru.width, 1)
      .Range("conv.width", conv.width, 1, 8)
      .AtLeast("conv.x_stride", conv.x_stride, conv.channels)
      .AtLeast("conv.state_slot_stride", conv.state_slot_stride,
               (int64_t{conv.width} - 1) * conv.channels)
      .AtLeast("join_stride", lru.join_stride, lru.width)
      .AtLeast("out_stride", lru.out_stride, lru.width)
      .AtLeast("state_slot_stride", lru.state_slot_stride, int64_t{3} * lru.width)
      .Range("join_activation", static_cast<int>(lru.join_activation), 0,
             static_cast<int>(Activation::kRelu))
      .Rows(rows, lru.num_slots, context)
      .Check(conv.rows.num_rows == rows.num_rows && conv.rows.slots == rows.slots &&
                 conv.rows.start_positions == rows.start_positions &&
                 params.gates.num_rows == rows.num_rows,
             "rows", "the same of all operations", "others");
  if (!v.ok() || rows.num_rows == 0) return v.status();
  v.Pointer("conv.x", conv.x)
      .Pointer("conv.weight", conv.weight)
      .Pointer("gates.weight", params.gates.weight)
      .Pointer("log_a_scale", lru.log_a_scale)
      .Pointer("out_bf16", lru.out_bf16);
  if (conv.width > 1 && conv.num_slots > 0) v.Pointer("conv.state", conv.state);
  if (lru.num_slots > 0) v.Pointer("state", lru.state);
  const internal::Rows2D out = {lru.out_bf16, rows.num_rows, lru.width, lru.out_stride,
                                sizeof(BF16)};
  v.Disjoint("out_bf16", out, "conv.x", {conv.x, rows.num_rows, conv.channels, conv.x_stride})
      .Disjoint("out_bf16", out, "join", {lru.join, rows.num_rows, lru.width, lru.join_stride});
  return v.status();
}

}  // namespace

bool CanRecurrentStep(const RecurrentStepParams& params, const Context& context) {
  return context.device == Device::kCuda && context.queue != nullptr &&
         cuda::CanRecurrentStep(params, *context.queue);
}

absl::Status RecurrentStep(const RecurrentStepParams& params, const Context& context) {
  if (context.device != Device::kCuda) {
    return absl::UnimplementedError("RecurrentStep: a device other than CUDA");
  }
  RETURN_IF_ERROR(internal::ValidateContext("RecurrentStep", context));
  RETURN_IF_ERROR(Validate(params, context));
  if (params.lru.rows.num_rows == 0) return absl::OkStatus();
  if (!CanRecurrentStep(params, context)) {
    return absl::UnimplementedError("RecurrentStep: rows, sizes or strides that it does not take");
  }
  return cuda::RecurrentStep(params, *context.queue);
}

}  // namespace reprise::kernels
