// The places on the device where live sequences keep their states.
#ifndef REPRISE_MODELS_STATE_SLOTS_H_
#define REPRISE_MODELS_STATE_SLOTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"
#include "kernels/slot_copy.h"
#include "models/state_layout.h"

namespace reprise::models {

class StateSlots;

// Owns one slot of a pool until it goes. Move-only; must not outlive the pool. An empty handle
// holds nothing.
class SlotHandle {
 public:
  SlotHandle() = default;
  SlotHandle(SlotHandle&& other) noexcept;
  SlotHandle& operator=(SlotHandle&& other) noexcept;
  ~SlotHandle();

  bool valid() const { return pool_ != nullptr; }
  int slot() const { return slot_; }
  // Counts how often the slot was handed out, so that a stale reference shows.
  uint64_t generation() const { return generation_; }
  void Reset();

 private:
  friend class StateSlots;
  SlotHandle(StateSlots* pool, int slot, uint64_t generation)
      : pool_(pool), slot_(slot), generation_(generation) {}
  StateSlots* pool_ = nullptr;
  int slot_ = -1;
  uint64_t generation_ = 0;
};

// A state on its way between a slot and the host. Move-only; must not outlive the pool. Gives its
// buffers back when it goes.
class StateTransfer {
 public:
  StateTransfer() = default;
  StateTransfer(StateTransfer&& other) noexcept;
  StateTransfer& operator=(StateTransfer&& other) noexcept;
  ~StateTransfer();
  bool valid() const { return pool_ != nullptr; }

 private:
  friend class StateSlots;
  StateTransfer(StateSlots* pool, int lane) : pool_(pool), lane_(lane) {}
  StateSlots* pool_ = nullptr;
  int lane_ = -1;
};

// N slots for one layout, allocated once. Each state tensor is one array [slots, tensor]: kernels
// index it by slot. Not thread-safe: belongs to the thread that runs the steps. On CUDA copies are
// queued between the steps; Export and Import wait for theirs, transfers run beside the steps.
// Once the context's device has failed every use of a state fails with that; slots can be given
// back.
class StateSlots {
 public:
  // num_slots >= 1. RESOURCE_EXHAUSTED when num_slots * layout.bytes() is not to be had.
  static absl::StatusOr<std::unique_ptr<StateSlots>> Create(const StateLayout& layout,
                                                            int num_slots,
                                                            const kernels::Context& context);

  // A zeroed slot, or RESOURCE_EXHAUSTED when all are held.
  absl::StatusOr<SlotHandle> Acquire();

  // Of this pool and of no other, before or after it, in the process: its address may come again.
  uint64_t id() const { return id_; }
  int num_slots() const { return num_slots_; }
  int free_slots() const { return static_cast<int>(free_.size()); }
  bool held(int slot) const {
    return slot >= 0 && slot < num_slots_ && generations_[slot] % 2 == 1;
  }
  const StateLayout& layout() const { return layout_; }

  // Base of tensor `index` (order of layout().tensors()): [num_slots, tensor bytes].
  void* tensor(int index) const { return buffers_[index].data(); }
  // Elements between two slots of that tensor.
  int64_t slot_stride(int index) const;

  // The calls below want held slots; another slot or another size of `image` than layout().bytes()
  // is INVALID_ARGUMENT and changes nothing.
  // A slot's whole state in layout order.
  absl::Status Export(int slot, absl::Span<uint8_t> image);
  absl::Status Import(int slot, absl::Span<const uint8_t> image);
  // The same in two halves, with the way to the host or back beside the steps that follow. The
  // state is the one at the time of BeginExport, whatever happens to the slot afterwards.
  // RESOURCE_EXHAUSTED when kTransfers are under way.
  static constexpr int kTransfers = 4;
  // Where tests let one FinishExport fail, and nothing else (base/fault_point.h).
  static constexpr const char* kExportFaultPoint = "slots.export";
  absl::StatusOr<StateTransfer> BeginExport(int slot);
  absl::StatusOr<StateTransfer> BeginImport(absl::Span<const uint8_t> image);
  // Whether the second half would not wait.
  absl::StatusOr<bool> Done(const StateTransfer& transfer) const;
  absl::Status FinishExport(StateTransfer transfer, absl::Span<uint8_t> image);
  absl::Status FinishImport(StateTransfer transfer, int slot);

  // Copies one slot's state onto others: the whole cost of a fork.
  absl::Status Copy(int from, int to) { return Copy(from, {&to, 1}); }
  absl::Status Copy(int from, absl::Span<const int> to);
  absl::Status Zero(int slot);

  // INTERNAL unless free + held = all, without duplicates.
  absl::Status CheckIntegrity() const;

 private:
  friend class SlotHandle;
  friend class StateTransfer;
  // The buffers of one transfer; made when first used.
  struct Lane {
    bool busy = false, used = false;
    kernels::Buffer image;         // on the slots' device
    kernels::PinnedBuffer pinned;  // CUDA only
    kernels::DeviceEvent gathered, moved;
  };
  absl::StatusOr<int> TakeLane();
  StateSlots(StateLayout layout, int num_slots, const kernels::Context& context);
  kernels::SlotCopyParams CopyParams() const;
  absl::Status CheckImage(size_t bytes) const;
  void Release(int slot, uint64_t generation);

  const uint64_t id_;
  StateLayout layout_;
  int num_slots_;
  kernels::Context context_;
  std::vector<kernels::Buffer> buffers_;
  std::vector<kernels::SlotTensor> tensors_;  // of buffers_
  uint64_t largest_bytes_ = 0;
  std::vector<Lane> lanes_;
  // CUDA only: tensors_ there, and the queue of copies from and to the host.
  kernels::Buffer device_tensors_;
  std::unique_ptr<kernels::DeviceQueue> side_;
  std::vector<int> free_;
  std::vector<uint64_t> generations_;  // odd = held
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_STATE_SLOTS_H_
