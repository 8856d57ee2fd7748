#include "kernels/decode_step.h"

#include "kernels/cuda/cuda.h"

namespace reprise::kernels {

bool CanDecode(absl::Span<const DecodeOp> ops, const Context& context) {
  return context.device == Device::kCuda && context.queue != nullptr &&
         cuda::CanDecode(ops, *context.queue);
}

absl::Status Decode(absl::Span<const DecodeOp> ops, const Context& context) {
  if (!CanDecode(ops, context)) {
    return absl::UnimplementedError("Decode: operations or sizes that it does not take");
  }
  return cuda::Decode(ops, *context.queue);
}

}  // namespace reprise::kernels
