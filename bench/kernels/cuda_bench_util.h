// What the benchmarks of CUDA kernels share: memory with random content, time per call, and the
// ceiling, the bandwidth of a copy. Plain programs, so that they run where nothing is installed.
#ifndef REPRISE_BENCH_KERNELS_CUDA_BENCH_UTIL_H_
#define REPRISE_BENCH_KERNELS_CUDA_BENCH_UTIL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"

namespace reprise::kernels::bench {

class CudaBench {
 public:
  // Prints the device and its copy bandwidth; ends the process when there is none.
  CudaBench();

  Context context() const { return {Device::kCuda, nullptr, queue_.get()}; }
  DeviceQueue& queue() { return *queue_; }

  // Random numbers in [-1, 1). Memory lives as long as the bench.
  float* Floats(size_t count);
  BF16* Rounded(size_t count);
  float* Zeros(size_t count);
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    return static_cast<T*>(UploadBytes(values.data(), values.size() * sizeof(T)));
  }

  // `seqs` sequences of `rows` rows each from position `start`, in slots first_slot, +1, ...
  RaggedRows Rows(int seqs, int rows, int64_t start, int first_slot = 0);

  // Microseconds of a call: the best of some replays of a graph of call(0) .. call(calls - 1).
  // Calls should use different memory, more in all than the L2 cache holds (50 MB).
  double Microseconds(int calls, const std::function<absl::Status(int)>& call);

  // Prints a line: time, and the share of the copy's bandwidth or, given operations, their rate.
  void Report(const std::string& name, double microseconds, double bytes, double operations = 0.0);

 private:
  void* UploadBytes(const void* data, size_t bytes);
  void* Allocate(size_t bytes);
  void* Random(const std::vector<uint8_t>& block, size_t bytes);

  std::unique_ptr<DeviceQueue> queue_;
  std::vector<Buffer> buffers_;
  std::vector<uint8_t> float_block_, rounded_block_;
  double copy_bytes_per_second_ = 0.0;
};

}  // namespace reprise::kernels::bench

#endif  // REPRISE_BENCH_KERNELS_CUDA_BENCH_UTIL_H_
