// Moving whole states between slots, and between a slot and a contiguous image.
#ifndef REPRISE_KERNELS_SLOT_COPY_H_
#define REPRISE_KERNELS_SLOT_COPY_H_

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace reprise::kernels {

// One state tensor of a slot pool: an array of `bytes` per slot, and where it lies in an image.
struct SlotTensor {
  uint8_t* data = nullptr;  // [num_slots, bytes]
  uint64_t bytes = 0;
  uint64_t image_offset = 0;
};

// For example: zeroes a slot (num_to 1), forks one onto many, gathers one into an image.
//
// Copies the state of slot `from`, or `image`, or zeros (from < 0 and no image), to every slot of
// `to`, or to `image_out`: one pass over all tensors whatever their number.
struct SlotCopyParams {
  int num_tensors = 0;
  int num_to = 0;
  int from = -1;
  uint64_t largest_bytes = 0;           // of the largest tensor
  const SlotTensor* tensors = nullptr;  // [num_tensors]; on CUDA bytes and offsets in 16s
  const int32_t* to = nullptr;          // [num_to] on the host, none of them `from`
  const uint8_t* image = nullptr;       // source instead of a slot
  uint8_t* image_out = nullptr;         // destination beside `to`
};
absl::Status CopySlots(const SlotCopyParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_SLOT_COPY_H_
