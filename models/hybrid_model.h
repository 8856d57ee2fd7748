// models: checkpoints -> a runnable HybridModel. Knows layers, and nothing of requests.
//
// A model is loaded from a Hugging Face checkpoint folder (config.json, *.safetensors, tokenizer
// files) by LoadModel (models/load_model.h). Forward is the one way through it: prefill, decode,
// verification and scoring are the same call with other lengths, and a row's logits have the same
// bits in all of them (kernels/kernels.h, "numerics contract").
//
// A new architecture is a config parser, a weight table and, if its recurrence is new, one mixer.
#ifndef REPRISE_MODELS_HYBRID_MODEL_H_
#define REPRISE_MODELS_HYBRID_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/ragged_batch.h"
#include "models/state_layout.h"
#include "models/state_slots.h"

namespace reprise::models {

// Facts about a loaded model; all fixed at load.
struct ModelInfo {
  std::string architecture;         // config.json "model_type", e.g. "recurrent_gemma"
  std::string weights_fingerprint;  // hex SHA-256 over config and weight files
  int vocab_size = 0;
  int num_layers = 0;
  int hidden_size = 0;
  int64_t num_parameters = 0;
  size_t weight_bytes = 0;                  // as held in memory
  std::string dtype;                        // of most weights: "bf16", "f16", "f32", "e4m3"
  std::vector<std::string> unused_tensors;  // in the checkpoint and not read
};

// Immutable weights plus the activations of one step. Forward must not be called from two threads
// at once.
class HybridModel {
 public:
  virtual ~HybridModel() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const StateLayout& state_layout() const = 0;
  // Most rows that one Forward takes, fixed at load (activations are allocated once).
  virtual int max_rows() const = 0;

  // Feeds batch.tokens and moves the named slots' states to the end of their rows. Writes the
  // logits of batch.logit_rows to `logits` [logit_rows.size(), vocab_size], row-major.
  // INVALID_ARGUMENT for a malformed batch (bad offsets, duplicate or unknown slot, token outside
  // the vocabulary, too many rows, wrong size of `logits`); then no state has moved. `logits` is
  // host memory and complete on return.
  virtual absl::Status Forward(const RaggedBatch& batch, StateSlots& slots,
                               absl::Span<float> logits) = 0;

  // The same, with the logits in the model's own memory on its device, where they stay until the
  // next call. On CUDA the work is queued on the model's queue, and its errors show at the next
  // synchronization. RESOURCE_EXHAUSTED when there is no memory for that many rows of logits.
  // UNIMPLEMENTED for a model that has no device.
  virtual absl::StatusOr<float*> ForwardOnDevice(const RaggedBatch& batch, StateSlots& slots);

  // Where the model runs.
  virtual kernels::Context context() const { return {}; }
};

inline absl::StatusOr<float*> HybridModel::ForwardOnDevice(const RaggedBatch&, StateSlots&) {
  return absl::UnimplementedError("this model gives its logits to the host only");
}

}  // namespace reprise::models

#endif  // REPRISE_MODELS_HYBRID_MODEL_H_
