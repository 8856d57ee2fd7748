#include "models/state_slots.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::models {
namespace {

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

StateSlots::StateSlots(StateLayout layout, int num_slots)
    : layout_(std::move(layout)), num_slots_(num_slots), generations_(num_slots, 0) {
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
  if (context.device != kernels::Device::kCpu) {
    return absl::UnimplementedError("state slots: only the CPU is supported");
  }
  // Copies below are memcpy: the arrays must be in host memory.
  auto slots = std::unique_ptr<StateSlots>(new StateSlots(layout, num_slots));
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
    slots->buffers_.push_back(*std::move(buffer));
  }
  return slots;
}

absl::StatusOr<SlotHandle> StateSlots::Acquire() {
  if (free_.empty()) {
    return absl::ResourceExhaustedError(absl::StrCat("all ", num_slots_, " state slots are held"));
  }
  const int slot = free_.back();
  free_.pop_back();
  ++generations_[slot];
  // On the way out, not on release: a freed slot's content is never worth a second pass.
  RETURN_IF_ERROR(Zero(slot));
  return SlotHandle(this, slot, (generations_[slot] + 1) / 2);
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

absl::Status StateSlots::Export(int slot, absl::Span<uint8_t> image) const {
  if (!held(slot)) return NotHeld(slot);
  if (image.size() != layout_.bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("image: expected ", layout_.bytes(), " bytes, found ", image.size()));
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const StateTensor& tensor = layout_.tensors()[i];
    if (tensor.bytes == 0) continue;
    std::memcpy(image.data() + tensor.offset, buffers_[i].as<uint8_t>() + slot * tensor.bytes,
                tensor.bytes);
  }
  return absl::OkStatus();
}

absl::Status StateSlots::Import(int slot, absl::Span<const uint8_t> image) {
  if (!held(slot)) return NotHeld(slot);
  if (image.size() != layout_.bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("image: expected ", layout_.bytes(), " bytes, found ", image.size()));
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const StateTensor& tensor = layout_.tensors()[i];
    if (tensor.bytes == 0) continue;
    std::memcpy(buffers_[i].as<uint8_t>() + slot * tensor.bytes, image.data() + tensor.offset,
                tensor.bytes);
  }
  return absl::OkStatus();
}

absl::Status StateSlots::Copy(int from, int to) {
  if (!held(from)) return NotHeld(from);
  if (!held(to)) return NotHeld(to);
  if (from == to) return absl::OkStatus();
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const size_t bytes = layout_.tensors()[i].bytes;
    if (bytes == 0) continue;
    std::memcpy(buffers_[i].as<uint8_t>() + to * bytes, buffers_[i].as<uint8_t>() + from * bytes,
                bytes);
  }
  return absl::OkStatus();
}

absl::Status StateSlots::Zero(int slot) {
  if (!held(slot)) return NotHeld(slot);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const size_t bytes = layout_.tensors()[i].bytes;
    if (bytes != 0) std::memset(buffers_[i].as<uint8_t>() + slot * bytes, 0, bytes);
  }
  return absl::OkStatus();
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
