#include "scheduler/testing/puppet_model.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace reprise::scheduler {

PuppetModel::PuppetModel(const Options& options) : options_(options) {
  info_.architecture = "puppet";
  info_.weights_fingerprint = std::string(64, 'a');
  info_.vocab_size = options.vocab_size;
  info_.num_layers = 1;
  info_.hidden_size = 1;
  info_.dtype = "f32";
  layout_.Add(0, models::StateRole::kRgLru, kernels::DType::kI32, {options.state_words, 2});
}

uint64_t PuppetModel::Mix(uint64_t hash, int32_t token) {
  hash ^= static_cast<uint64_t>(token) + 0x9E3779B97F4A7C15ULL + (hash << 6) + (hash >> 2);
  hash *= 0xFF51AFD7ED558CCDULL;
  return hash ^ (hash >> 33);
}

void PuppetModel::FillLogits(uint64_t hash, float* logits) const {
  for (int i = 0; i < options_.vocab_size; ++i) {
    logits[i] = static_cast<float>(Mix(hash, i) >> 40) * 0x1.0p-21f - 4.0f;
  }
}

absl::Status PuppetModel::Forward(const models::RaggedBatch& batch, models::StateSlots& slots,
                                  absl::Span<float> logits) {
  ++forwards;
  max_rows_seen = std::max(max_rows_seen, batch.num_rows());
  if (on_forward) {
    if (absl::Status status = on_forward(batch); !status.ok()) return status;
  }
  if (batch.num_rows() > options_.max_rows ||
      logits.size() != batch.logit_rows.size() * options_.vocab_size) {
    return absl::InvalidArgumentError("puppet: too many rows, or logits of the wrong size");
  }
  size_t next_logits = 0;
  for (int s = 0; s < batch.num_seqs(); ++s) {
    // Word 0 is the hash, word 1 the number of tokens; the rest repeats the hash.
    uint64_t* state =
        static_cast<uint64_t*>(slots.tensor(0)) + batch.slots[s] * (slots.slot_stride(0) / 2);
    if (state[1] != static_cast<uint64_t>(batch.start_positions[s])) {
      return absl::InvalidArgumentError(absl::StrCat("puppet: the state has consumed ", state[1],
                                                     " tokens, the batch says ",
                                                     batch.start_positions[s]));
    }
    for (int row = batch.seq_offsets[s]; row < batch.seq_offsets[s + 1]; ++row) {
      state[0] = Mix(state[0], batch.tokens[row]);
      ++state[1];
      if (next_logits < batch.logit_rows.size() && batch.logit_rows[next_logits] == row) {
        float* out = logits.data() + next_logits * options_.vocab_size;
        FillLogits(state[0], out);
        if (batch.tokens[row] == nan_token) out[0] = std::numeric_limits<float>::quiet_NaN();
        ++next_logits;
      }
    }
    for (int i = 2; i < options_.state_words; ++i) state[i] = state[0];
  }
  return absl::OkStatus();
}

std::vector<int32_t> PuppetModel::Continue(const std::vector<int32_t>& tokens, int count) const {
  uint64_t hash = 0;
  for (int32_t token : tokens) hash = Mix(hash, token);
  std::vector<int32_t> continuation;
  std::vector<float> logits(options_.vocab_size);
  for (int i = 0; i < count; ++i) {
    FillLogits(hash, logits.data());
    const int32_t token =
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    continuation.push_back(token);
    hash = Mix(hash, token);
  }
  return continuation;
}

}  // namespace reprise::scheduler
