#include "scheduler/internal/state_mover.h"

#include <utility>

#include "base/status_macros.h"

namespace reprise::scheduler {

absl::Status StateMover::Enter(Sequence& sequence) {
  ASSIGN_OR_RETURN(models::SlotHandle slot, slots_.Acquire());
  if (sequence.position() > 0) {
    const std::vector<uint8_t>& image =
        sequence.shared_image != nullptr ? *sequence.shared_image : sequence.image;
    RETURN_IF_ERROR(Prefixed(slots_.Import(slot.slot(), image), "import of the state"));
  }
  sequence.slot = std::move(slot);
  DropImage(sequence);
  return absl::OkStatus();
}

absl::Status StateMover::EnterCopy(Sequence& sequence, const Sequence& leader) {
  ASSIGN_OR_RETURN(models::SlotHandle slot, slots_.Acquire());
  RETURN_IF_ERROR(
      Prefixed(slots_.Copy(leader.slot.slot(), slot.slot()), "copy of the state for a fork"));
  sequence.slot = std::move(slot);
  return absl::OkStatus();
}

bool StateMover::MayPark(const Sequence& leaving, const Sequence& entering) const {
  if (max_parked_bytes_ == 0) return false;
  int64_t after = parked_bytes_;
  if (leaving.position() > 0) after += static_cast<int64_t>(slots_.layout().bytes());
  if (entering.started) after -= ImageBytes(entering);
  return after <= max_parked_bytes_;
}

absl::Status StateMover::Park(Sequence& sequence) {
  ASSIGN_OR_RETURN(SequenceState state, Copy(sequence));
  sequence.image = std::move(state.image);
  parked_bytes_ += ImageBytes(sequence);
  sequence.slot.Reset();
  return absl::OkStatus();
}

absl::StatusOr<SequenceState> StateMover::Copy(const Sequence& sequence) const {
  SequenceState state = sequence.state_without_image();
  if (state.position > 0) {
    state.image.resize(slots_.layout().bytes());
    RETURN_IF_ERROR(Prefixed(slots_.Export(sequence.slot.slot(), absl::MakeSpan(state.image)),
                             "export of the state"));
  }
  return state;
}

absl::StatusOr<SequenceState> StateMover::Take(Sequence& sequence) {
  if (sequence.slot.valid()) return Copy(sequence);
  SequenceState state = sequence.state_without_image();
  if (sequence.shared_image != nullptr) {
    state.image = *sequence.shared_image;
    return state;
  }
  if (sequence.started) parked_bytes_ -= ImageBytes(sequence);
  state.image = std::exchange(sequence.image, {});
  return state;
}

void StateMover::Release(Sequence& sequence) {
  sequence.slot.Reset();
  DropImage(sequence);
}

void StateMover::DropImage(Sequence& sequence) {
  if (sequence.started) parked_bytes_ -= ImageBytes(sequence);
  sequence.image = {};
  sequence.shared_image = nullptr;
}

}  // namespace reprise::scheduler
