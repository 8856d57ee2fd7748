// Memory, queues, graphs and events.
#include <atomic>
#include <utility>

#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda.h"
#include "kernels/device_queue.h"

namespace reprise::kernels {
namespace {

using cuda::Check;

cudaStream_t Stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t Event(void* event) { return static_cast<cudaEvent_t>(event); }

// The queue whose kernels may have blocks that wait for each other.
constinit std::atomic<const DeviceQueue*> waiting_queue = nullptr;

// Check, and what stays is told to the device's health.
template <typename... Parts>
absl::Status Noted(DeviceHealth& health, cudaError_t error, const Parts&... what) {
  const absl::Status status = Check(error, what...);
  if (cuda::Stays(error)) health.Fail(status);
  return status;
}

// All of `bytes` bytes of device memory. A memset may return before it is done, and queues do not
// wait for it.
absl::Status Fill(void* data, int byte, size_t bytes) {
  RETURN_IF_ERROR(Check(cudaMemset(data, byte, bytes), "cudaMemset of ", bytes, " bytes"));
  return Check(cudaStreamSynchronize(nullptr), "cudaMemset");
}

}  // namespace

namespace cuda {

absl::Status Available() { return absl::OkStatus(); }

absl::StatusOr<void*> Allocate(size_t bytes) {
  void* data = nullptr;
  RETURN_IF_ERROR(Check(cudaMalloc(&data, bytes), "allocation of ", bytes, " bytes on the device"));
  const absl::Status zeroed = Fill(data, 0, bytes);
  if (!zeroed.ok()) {
    cudaFree(data);
    return zeroed;
  }
  return data;
}

void Free(void* data) { cudaFree(data); }

}  // namespace cuda

absl::StatusOr<DeviceInfo> QueryCudaDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat(
        "no CUDA device: ", error == cudaSuccess ? "none found" : cudaGetErrorString(error)));
  }
  int device = 0;
  RETURN_IF_ERROR(Check(cudaGetDevice(&device), "cudaGetDevice"));
  cudaDeviceProp properties = {};
  RETURN_IF_ERROR(Check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  if (properties.major != 9 || properties.minor != 0) {
    return absl::UnavailableError(absl::StrCat(properties.name,
                                               ": compute capability 9.0 is needed, found ",
                                               properties.major, ".", properties.minor));
  }
  DeviceInfo info;
  info.name = properties.name;
  info.multiprocessors = properties.multiProcessorCount;
  info.l2_bytes = properties.l2CacheSize;
  int mps = 0;
  RETURN_IF_ERROR(
      Check(cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, device), "cudaDevAttrMpsEnabled"));
  info.shared_by_mps = mps != 0;
  RETURN_IF_ERROR(Check(cudaMemGetInfo(&info.free_bytes, &info.memory_bytes), "cudaMemGetInfo"));
  return info;
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(size_t bytes) {
  PinnedBuffer buffer;
  if (bytes == 0) return buffer;
  RETURN_IF_ERROR(Check(cudaMallocHost(&buffer.data_, bytes), "allocation of ", bytes,
                        " bytes of pinned memory"));
  buffer.size_ = bytes;
  return buffer;
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

DeviceGraph::DeviceGraph(DeviceGraph&& other) noexcept
    : exec_(std::exchange(other.exec_, nullptr)) {}

DeviceGraph& DeviceGraph::operator=(DeviceGraph&& other) noexcept {
  std::swap(exec_, other.exec_);
  return *this;
}

DeviceGraph::~DeviceGraph() {
  if (exec_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(exec_));
}

DeviceEvent::DeviceEvent(DeviceEvent&& other) noexcept
    : event_(std::exchange(other.event_, nullptr)) {}

DeviceEvent& DeviceEvent::operator=(DeviceEvent&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}

DeviceEvent::~DeviceEvent() {
  if (event_ != nullptr) cudaEventDestroy(Event(event_));
}

absl::StatusOr<std::unique_ptr<DeviceQueue>> DeviceQueue::Create(
    size_t scratch_bytes, std::shared_ptr<DeviceHealth> health) {
  auto queue = std::unique_ptr<DeviceQueue>(new DeviceQueue());
  queue->health_ = health != nullptr ? std::move(health) : std::make_shared<DeviceHealth>();
  ASSIGN_OR_RETURN(queue->info_, QueryCudaDevice());
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(
      Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
  queue->stream_ = stream;
  ASSIGN_OR_RETURN(queue->scratch_, Buffer::Allocate(Device::kCuda, scratch_bytes));
  ASSIGN_OR_RETURN(queue->counters_, Buffer::Allocate(Device::kCuda, (kCounters + kExchangeState) *
                                                                         sizeof(uint32_t)));
  if (scratch_bytes == 0) return queue;
  ASSIGN_OR_RETURN(queue->exchange_, Buffer::Allocate(Device::kCuda, kExchangeBytes));
  RETURN_IF_ERROR(Fill(queue->exchange_.data(), 0xff, kExchangeBytes));
  return queue;
}

DeviceQueue::~DeviceQueue() {
  if (stream_ == nullptr) return;
  cudaStreamSynchronize(Stream(stream_));  // what is queued still uses the buffers
  cudaStreamDestroy(Stream(stream_));
  const DeviceQueue* self = this;
  waiting_queue.compare_exchange_strong(self, nullptr);
}

bool DeviceQueue::MayWaitAcrossBlocks() const {
  const DeviceQueue* holder = nullptr;
  if (waiting_queue.compare_exchange_strong(holder, this)) holder = this;
  return holder == this && !info_.shared_by_mps;
}

void DeviceQueue::NoteLaunch(int error) const {
  Noted(*health_, static_cast<cudaError_t>(error), "work before a launch").IgnoreError();
}

absl::Status DeviceQueue::Upload(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return Noted(*health_,
               cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, Stream(stream_)),
               "upload of ", bytes, " bytes");
}

absl::Status DeviceQueue::Download(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return Noted(*health_,
               cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, Stream(stream_)),
               "download of ", bytes, " bytes");
}

absl::Status DeviceQueue::Copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return Noted(*health_,
               cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, Stream(stream_)),
               "copy of ", bytes, " bytes on the device");
}

absl::Status DeviceQueue::Zero(void* device, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return Noted(*health_, cudaMemsetAsync(device, 0, bytes, Stream(stream_)), "zeroing of ", bytes,
               " bytes on the device");
}

absl::Status DeviceQueue::Synchronize() {
  return Noted(*health_, cudaStreamSynchronize(Stream(stream_)), "queued work");
}

absl::Status DeviceQueue::BeginCapture() {
  return Noted(*health_, cudaStreamBeginCapture(Stream(stream_), cudaStreamCaptureModeThreadLocal),
               "begin of a graph");
}

absl::StatusOr<DeviceGraph> DeviceQueue::EndCapture() {
  cudaGraph_t recorded = nullptr;
  RETURN_IF_ERROR(
      Noted(*health_, cudaStreamEndCapture(Stream(stream_), &recorded), "end of a graph"));
  cudaGraphExec_t exec = nullptr;
  const absl::Status made =
      Noted(*health_, cudaGraphInstantiate(&exec, recorded, 0), "making of a graph");
  cudaGraphDestroy(recorded);
  RETURN_IF_ERROR(made);
  DeviceGraph graph;
  graph.exec_ = exec;
  return graph;
}

absl::Status DeviceQueue::Launch(const DeviceGraph& graph) {
  return Noted(*health_,
               cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.exec_), Stream(stream_)),
               "launch of a graph");
}

absl::Status DeviceQueue::Record(DeviceEvent& event) {
  if (event.event_ == nullptr) {
    cudaEvent_t made = nullptr;
    RETURN_IF_ERROR(Noted(*health_, cudaEventCreate(&made), "cudaEventCreate"));
    event.event_ = made;
  }
  return Noted(*health_, cudaEventRecord(Event(event.event_), Stream(stream_)), "cudaEventRecord");
}

absl::Status DeviceQueue::Wait(const DeviceEvent& event) {
  return Noted(*health_, cudaStreamWaitEvent(Stream(stream_), Event(event.event_), 0),
               "cudaStreamWaitEvent");
}

absl::StatusOr<bool> DeviceQueue::Done(const DeviceEvent& event) const {
  const cudaError_t error = cudaEventQuery(Event(event.event_));
  if (error == cudaErrorNotReady) return false;
  RETURN_IF_ERROR(Noted(*health_, error, "queued work"));
  return true;
}

absl::Status DeviceQueue::WaitOnHost(const DeviceEvent& event) const {
  return Noted(*health_, cudaEventSynchronize(Event(event.event_)), "queued work");
}

absl::StatusOr<float> DeviceQueue::Milliseconds(const DeviceEvent& begin, const DeviceEvent& end) {
  float milliseconds = 0.0f;
  RETURN_IF_ERROR(Check(cudaEventElapsedTime(&milliseconds, Event(begin.event_), Event(end.event_)),
                        "cudaEventElapsedTime"));
  return milliseconds;
}

}  // namespace reprise::kernels
