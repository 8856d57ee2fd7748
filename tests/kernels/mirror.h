// Host vectors as a device's kernels see them, so that one test case runs on every device.
#ifndef REPRISE_TESTS_KERNELS_MIRROR_H_
#define REPRISE_TESTS_KERNELS_MIRROR_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"

namespace reprise::kernels {

// Rounds to the nearest bfloat16, ties to even; finite numbers only.
inline BF16 RoundToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fff + (bits >> 16 & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}

inline float Widen(BF16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

// Lends the memory of host vectors to one call of a kernel: on the CPU as it is, on CUDA through
// copies. In: read. InOut: read, and written back by Finish. The vectors must outlive Finish.
//   Mirror mirror(context);
//   params.x = mirror.In(x);  params.out = mirror.InOut(out);
//   status = mirror.Call([&] { return Op(params, context); });
//   status.Update(mirror.Finish());
// The copies lie in one piece of device memory that all Mirrors of a process share; with
// REPRISE_EXACT_BUFFERS set in the environment each has an allocation of its own, for tools that
// look for accesses out of bounds.
class Mirror {
 public:
  explicit Mirror(const Context& context);
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  template <typename T>
  T* In(const std::vector<T>& values) {
    return static_cast<T*>(Lend(values.data(), values.size() * sizeof(T), nullptr));
  }
  template <typename T>
  T* InOut(std::vector<T>& values) {
    return static_cast<T*>(Lend(values.data(), values.size() * sizeof(T), values.data()));
  }
  template <typename T>
  T* InOut(T* values, size_t count) {
    return static_cast<T*>(Lend(values, count * sizeof(T), values));
  }
  // Rounded copies, whatever the device.
  BF16* InRounded(const std::vector<float>& values) {
    rounded_.emplace_back();
    for (const float value : values) rounded_.back().push_back(RoundToBf16(value));
    return In(rounded_.back());
  }
  // bf16 on the device; Finish widens it into `values`.
  BF16* InOutRounded(float* values, size_t count) {
    rounded_.emplace_back();
    for (size_t i = 0; i < count; ++i) rounded_.back().push_back(RoundToBf16(values[i]));
    widened_.push_back({&rounded_.back(), values});
    return InOut(rounded_.back());
  }
  // Memory that is a state, of whatever type the device has it in.
  void* InOutBytes(void* data, size_t bytes) { return Lend(data, bytes, data); }
  // Runs `op`: at once, or as a recorded graph while a ScopedGraphs lives (CUDA only).
  absl::Status Call(const std::function<absl::Status()>& op);
  // The step's rows with what CUDA wants beside them.
  RaggedRows Rows(const RaggedRows& rows);

  // Waits, copies back and reports the first error of all.
  absl::Status Finish();

 private:
  struct Copy {
    Buffer buffer;
    void* device = nullptr;
    void* back = nullptr;
    size_t bytes = 0;
  };
  absl::StatusOr<Copy> Allocate(size_t bytes) const;
  void* Lend(const void* data, size_t bytes, void* back);

  Context context_;
  absl::Status status_;
  std::vector<Copy> copies_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> ints_;
  std::vector<std::unique_ptr<std::vector<int64_t>>> longs_;
  std::list<std::vector<BF16>> rounded_;
  std::vector<std::pair<std::vector<BF16>*, float*>> widened_;
};

class ScopedGraphs {
 public:
  ScopedGraphs();
  ~ScopedGraphs();
};

// The test's queue on the CUDA device, or null where there is none (the test should then skip).
DeviceQueue* TestQueue();

}  // namespace reprise::kernels

#endif  // REPRISE_TESTS_KERNELS_MIRROR_H_
