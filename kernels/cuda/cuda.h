// The CUDA implementations behind the functions of kernels/*.h. They assume valid params and a
// queue. In a build without CUDA, unavailable.cc answers for them.
#ifndef REPRISE_KERNELS_CUDA_CUDA_H_
#define REPRISE_KERNELS_CUDA_CUDA_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/attention_step.h"
#include "kernels/elementwise.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/recurrence.h"
#include "kernels/recurrent_step.h"
#include "kernels/slot_copy.h"

namespace reprise::kernels::cuda {

// OK in a build with CUDA.
absl::Status Available();

// Zeroed device memory, or RESOURCE_EXHAUSTED.
absl::StatusOr<void*> Allocate(size_t bytes);
void Free(void* data);

// Bytes of a matrix of this shape as PackMatrix writes it to `destination` (device memory), without
// its scales, which go to `scales` where the source asks for them.
size_t PackedBytes(const PackedMatrix::Source& source);
absl::Status PackMatrix(const PackedMatrix::Source& source, void* destination, float* scales,
                        DeviceQueue& queue);
absl::Status MatMul(const MatMulParams& params, DeviceQueue& queue);
// Whether these are one kernel, and that kernel.
bool CanMatMulChain(absl::Span<const MatMulParams> products, const DeviceQueue& queue);
absl::Status MatMulChain(absl::Span<const MatMulParams> products, DeviceQueue& queue);
absl::Status Embedding(const EmbeddingParams& params, DeviceQueue& queue);

absl::Status PickRows(const PickRowsParams& params, DeviceQueue& queue);
absl::Status GatedActivation(const GatedActivationParams& params, DeviceQueue& queue);
absl::Status Softcap(const SoftcapParams& params, DeviceQueue& queue);

absl::Status CausalConv1d(const CausalConv1dParams& params, DeviceQueue& queue);
absl::Status RgLru(const RgLruParams& params, DeviceQueue& queue);
bool CanRecurrentStep(const RecurrentStepParams& params, const DeviceQueue& queue);
absl::Status RecurrentStep(const RecurrentStepParams& params, DeviceQueue& queue);

absl::Status RopeTable(const RopeTableParams& params, DeviceQueue& queue);
absl::Status Rope(const RopeParams& params, DeviceQueue& queue);
absl::Status WindowAttention(const WindowAttentionParams& params, DeviceQueue& queue);
bool CanAttentionStep(const AttentionStepParams& params, const DeviceQueue& queue);
absl::Status AttentionStep(const AttentionStepParams& params, DeviceQueue& queue);

absl::Status CopySlots(const SlotCopyParams& params, DeviceQueue& queue);

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_CUDA_H_
