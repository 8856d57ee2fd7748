// A model that computes nothing and takes its time.
#ifndef REPRISE_TOOLS_SIMULATE_STAND_IN_MODEL_H_
#define REPRISE_TOOLS_SIMULATE_STAND_IN_MODEL_H_

#include <cstdint>
#include <vector>

#include "models/hybrid_model.h"
#include "scheduler/sequence_state.h"
#include "tools/simulate/device_model.h"
#include "tools/simulate/sim_clock.h"

namespace reprise::simulate {

// Forward moves the clock by what the device model says, and by an import for every sequence whose
// state has come to its slot by a copy. It always draws the token kAnswer. The state keeps the
// position, which Forward checks, and a stamp that tells where it last was.
class StandInModel final : public models::HybridModel {
 public:
  static constexpr int kVocab = 16;
  static constexpr int32_t kAnswer = 0;
  static constexpr int64_t kLeastBytes = 16;

  // Both are borrowed. A state takes 16 bytes, or more if asked for, a multiple of that: the prefix
  // cache weighs states against the paths to them, which are as long as they are.
  StandInModel(const DeviceModel* device, SimClock* clock, int64_t state_bytes = kLeastBytes);

  const models::ModelInfo& info() const override { return info_; }
  const models::StateLayout& state_layout() const override { return layout_; }
  int max_rows() const override { return 1 << 16; }
  absl::Status Forward(const models::RaggedBatch& batch, models::StateSlots& slots,
                       absl::Span<float> logits) override;

  // What a session's state looks like after `tokens` tokens, the last one pending.
  scheduler::SequenceState StateAfter(int64_t tokens) const;

  // Since the start.
  int64_t forwards() const { return forwards_; }
  int64_t rows() const { return rows_; }
  int64_t imports() const { return imports_; }

 private:
  const DeviceModel* const device_;
  SimClock* const clock_;
  models::ModelInfo info_;
  models::StateLayout layout_;
  struct Left {
    uint64_t stamp = 0, position = 0;
  };
  std::vector<Left> left_;  // of the state that each slot last held
  uint64_t next_stamp_ = 1;
  int64_t forwards_ = 0, rows_ = 0, imports_ = 0;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_STAND_IN_MODEL_H_
