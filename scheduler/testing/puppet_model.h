// A model without weights whose every output shows what its state has consumed.
#ifndef REPRISE_SCHEDULER_TESTING_PUPPET_MODEL_H_
#define REPRISE_SCHEDULER_TESTING_PUPPET_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "models/hybrid_model.h"

namespace reprise::scheduler {

// The state is a running hash of the tokens with their positions; a row's logits are a pure
// function of that hash, so that a skipped, repeated or foreign token changes all text after it.
// Forward checks that start_positions agree with the count kept in the state.
class PuppetModel final : public models::HybridModel {
 public:
  struct Options {
    int vocab_size = 64;
    int max_rows = 256;
    int state_words = 16;  // of 8 bytes
  };
  explicit PuppetModel(const Options& options);

  const models::ModelInfo& info() const override { return info_; }
  const models::StateLayout& state_layout() const override { return layout_; }
  int max_rows() const override { return options_.max_rows; }
  absl::Status Forward(const models::RaggedBatch& batch, models::StateSlots& slots,
                       absl::Span<float> logits) override;

  // The greedy continuation of `tokens`, computed apart from any scheduler.
  std::vector<int32_t> Continue(const std::vector<int32_t>& tokens, int count) const;

  // Called with each batch before it runs; a failed status fails the Forward.
  std::function<absl::Status(const models::RaggedBatch&)> on_forward;
  // Poisons the logits of a row that feeds this token.
  int32_t nan_token = -1;
  int64_t forwards = 0;
  int max_rows_seen = 0;

 private:
  static uint64_t Mix(uint64_t hash, int32_t token);
  void FillLogits(uint64_t hash, float* logits) const;

  Options options_;
  models::ModelInfo info_;
  models::StateLayout layout_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_TESTING_PUPPET_MODEL_H_
