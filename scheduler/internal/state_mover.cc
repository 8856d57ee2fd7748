#include "scheduler/internal/state_mover.h"

#include <utility>

#include "base/status_macros.h"

namespace reprise::scheduler {
namespace {

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& value) {
  return value.status();
}

}  // namespace

template <typename Move>
auto StateMover::WithRoom(Move move) {
  auto moved = move();
  while (absl::IsResourceExhausted(StatusOf(moved)) && !exports_.empty()) {
    EndOldest();
    moved = move();
  }
  return moved;
}

absl::Status StateMover::Enter(Sequence& sequence) {
  Settle(sequence);
  RETURN_IF_ERROR(sequence.lost);
  const absl::Time begin = clock_->Now();
  ASSIGN_OR_RETURN(models::SlotHandle slot, slots_.Acquire());
  if (sequence.position() > 0) {
    const Bytes& image = sequence.shared_image != nullptr ? *sequence.shared_image : sequence.image;
    const auto import = [&] { return slots_.Import(slot.slot(), image); };
    RETURN_IF_ERROR(Prefixed(WithRoom(import), "import of the state"));
    Note(SchedulerMetrics::Move::kIntoSlot, clock_->Now() - begin);
  }
  sequence.slot = std::move(slot);
  DropImage(sequence);
  return absl::OkStatus();
}

absl::Status StateMover::EnterCopy(Sequence& sequence, const Sequence& leader) {
  const absl::Time begin = clock_->Now();
  ASSIGN_OR_RETURN(models::SlotHandle slot, slots_.Acquire());
  RETURN_IF_ERROR(
      Prefixed(slots_.Copy(leader.slot.slot(), slot.slot()), "copy of the state for a fork"));
  Note(SchedulerMetrics::Move::kIntoSlot, clock_->Now() - begin);
  sequence.slot = std::move(slot);
  return absl::OkStatus();
}

bool StateMover::MayPark(const Sequence& leaving, const Sequence& entering) const {
  if (max_parked_bytes_ == 0) return false;
  int64_t after = parked_bytes_;
  if (leaving.position() > 0) after += static_cast<int64_t>(slots_.layout().bytes());
  if (entering.started) after -= image_bytes(entering);
  return after <= max_parked_bytes_;
}

absl::Status StateMover::Park(Sequence& sequence) {
  if (sequence.position() > 0) {
    RETURN_IF_ERROR(BeginCopy(sequence, [this, &sequence](absl::StatusOr<SequenceState> state) {
      sequence.leaving = false;
      if (state.ok()) {
        sequence.image = std::move(state->image);
      } else {
        sequence.lost = state.status();
        parked_bytes_ -= static_cast<int64_t>(slots_.layout().bytes());
      }
    }));
    sequence.leaving = true;
    parked_bytes_ += image_bytes(sequence);
  }
  sequence.slot.Reset();
  return absl::OkStatus();
}

absl::StatusOr<SequenceState> StateMover::Copy(const Sequence& sequence) {
  const absl::Time begin = clock_->Now();
  SequenceState state = sequence.state_without_image();
  if (state.position > 0) {
    state.image.resize(slots_.layout().bytes());
    const auto copy = [&] {
      return slots_.Export(sequence.slot.slot(), absl::MakeSpan(state.image));
    };
    RETURN_IF_ERROR(Prefixed(WithRoom(copy), "export of the state"));
    Note(SchedulerMetrics::Move::kOutOfSlot, clock_->Now() - begin);
  }
  return state;
}

absl::Status StateMover::BeginCopy(const Sequence& sequence, Done done) {
  const absl::Time begin = clock_->Now();
  Export begun{sequence.id, {}, std::move(done), sequence.state_without_image(), {}};
  const auto copy = [&] { return slots_.BeginExport(sequence.slot.slot()); };
  absl::StatusOr<models::StateTransfer> transfer = WithRoom(copy);
  if (!transfer.ok()) return Prefixed(transfer.status(), "export of the state");
  begun.transfer = *std::move(transfer);
  begun.spent = clock_->Now() - begin;
  exports_.push_back(std::move(begun));
  return absl::OkStatus();
}

void StateMover::EndExport(Export ending) {
  const absl::Time begin = clock_->Now();
  ending.state.image.resize(slots_.layout().bytes());
  const absl::Status status =
      slots_.FinishExport(std::move(ending.transfer), absl::MakeSpan(ending.state.image));
  if (!status.ok()) {
    ending.done(Prefixed(status, "export of the state"));
    return;
  }
  Note(SchedulerMetrics::Move::kOutOfSlot, ending.spent + (clock_->Now() - begin));
  ending.done(std::move(ending.state));
}

void StateMover::EndOldest() {
  Export oldest = std::move(exports_.front());
  exports_.pop_front();
  EndExport(std::move(oldest));
}

void StateMover::Settle(const Sequence& sequence) {
  for (size_t i = 0; i < exports_.size();) {
    if (exports_[i].id != sequence.id) {
      ++i;
      continue;
    }
    Export ending = std::move(exports_[i]);
    exports_.erase(exports_.begin() + i);
    EndExport(std::move(ending));
  }
}

void StateMover::SettleAll() {
  while (!exports_.empty()) EndOldest();
}

absl::StatusOr<SequenceState> StateMover::Take(Sequence& sequence) {
  if (sequence.slot.valid()) return Copy(sequence);
  Settle(sequence);
  RETURN_IF_ERROR(sequence.lost);
  SequenceState state = sequence.state_without_image();
  if (sequence.shared_image != nullptr) {
    state.image = *sequence.shared_image;
    return state;
  }
  if (sequence.started) parked_bytes_ -= image_bytes(sequence);
  state.image = std::exchange(sequence.image, {});
  return state;
}

void StateMover::Release(Sequence& sequence) {
  if (sequence.leaving) Settle(sequence);
  sequence.slot.Reset();
  DropImage(sequence);
}

void StateMover::DropImage(Sequence& sequence) {
  if (sequence.started) parked_bytes_ -= image_bytes(sequence);
  sequence.image = {};
  sequence.shared_image = nullptr;
}

void StateMover::Note(SchedulerMetrics::Move move, absl::Duration spent) const {
  if (metrics_ != nullptr) {
    metrics_->OnMove(move, static_cast<int64_t>(slots_.layout().bytes()), spent);
  }
}

}  // namespace reprise::scheduler
