#include "kernels/elementwise.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

absl::Status ValidateRmsNorm(const RmsNormParams& p, const Context& context) {
  internal::Validator v("RmsNorm");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("dim", p.dim, 1)
      .Positive("eps", p.eps, /*zero_allowed=*/true)
      .Check(context.device == Device::kCpu, "device", "the CPU (on CUDA norms are of products)",
             "CUDA");
  if (p.num_rows > 0 && v.ok()) {
    v.Pointer("x", p.x);
    if (p.out != nullptr) v.Pointer("weight", p.weight);
    int64_t x_rows = p.num_rows;
    if (p.row_ids != nullptr) {
      x_rows = 0;
      for (int r = 0; r < p.num_rows && v.ok(); ++r) {
        v.AtLeast(absl::StrCat("row_ids[", r, "]"), p.row_ids[r], 0);
        x_rows = std::max<int64_t>(x_rows, int64_t{p.row_ids[r]} + 1);
      }
    }
    const internal::Rows2D out{p.out, p.num_rows, p.dim, p.dim};
    v.Disjoint("out", out, "x", {p.x, x_rows, p.dim, p.dim})
        .Disjoint("out", out, "delta", {p.delta, x_rows, p.dim, p.dim});
  }
  return v.status();
}

absl::Status ValidateGatedActivation(const GatedActivationParams& p) {
  internal::Validator v("GatedActivation");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("dim", p.dim, 1)
      .AtLeast("gate_stride", p.gate_stride, p.dim)
      .AtLeast("up_stride", p.up_stride, p.dim)
      .AtLeast("out_stride", p.out_stride, p.dim)
      .Range("activation", static_cast<int>(p.activation), 0, static_cast<int>(Activation::kRelu));
  if (p.num_rows > 0) v.Pointer("gate", p.gate).Pointer("up", p.up).Pointer("out", p.out);
  return v.status();
}

absl::Status ValidatePickRows(const PickRowsParams& p, const Context& context) {
  internal::Validator v("PickRows");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("dim", p.dim, 1)
      .Check(context.device == Device::kCuda, "device", "CUDA", "the CPU");
  if (p.num_rows > 0) {
    v.Pointer("row_ids", p.row_ids)
        .Pointer("weighted", p.weighted)
        .Pointer("squares", p.squares)
        .Pointer("out_weighted", p.out_weighted)
        .Pointer("out_squares", p.out_squares);
  }
  return v.status();
}

absl::Status ValidateSoftcap(const SoftcapParams& p) {
  internal::Validator v("Softcap");
  v.AtLeast("num_rows", p.num_rows, 0).AtLeast("dim", p.dim, 1).Positive("cap", p.cap);
  if (p.num_rows > 0) v.Pointer("x", p.x);
  return v.status();
}

}  // namespace

absl::Status RmsNorm(const RmsNormParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("RmsNorm", context));
  RETURN_IF_ERROR(ValidateRmsNorm(params, context));
  if (params.num_rows == 0) return absl::OkStatus();
  cpu::RmsNorm(params, *context.pool);
  return absl::OkStatus();
}

absl::Status PickRows(const PickRowsParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("PickRows", context));
  RETURN_IF_ERROR(ValidatePickRows(params, context));
  if (params.num_rows == 0) return absl::OkStatus();
  return cuda::PickRows(params, *context.queue);
}

absl::Status GatedActivation(const GatedActivationParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("GatedActivation", context));
  RETURN_IF_ERROR(ValidateGatedActivation(params));
  if (params.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::GatedActivation(params, *context.queue);
  cpu::GatedActivation(params, *context.pool);
  return absl::OkStatus();
}

absl::Status Softcap(const SoftcapParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("Softcap", context));
  RETURN_IF_ERROR(ValidateSoftcap(params));
  if (params.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::Softcap(params, *context.queue);
  cpu::Softcap(params, *context.pool);
  return absl::OkStatus();
}

}  // namespace reprise::kernels
