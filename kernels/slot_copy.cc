#include "kernels/slot_copy.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

// A thread's share: large enough for memcpy to stream, small enough to spread one state.
constexpr int64_t kPieceBytes = int64_t{256} << 10;

absl::Status ValidateSlotCopy(const SlotCopyParams& p) {
  internal::Validator v("CopySlots");
  v.AtLeast("num_tensors", p.num_tensors, 0).AtLeast("num_to", p.num_to, 0);
  if (p.num_tensors > 0) v.Pointer("tensors", p.tensors);
  if (p.num_to > 0) v.Pointer("to", p.to);
  v.Check(p.from < 0 || p.image == nullptr, "image", "null beside a source slot", "a tensor");
  return v.status();
}

void CopyPiece(const SlotCopyParams& p, const SlotTensor& tensor, uint64_t offset, size_t bytes) {
  const uint8_t* source = nullptr;
  if (p.from >= 0) source = tensor.data + p.from * tensor.bytes + offset;
  if (p.image != nullptr) source = p.image + tensor.image_offset + offset;
  const auto write = [&](uint8_t* destination) {
    if (source == nullptr) {
      std::memset(destination, 0, bytes);
    } else {
      std::memcpy(destination, source, bytes);
    }
  };
  for (int i = 0; i < p.num_to; ++i) write(tensor.data + p.to[i] * tensor.bytes + offset);
  if (p.image_out != nullptr) write(p.image_out + tensor.image_offset + offset);
}

void CopyOnCpu(const SlotCopyParams& p, ThreadPool& pool) {
  for (int t = 0; t < p.num_tensors; ++t) {
    pool.Run(
        static_cast<int64_t>(p.tensors[t].bytes), kPieceBytes,
        [&](int64_t begin, int64_t end, int) { CopyPiece(p, p.tensors[t], begin, end - begin); });
  }
}

}  // namespace

absl::Status CopySlots(const SlotCopyParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("CopySlots", context));
  RETURN_IF_ERROR(ValidateSlotCopy(params));
  if (context.device == Device::kCuda) return cuda::CopySlots(params, *context.queue);
  CopyOnCpu(params, *context.pool);
  return absl::OkStatus();
}

}  // namespace reprise::kernels
