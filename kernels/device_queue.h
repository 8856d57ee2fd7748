// The order in which a CUDA device does its work: one stream, what operations need beside their
// params, and copies between host and device. The rest of the tree sees CUDA only through this and
// Buffer.
#ifndef REPRISE_KERNELS_DEVICE_QUEUE_H_
#define REPRISE_KERNELS_DEVICE_QUEUE_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device_health.h"
#include "kernels/kernels.h"

namespace reprise::kernels {

// Facts about the CUDA device in use.
struct DeviceInfo {
  std::string name;  // e.g. "NVIDIA H100 80GB HBM3"
  int multiprocessors = 0;
  size_t memory_bytes = 0, free_bytes = 0;  // free_bytes as of the call
  size_t l2_bytes = 0;
  bool shared_by_mps = false;
};
// UNIMPLEMENTED in a build without CUDA, UNAVAILABLE without a device (or one older than compute
// capability 9.0).
absl::StatusOr<DeviceInfo> QueryCudaDevice();

// Page-locked host memory: copies from and to it run beside the host. Move-only owner.
class PinnedBuffer {
 public:
  static absl::StatusOr<PinnedBuffer> Allocate(size_t bytes);
  PinnedBuffer() = default;
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  ~PinnedBuffer();

  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// A recorded sequence of operations that is queued as one. Move-only owner.
class DeviceGraph {
 public:
  DeviceGraph() = default;
  DeviceGraph(DeviceGraph&& other) noexcept;
  DeviceGraph& operator=(DeviceGraph&& other) noexcept;
  ~DeviceGraph();
  bool valid() const { return exec_ != nullptr; }

 private:
  friend class DeviceQueue;
  void* exec_ = nullptr;  // cudaGraphExec_t
};

// A point in a queue's work. Move-only owner.
class DeviceEvent {
 public:
  DeviceEvent() = default;
  DeviceEvent(DeviceEvent&& other) noexcept;
  DeviceEvent& operator=(DeviceEvent&& other) noexcept;
  ~DeviceEvent();

 private:
  friend class DeviceQueue;
  void* event_ = nullptr;  // cudaEvent_t
};

// Not thread-safe: belongs to the thread that runs the steps. Every failure is INTERNAL and names
// the call. Each call, and each launch on the queue, tells health() of an error that stays (an
// illegal address, say): all further calls fail then, and only a new process can use the device.
class DeviceQueue {
 public:
  // `scratch_bytes`: device memory for partial results of one operation at a time.
  static constexpr size_t kScratchBytes = size_t{64} << 20;
  // `health` is the device's, shared by all its queues; null makes one.
  static absl::StatusOr<std::unique_ptr<DeviceQueue>> Create(
      size_t scratch_bytes = kScratchBytes, std::shared_ptr<DeviceHealth> health = nullptr);
  ~DeviceQueue();
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;

  const DeviceInfo& info() const { return info_; }
  const std::shared_ptr<DeviceHealth>& health() const { return health_; }

  // Queued; the host memory must stay as it is until the copy is done (unpinned memory makes the
  // call wait for it).
  absl::Status Upload(void* device, const void* host, size_t bytes);
  absl::Status Download(void* host, const void* device, size_t bytes);
  absl::Status Copy(void* to, const void* from, size_t bytes);
  absl::Status Zero(void* device, size_t bytes);
  // Waits for everything queued, and reports what went wrong in it.
  absl::Status Synchronize();

  // Between the two, operations are recorded instead of run.
  absl::Status BeginCapture();
  absl::StatusOr<DeviceGraph> EndCapture();
  absl::Status Launch(const DeviceGraph& graph);

  // Orders the work of several queues and the host. Wait makes later work of this queue wait.
  absl::Status Record(DeviceEvent& event);
  absl::Status Wait(const DeviceEvent& event);
  absl::StatusOr<bool> Done(const DeviceEvent& event) const;
  absl::Status WaitOnHost(const DeviceEvent& event) const;
  // Milliseconds between two recorded events of this device, both done.
  static absl::StatusOr<float> Milliseconds(const DeviceEvent& begin, const DeviceEvent& end);

  void* stream() const { return stream_; }  // cudaStream_t
  void* scratch() const { return scratch_.data(); }
  size_t scratch_bytes() const { return scratch_.size(); }
  // Zero between operations: an operation that counts in it leaves zeros behind.
  uint32_t* counters() const { return counters_.as<uint32_t>(); }
  static constexpr int kCounters = 32;
  // For the blocks of one kernel to give each other numbers, see kernels/cuda/exchange.cuh: ones,
  // and beside them words that are zero at first. None for a queue without scratch, which is for
  // copies.
  void* exchange() const { return exchange_.data(); }
  static constexpr size_t kExchangeBytes = size_t{16} << 20;
  uint32_t* exchange_state() const { return counters_.as<uint32_t>() + kCounters; }
  static constexpr int kExchangeState = 4;

  // Whether kernels of this queue may have blocks that wait for each other. All of them must be on
  // the device at once, which two such kernels could prevent for each other: true for one queue of
  // the process, the first that asks for as long as it lives, and for none where processes share
  // the device by MPS.
  bool MayWaitAcrossBlocks() const;

  // What became of a launch: a cudaError_t.
  void NoteLaunch(int error) const;

 private:
  DeviceQueue() = default;

  DeviceInfo info_;
  std::shared_ptr<DeviceHealth> health_;
  void* stream_ = nullptr;
  Buffer scratch_, counters_, exchange_;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_DEVICE_QUEUE_H_
