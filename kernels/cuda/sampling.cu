// Launches the sampling kernel: how many blocks share a row depends on the vocabulary only.
#include <algorithm>

#include "kernels/cuda/sampling.cuh"

namespace reprise::kernels::cuda {
namespace {

// Most logits that one block takes: with SampleShared it must stay under 227 KiB.
constexpr int kMostOfPart = 36864;
static_assert(sizeof(SampleShared) + kMostOfPart * sizeof(float) <= 227 * 1024);

template <int kBlocks, bool kKeep>
absl::Status LaunchRows(const SampleRowsParams& p, DeviceQueue& queue) {
  // A multiple of 4, so that the parts of an aligned row are aligned.
  const int part_size = ((p.vocab_size + kBlocks - 1) / kBlocks + 3) / 4 * 4;
  if (part_size > kMostOfPart) {
    return absl::InvalidArgumentError(absl::StrCat("SampleRows: vocabulary: expected at most ",
                                                   kBlocks * kMostOfPart, ", found ",
                                                   p.vocab_size));
  }
  const size_t shared_bytes = sizeof(SampleShared) + (kKeep ? part_size * sizeof(float) : 0);
  static const cudaError_t allowed = AllowSharedBytes(
      SampleRowsKernel<kBlocks, kKeep>, sizeof(SampleShared) + kMostOfPart * sizeof(float));
  RETURN_IF_ERROR(Check(allowed, "SampleRows: shared memory"));
  return Check(Launch(SampleRowsKernel<kBlocks, kKeep>, p.num_rows * kBlocks, kSampleThreads,
                      shared_bytes, queue, p, part_size),
               "SampleRows[rows ", p.num_rows, ", vocabulary ", p.vocab_size, "]");
}

template <int kBlocks>
absl::Status LaunchRows(const SampleRowsParams& p, DeviceQueue& queue) {
  return p.look_once ? LaunchRows<kBlocks, false>(p, queue) : LaunchRows<kBlocks, true>(p, queue);
}

}  // namespace

absl::Status SampleRows(const SampleRowsParams& params, DeviceQueue& queue) {
  if (params.num_rows == 0) return absl::OkStatus();
  if (params.vocab_size <= 8192) return LaunchRows<1>(params, queue);
  if (params.vocab_size <= 65536) return LaunchRows<4>(params, queue);
  return LaunchRows<8>(params, queue);
}

}  // namespace reprise::kernels::cuda
