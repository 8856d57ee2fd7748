#include "tools/simulate/stand_in_model.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace reprise::simulate {
namespace {

struct State {
  uint64_t position;
  uint64_t stamp;  // 0 = has come from outside
};

static_assert(sizeof(State) == StandInModel::kLeastBytes);

}  // namespace

StandInModel::StandInModel(const DeviceModel* device, SimClock* clock, int64_t state_bytes)
    : device_(device), clock_(clock) {
  info_.architecture = "stand_in";
  info_.weights_fingerprint = std::string(64, '0');
  info_.vocab_size = kVocab;
  info_.num_layers = 1;
  info_.hidden_size = 1;
  info_.dtype = "f32";
  layout_.Add(0, models::StateRole::kRgLru, kernels::DType::kI32,
              {state_bytes / static_cast<int64_t>(sizeof(int32_t))});
}

absl::Status StandInModel::Forward(const models::RaggedBatch& batch, models::StateSlots& slots,
                                   absl::Span<float> logits) {
  if (logits.size() != batch.logit_rows.size() * kVocab) {
    return absl::InvalidArgumentError("stand-in: logits of the wrong size");
  }
  if (left_.size() < static_cast<size_t>(slots.num_slots())) left_.resize(slots.num_slots());
  const size_t stride = layout_.bytes() / sizeof(State);
  StepShape shape;
  int64_t arrived = 0;
  size_t next_logits = 0;
  for (int s = 0; s < batch.num_seqs(); ++s) {
    State& state = static_cast<State*>(slots.tensor(0))[batch.slots[s] * stride];
    if (state.position != static_cast<uint64_t>(batch.start_positions[s])) {
      return absl::InternalError(absl::StrCat("stand-in: the state has consumed ", state.position,
                                              " tokens, the batch says ",
                                              batch.start_positions[s]));
    }
    // An empty state needs no copy; any other is where this slot left it, or it was copied.
    Left& left = left_[batch.slots[s]];
    if (state.stamp == 0 || state.stamp != left.stamp || state.position != left.position) {
      arrived += state.position > 0;
      state.stamp = left.stamp = next_stamp_++;
    }
    const int end = batch.seq_offsets[s + 1];
    const int rows = end - batch.seq_offsets[s];
    bool with_logits = false;
    while (next_logits < batch.logit_rows.size() && batch.logit_rows[next_logits] < end) {
      with_logits = true;
      ++next_logits;
    }
    shape.Add(*device_, batch.start_positions[s], rows, with_logits);
    state.position += rows;
    left.position = state.position;
  }
  std::fill(logits.begin(), logits.end(), 0.0f);
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) logits[i * kVocab + kAnswer] = 1.0f;
  ++forwards_;
  rows_ += batch.num_rows();
  imports_ += arrived;
  clock_->Advance(std::max<SimTime>(FromSeconds(StepSeconds(*device_, shape)), 1) +
                  arrived * FromSeconds(ImportSeconds(*device_)));
  return absl::OkStatus();
}

scheduler::SequenceState StandInModel::StateAfter(int64_t tokens) const {
  scheduler::SequenceState state;
  state.position = tokens - 1;
  state.pending = kAnswer;
  if (state.position == 0) return state;
  const State content{static_cast<uint64_t>(state.position), 0};
  state.image.resize(layout_.bytes());
  std::memcpy(state.image.data(), &content, sizeof(content));
  return state;
}

}  // namespace reprise::simulate
