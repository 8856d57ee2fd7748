#include "models/state_slots.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status_macros.h"

namespace reprise::models {
namespace {

uint64_t NextId() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

absl::Status NotHeld(int slot) {
  return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " is not held"));
}

}  // namespace

SlotHandle::SlotHandle(SlotHandle&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      slot_(std::exchange(other.slot_, -1)),
      generation_(std::exchange(other.generation_, 0)) {}

SlotHandle& SlotHandle::operator=(SlotHandle&& other) noexcept {
  if (this != &other) {
    Reset();
    pool_ = std::exchange(other.pool_, nullptr);
    slot_ = std::exchange(other.slot_, -1);
    generation_ = std::exchange(other.generation_, 0);
  }
  return *this;
}

SlotHandle::~SlotHandle() { Reset(); }

void SlotHandle::Reset() {
  if (pool_ != nullptr) pool_->Release(slot_, generation_);
  pool_ = nullptr;
  slot_ = -1;
  generation_ = 0;
}

StateTransfer::StateTransfer(StateTransfer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), lane_(other.lane_) {}

StateTransfer& StateTransfer::operator=(StateTransfer&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(lane_, other.lane_);
  return *this;
}

StateTransfer::~StateTransfer() {
  if (pool_ != nullptr) pool_->lanes_[lane_].busy = false;
}

StateSlots::StateSlots(StateLayout layout, int num_slots, const kernels::Context& context)
    : id_(NextId()),
      layout_(std::move(layout)),
      num_slots_(num_slots),
      context_(context),
      lanes_(kTransfers),
      generations_(num_slots, 0) {
  free_.reserve(num_slots);
  for (int slot = num_slots; slot-- > 0;) free_.push_back(slot);
}

absl::StatusOr<std::unique_ptr<StateSlots>> StateSlots::Create(const StateLayout& layout,
                                                               int num_slots,
                                                               const kernels::Context& context) {
  constexpr int kMaxSlots = 1 << 20;
  if (num_slots < 1 || num_slots > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_slots: expected 1 to ", kMaxSlots, ", found ", num_slots));
  }
  if (layout.device() != context.device) {
    return absl::InvalidArgumentError("state slots: the layout is for another device");
  }
  const bool cuda = context.device == kernels::Device::kCuda;
  auto slots = std::unique_ptr<StateSlots>(new StateSlots(layout, num_slots, context));
  for (const StateTensor& tensor : layout.tensors()) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(tensor.bytes, static_cast<size_t>(num_slots), &bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("state slots: ", num_slots, " times ", tensor.Name(), " overflows"));
    }
    absl::StatusOr<kernels::Buffer> buffer = kernels::Buffer::Allocate(context.device, bytes);
    if (!buffer.ok()) {
      return Prefixed(buffer.status(), absl::StrCat("state slots: ", num_slots, " slots of ",
                                                    layout.bytes(), " bytes: ", tensor.Name()));
    }
    if (cuda && tensor.bytes % 16 != 0) {
      return absl::UnimplementedError(absl::StrCat("state slots: ", tensor.Name(), " has ",
                                                   tensor.bytes, " bytes, not a multiple of 16"));
    }
    slots->tensors_.push_back({buffer->as<uint8_t>(), tensor.bytes, tensor.offset});
    slots->largest_bytes_ = std::max<uint64_t>(slots->largest_bytes_, tensor.bytes);
    slots->buffers_.push_back(*std::move(buffer));
  }
  if (!cuda) return slots;
  const size_t table = slots->tensors_.size() * sizeof(kernels::SlotTensor);
  ASSIGN_OR_RETURN(slots->device_tensors_, kernels::Buffer::Allocate(context.device, table));
  RETURN_IF_ERROR(
      context.queue->Upload(slots->device_tensors_.data(), slots->tensors_.data(), table));
  RETURN_IF_ERROR(context.queue->Synchronize());
  ASSIGN_OR_RETURN(slots->side_, kernels::DeviceQueue::Create(
                                     /*scratch_bytes=*/0, context.queue->health()));
  return slots;
}

absl::Status StateSlots::CheckImage(size_t bytes) const {
  if (bytes == layout_.bytes()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("image: expected ", layout_.bytes(), " bytes, found ", bytes));
}

absl::StatusOr<SlotHandle> StateSlots::Acquire() {
  if (free_.empty()) {
    return absl::ResourceExhaustedError(absl::StrCat("all ", num_slots_, " state slots are held"));
  }
  const int slot = free_.back();
  free_.pop_back();
  ++generations_[slot];
  // On the way out, not on release: a freed slot's content is never worth a second pass.
  SlotHandle handle(this, slot, (generations_[slot] + 1) / 2);
  RETURN_IF_ERROR(Zero(slot));
  return handle;
}

void StateSlots::Release(int slot, uint64_t generation) {
  // A handle of another generation was already given back; CheckIntegrity would show a double one.
  if (!held(slot) || (generations_[slot] + 1) / 2 != generation) return;
  ++generations_[slot];
  free_.push_back(slot);
}

int64_t StateSlots::slot_stride(int index) const {
  const StateTensor& tensor = layout_.tensors()[index];
  return static_cast<int64_t>(tensor.bytes / kernels::DTypeBytes(tensor.dtype));
}

kernels::SlotCopyParams StateSlots::CopyParams() const {
  kernels::SlotCopyParams params;
  params.num_tensors = static_cast<int>(tensors_.size());
  params.largest_bytes = largest_bytes_;
  params.tensors =
      device_tensors_.size() != 0 ? device_tensors_.as<kernels::SlotTensor>() : tensors_.data();
  return params;
}

absl::StatusOr<int> StateSlots::TakeLane() {
  for (size_t i = 0; i < lanes_.size(); ++i) {
    Lane& lane = lanes_[i];
    if (lane.busy) continue;
    if (lane.image.size() == 0) {
      ASSIGN_OR_RETURN(lane.image, kernels::Buffer::Allocate(context_.device, layout_.bytes()));
      if (context_.device == kernels::Device::kCuda) {
        ASSIGN_OR_RETURN(lane.pinned, kernels::PinnedBuffer::Allocate(layout_.bytes()));
      }
    }
    // What a dropped transfer left, and the upload of a finished one, still use the buffers.
    if (lane.used && context_.device == kernels::Device::kCuda) {
      RETURN_IF_ERROR(side_->WaitOnHost(lane.moved));
    }
    lane.busy = true;
    return static_cast<int>(i);
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kTransfers, " transfers of states are under way"));
}

absl::StatusOr<StateTransfer> StateSlots::BeginExport(int slot) {
  if (!held(slot)) return NotHeld(slot);
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.export.begin"));
  ASSIGN_OR_RETURN(const int index, TakeLane());
  StateTransfer transfer(this, index);
  Lane& lane = lanes_[index];
  kernels::SlotCopyParams params = CopyParams();
  params.from = slot;
  params.image_out = lane.image.as<uint8_t>();
  RETURN_IF_ERROR(kernels::CopySlots(params, context_));
  if (context_.device == kernels::Device::kCpu) return transfer;
  RETURN_IF_ERROR(context_.queue->Record(lane.gathered));
  RETURN_IF_ERROR(side_->Wait(lane.gathered));
  RETURN_IF_ERROR(side_->Download(lane.pinned.as<uint8_t>(), lane.image.data(), layout_.bytes()));
  RETURN_IF_ERROR(side_->Record(lane.moved));
  lane.used = true;
  return transfer;
}

absl::StatusOr<StateTransfer> StateSlots::BeginImport(absl::Span<const uint8_t> image) {
  RETURN_IF_ERROR(CheckImage(image.size()));
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.import"));
  ASSIGN_OR_RETURN(const int index, TakeLane());
  StateTransfer transfer(this, index);
  Lane& lane = lanes_[index];
  if (context_.device == kernels::Device::kCpu) {
    std::memcpy(lane.image.data(), image.data(), image.size());
    return transfer;
  }
  std::memcpy(lane.pinned.as<uint8_t>(), image.data(), image.size());
  RETURN_IF_ERROR(side_->Upload(lane.image.data(), lane.pinned.as<uint8_t>(), image.size()));
  RETURN_IF_ERROR(side_->Record(lane.moved));
  lane.used = true;
  return transfer;
}

absl::StatusOr<bool> StateSlots::Done(const StateTransfer& transfer) const {
  if (context_.device == kernels::Device::kCpu) return true;
  return side_->Done(lanes_[transfer.lane_].moved);
}

absl::Status StateSlots::FinishExport(StateTransfer transfer, absl::Span<uint8_t> image) {
  RETURN_IF_ERROR(CheckImage(image.size()));
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.export.finish"));
  if (REPRISE_FAULT(kExportFaultPoint)) return absl::InternalError(kExportFaultPoint);
  const Lane& lane = lanes_[transfer.lane_];
  const uint8_t* from = lane.image.as<uint8_t>();
  if (context_.device == kernels::Device::kCuda) {
    RETURN_IF_ERROR(side_->WaitOnHost(lane.moved));
    from = lane.pinned.as<uint8_t>();
  }
  std::memcpy(image.data(), from, image.size());
  return absl::OkStatus();
}

absl::Status StateSlots::FinishImport(StateTransfer transfer, int slot) {
  if (!held(slot)) return NotHeld(slot);
  Lane& lane = lanes_[transfer.lane_];
  kernels::SlotCopyParams params = CopyParams();
  params.num_to = 1;
  params.to = &slot;
  params.image = lane.image.as<uint8_t>();
  if (context_.device == kernels::Device::kCpu) return kernels::CopySlots(params, context_);
  RETURN_IF_ERROR(context_.queue->Wait(lane.moved));
  RETURN_IF_ERROR(kernels::CopySlots(params, context_));
  // The lane's next upload must come after this read of it.
  RETURN_IF_ERROR(context_.queue->Record(lane.gathered));
  return side_->Wait(lane.gathered);
}

absl::Status StateSlots::Export(int slot, absl::Span<uint8_t> image) {
  RETURN_IF_ERROR(CheckImage(image.size()));
  if (context_.device == kernels::Device::kCuda) {
    ASSIGN_OR_RETURN(StateTransfer transfer, BeginExport(slot));
    return FinishExport(std::move(transfer), image);
  }
  if (!held(slot)) return NotHeld(slot);
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.export.begin"));
  kernels::SlotCopyParams params = CopyParams();
  params.from = slot;
  params.image_out = image.data();
  return kernels::CopySlots(params, context_);
}

absl::Status StateSlots::Import(int slot, absl::Span<const uint8_t> image) {
  if (!held(slot)) return NotHeld(slot);
  RETURN_IF_ERROR(CheckImage(image.size()));
  if (context_.device == kernels::Device::kCuda) {
    ASSIGN_OR_RETURN(StateTransfer transfer, BeginImport(image));
    return FinishImport(std::move(transfer), slot);
  }
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.import"));
  kernels::SlotCopyParams params = CopyParams();
  params.num_to = 1;
  params.to = &slot;
  params.image = image.data();
  return kernels::CopySlots(params, context_);
}

absl::Status StateSlots::Copy(int from, absl::Span<const int> to) {
  if (!held(from)) return NotHeld(from);
  std::vector<int32_t> others;
  for (const int slot : to) {
    if (!held(slot)) return NotHeld(slot);
    if (slot != from) others.push_back(slot);
  }
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.copy"));
  if (others.empty()) return absl::OkStatus();
  kernels::SlotCopyParams params = CopyParams();
  params.from = from;
  params.num_to = static_cast<int>(others.size());
  params.to = others.data();
  return kernels::CopySlots(params, context_);
}

absl::Status StateSlots::Zero(int slot) {
  if (!held(slot)) return NotHeld(slot);
  RETURN_IF_ERROR(kernels::CheckDevice(context_.health, "device.zero"));
  kernels::SlotCopyParams params = CopyParams();
  params.num_to = 1;
  params.to = &slot;
  return kernels::CopySlots(params, context_);
}

absl::Status StateSlots::CheckIntegrity() const {
  std::vector<bool> seen(num_slots_, false);
  for (const int slot : free_) {
    if (slot < 0 || slot >= num_slots_ || seen[slot]) {
      return absl::InternalError(absl::StrCat("state slots: slot ", slot, " is free twice"));
    }
    if (held(slot)) {
      return absl::InternalError(absl::StrCat("state slots: slot ", slot, " is free and held"));
    }
    seen[slot] = true;
  }
  for (int slot = 0; slot < num_slots_; ++slot) {
    if (!seen[slot] && !held(slot)) {
      return absl::InternalError(absl::StrCat("state slots: slot ", slot, " is lost"));
    }
  }
  return absl::OkStatus();
}

}  // namespace reprise::models
