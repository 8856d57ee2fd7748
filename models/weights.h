// The tensors of one checkpoint that a model needs: found, checked against the weight table and
// turned into what kernels take.
#ifndef REPRISE_MODELS_WEIGHTS_H_
#define REPRISE_MODELS_WEIGHTS_H_

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/matmul.h"
#include "models/recurrent_gemma_config.h"
#include "models/safetensors.h"
#include "models/weight_table.h"

namespace reprise::models {

// Borrows the checkpoint. Thread-safe.
class Weights {
 public:
  // Every needed tensor is present, has its shape and a float dtype, or the error names file and
  // tensor: DATA_LOSS for a missing one, INVALID_ARGUMENT otherwise. Nothing is allocated before
  // that, so sizes in the config are as large as the file at most.
  static absl::StatusOr<Weights> Resolve(const Checkpoint& checkpoint,
                                         const RecurrentGemmaConfig& config);

  // `layer` is -1 for weights of the whole model. Null when the config has no such weight.
  const TensorView* Find(WeightId id, int layer) const;

  // The tensor as float32, in the checkpoint's order; an empty buffer when the config has none.
  absl::StatusOr<kernels::Buffer> Floats(WeightId id, int layer,
                                         const kernels::Context& context) const;
  // The tensor's bytes as they are, aligned.
  absl::StatusOr<kernels::Buffer> Raw(WeightId id, int layer,
                                      const kernels::Context& context) const;
  // [n, k] as it stands, or [blocks, k, n] for the block-diagonal gates.
  absl::StatusOr<kernels::PackedMatrix> Matrix(WeightId id, int layer,
                                               const kernels::Context& context) const;

  // Hex SHA-256 over config.json and the name, dtype, shape and data of each needed tensor: the
  // same however the tensors are spread over files. Reads all weights once, in parallel, and also
  // looks for infinities and NaNs (DATA_LOSS).
  absl::StatusOr<std::string> Fingerprint(std::string_view config_json,
                                          const kernels::Context& context) const;

  // Tensors of the checkpoint that the model does not read.
  const std::vector<std::string>& unused() const { return unused_; }
  int64_t num_parameters() const;
  std::string dtype() const;  // of most bytes: "bf16", "f16", "f32"

 private:
  std::map<std::pair<int, WeightId>, const TensorView*> tensors_;  // by layer, in table order
  std::vector<std::string> unused_;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_WEIGHTS_H_
