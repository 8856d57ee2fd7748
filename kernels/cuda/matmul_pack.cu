#include "kernels/cuda/cuda.h"

namespace reprise::kernels::cuda {

size_t PackedBytes(const PackedMatrix::Source&) { return 0; }
absl::Status PackMatrix(const PackedMatrix::Source&, void*, DeviceQueue&) {
  return absl::UnimplementedError("PackMatrix: not on CUDA yet");
}

}  // namespace reprise::kernels::cuda
