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
#include "models/weight_format.h"
#include "models/weight_table.h"

namespace reprise::models {

// Borrows the checkpoint. Thread-safe.
class Weights {
 public:
  // Every needed tensor is present, has its shape and a float dtype, or the error names file and
  // tensor: DATA_LOSS for a missing one, INVALID_ARGUMENT otherwise. Nothing is allocated before
  // that, so sizes in the config are as large as the file at most.
  static absl::StatusOr<Weights> Resolve(const Checkpoint& checkpoint,
                                         const RecurrentGemmaConfig& config,
                                         WeightFormat format = WeightFormat::kCheckpoint);

  // `layer` is -1 for weights of the whole model. Null when the config has no such weight.
  const TensorView* Find(WeightId id, int layer) const;

  // The tensor as float32, in the checkpoint's order; empty when the config has none.
  absl::StatusOr<std::vector<float>> HostFloats(WeightId id, int layer) const;
  // The tensors one after the other as float32, on the context's device; an empty buffer when the
  // config has none of them. It has all or none.
  absl::StatusOr<kernels::Buffer> Floats(const std::vector<WeightId>& ids, int layer,
                                         const kernels::Context& context) const;
  // The tensor's bytes as they are, aligned, on the context's device.
  absl::StatusOr<kernels::Buffer> Raw(WeightId id, int layer,
                                      const kernels::Context& context) const;
  // [n, k] as it stands, or [blocks, k, n] for the block-diagonal gates. Of several tensors with
  // the same k: their outputs side by side, or all their blocks, which read the same x. In the
  // format that was asked for, if it may be in it.
  absl::StatusOr<kernels::PackedMatrix> Matrix(const std::vector<WeightId>& ids, int layer,
                                               const kernels::Context& context,
                                               bool gated = false) const;

  // Hex SHA-256 over config.json, the format where it is not kCheckpoint, and the name, dtype,
  // shape and data of each needed tensor: the same however the tensors are spread over files. Reads
  // all weights once, in parallel, and also looks for infinities and NaNs (DATA_LOSS).
  absl::StatusOr<std::string> Fingerprint(std::string_view config_json,
                                          const kernels::Context& context) const;

  // What the model's weights take on that device, rounded up where tensors that are packed together
  // would share padding.
  size_t BytesAtMost(const RecurrentGemmaConfig& config, kernels::Device device) const;

  // Tensors of the checkpoint that the model does not read.
  const std::vector<std::string>& unused() const { return unused_; }
  int64_t num_parameters() const;
  // "e4m3" in WeightFormat::kFp8, otherwise of most bytes: "bf16", "f16", "f32".
  std::string dtype() const;

 private:
  WeightFormat format_ = WeightFormat::kCheckpoint;
  std::map<std::pair<int, WeightId>, const TensorView*> tensors_;  // by layer, in table order
  std::vector<std::string> unused_;
};

// `values` on the context's device.
absl::StatusOr<kernels::Buffer> UploadFloats(const std::vector<float>& values,
                                             const kernels::Context& context);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_WEIGHTS_H_
