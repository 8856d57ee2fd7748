// One step's input: tokens of several sequences, side by side.
#ifndef REPRISE_MODELS_RAGGED_BATCH_H_
#define REPRISE_MODELS_RAGGED_BATCH_H_

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace reprise::models {

// Prefill chunks, decode tokens and tokens to verify are all the same here: consecutive tokens of a
// sequence, of any number. Built by the scheduler, read by HybridModel::Forward.
struct RaggedBatch {
  std::vector<int32_t> tokens;             // [rows]
  std::vector<int32_t> seq_offsets = {0};  // [seqs + 1]
  std::vector<int32_t> slots;              // [seqs], negative = padding
  std::vector<int64_t> start_positions;    // [seqs], tokens that the slot's state has consumed
  std::vector<int32_t> logit_rows;         // rows whose logits are wanted, ascending

  int num_rows() const { return static_cast<int>(tokens.size()); }
  int num_seqs() const { return static_cast<int>(slots.size()); }

  void Clear() {
    tokens.clear();
    seq_offsets.assign(1, 0);
    slots.clear();
    start_positions.clear();
    logit_rows.clear();
  }

  // The view that kernels take; lives as long as this batch is unchanged.
  kernels::RaggedRows Rows() const {
    return {num_rows(), num_seqs(), seq_offsets.data(), slots.data(), start_positions.data()};
  }
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_RAGGED_BATCH_H_
