// Stands in for the CUDA implementations in a build without them.
#include <utility>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/sampling.h"
#include "kernels/device_queue.h"

namespace reprise::kernels {
namespace {

absl::Status Unavailable() { return absl::UnimplementedError("built without CUDA"); }

}  // namespace

namespace cuda {

absl::Status Available() { return Unavailable(); }
absl::StatusOr<void*> Allocate(size_t) { return Unavailable(); }
void Free(void*) {}
size_t PackedBytes(const PackedMatrix::Source&) { return 0; }
absl::Status PackMatrix(const PackedMatrix::Source&, void*, float*, DeviceQueue&) {
  return Unavailable();
}
absl::Status MatMul(const MatMulParams&, DeviceQueue&) { return Unavailable(); }
bool CanMatMulChain(absl::Span<const MatMulParams>, const DeviceQueue&) { return false; }
absl::Status MatMulChain(absl::Span<const MatMulParams>, DeviceQueue&) { return Unavailable(); }
absl::Status MatMulByPlan(const MatMulParams&, const MatMulPlan&, DeviceQueue&) {
  return Unavailable();
}
MatMulProblem ProblemOf(const MatMulParams&, const DeviceQueue&) { return {}; }
absl::Status Embedding(const EmbeddingParams&, DeviceQueue&) { return Unavailable(); }
absl::Status PickRows(const PickRowsParams&, DeviceQueue&) { return Unavailable(); }
absl::Status GatedActivation(const GatedActivationParams&, DeviceQueue&) { return Unavailable(); }
absl::Status Softcap(const SoftcapParams&, DeviceQueue&) { return Unavailable(); }
absl::Status CausalConv1d(const CausalConv1dParams&, DeviceQueue&) { return Unavailable(); }
absl::Status RgLru(const RgLruParams&, DeviceQueue&) { return Unavailable(); }
absl::Status RopeTable(const RopeTableParams&, DeviceQueue&) { return Unavailable(); }
absl::Status Rope(const RopeParams&, DeviceQueue&) { return Unavailable(); }
absl::Status WindowAttention(const WindowAttentionParams&, DeviceQueue&) { return Unavailable(); }
bool CanRecurrentStep(const RecurrentStepParams&, const DeviceQueue&) { return false; }
absl::Status RecurrentStep(const RecurrentStepParams&, DeviceQueue&) { return Unavailable(); }
bool CanAttentionStep(const AttentionStepParams&, const DeviceQueue&) { return false; }
absl::Status AttentionStep(const AttentionStepParams&, DeviceQueue&) { return Unavailable(); }
absl::Status CopySlots(const SlotCopyParams&, DeviceQueue&) { return Unavailable(); }
absl::Status SampleRows(const SampleRowsParams&, DeviceQueue&) { return Unavailable(); }

}  // namespace cuda

absl::StatusOr<DeviceInfo> QueryCudaDevice() { return Unavailable(); }
absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(size_t) { return Unavailable(); }
PinnedBuffer::PinnedBuffer(PinnedBuffer&&) noexcept {}
PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&&) noexcept { return *this; }
PinnedBuffer::~PinnedBuffer() = default;
DeviceGraph::DeviceGraph(DeviceGraph&&) noexcept {}
DeviceGraph& DeviceGraph::operator=(DeviceGraph&&) noexcept { return *this; }
DeviceGraph::~DeviceGraph() = default;
DeviceEvent::DeviceEvent(DeviceEvent&&) noexcept {}
DeviceEvent& DeviceEvent::operator=(DeviceEvent&&) noexcept { return *this; }
DeviceEvent::~DeviceEvent() = default;
absl::StatusOr<std::unique_ptr<DeviceQueue>> DeviceQueue::Create(size_t,
                                                                 std::shared_ptr<DeviceHealth>) {
  return Unavailable();
}
DeviceQueue::~DeviceQueue() = default;
absl::Status DeviceQueue::Upload(void*, const void*, size_t) { return Unavailable(); }
absl::Status DeviceQueue::Download(void*, const void*, size_t) { return Unavailable(); }
absl::Status DeviceQueue::Copy(void*, const void*, size_t) { return Unavailable(); }
absl::Status DeviceQueue::Zero(void*, size_t) { return Unavailable(); }
absl::Status DeviceQueue::Synchronize() { return Unavailable(); }
absl::Status DeviceQueue::BeginCapture() { return Unavailable(); }
absl::StatusOr<DeviceGraph> DeviceQueue::EndCapture() { return Unavailable(); }
absl::Status DeviceQueue::Launch(const DeviceGraph&) { return Unavailable(); }
absl::Status DeviceQueue::Record(DeviceEvent&) { return Unavailable(); }
absl::Status DeviceQueue::Wait(const DeviceEvent&) { return Unavailable(); }
absl::StatusOr<bool> DeviceQueue::Done(const DeviceEvent&) const { return Unavailable(); }
absl::Status DeviceQueue::WaitOnHost(const DeviceEvent&) const { return Unavailable(); }
bool DeviceQueue::MayWaitAcrossBlocks() const { return false; }
void DeviceQueue::NoteLaunch(int) const {}
absl::StatusOr<float> DeviceQueue::Milliseconds(const DeviceEvent&, const DeviceEvent&) {
  return Unavailable();
}

}  // namespace reprise::kernels
