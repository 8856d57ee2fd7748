// Griffin / RecurrentGemma (De et al. 2024, arXiv 2402.19427; Botev et al. 2024, arXiv 2404.07839).
//
//   x = scale * E[token]
//   per layer:  x += mixer(norm(x));  x += mlp(norm(x))
//   logits = softcap(W norm(x)),  W = E when tied
#ifndef REPRISE_MODELS_GRIFFIN_H_
#define REPRISE_MODELS_GRIFFIN_H_

#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "models/activations.h"
#include "models/hybrid_model.h"
#include "models/mixers/mixer.h"
#include "models/mlp.h"
#include "models/model_plan.h"
#include "models/step_inputs.h"
#include "models/weights.h"

namespace reprise::models {

class Griffin final : public HybridModel {
 public:
  // Copies what it needs of `weights`. `info` names the architecture and the fingerprint; the sizes
  // are filled in here. context.pool must outlive the model.
  static absl::StatusOr<std::unique_ptr<Griffin>> Create(const RecurrentGemmaConfig& config,
                                                         const Weights& weights, ModelInfo info,
                                                         int max_rows,
                                                         const kernels::Context& context);

  // What Create would make. On CUDA without the queue's scratch and the recorded graphs.
  static ModelPlan Plan(const RecurrentGemmaConfig& config, const Weights& weights, int max_rows,
                        kernels::Device device);

  const ModelInfo& info() const override { return info_; }
  const StateLayout& state_layout() const override { return layout_; }
  int max_rows() const override { return max_rows_; }
  kernels::Context context() const override { return context_; }
  absl::Status Forward(const RaggedBatch& batch, StateSlots& slots,
                       absl::Span<float> logits) override;
  absl::StatusOr<float*> ForwardOnDevice(const RaggedBatch& batch, StateSlots& slots) override;

 private:
  struct Layer {
    kernels::Buffer temporal_norm;  // [hidden]
    kernels::Buffer channel_norm;   // [hidden]
    std::unique_ptr<Mixer> mixer;
    GatedMlp mlp;
  };

  Griffin(const RecurrentGemmaConfig& config, ModelInfo info, int max_rows,
          const kernels::Context& context);
  absl::Status Load(const Weights& weights);
  absl::StatusOr<Layer> LoadLayer(const Weights& weights, int layer) const;
  absl::Status Validate(const RaggedBatch& batch, const StateSlots& slots) const;
  absl::Status ReserveLogits(int rows);
  // The whole step over checked and staged inputs. Queues the same operations for every batch of
  // one shape, so that they can be recorded.
  absl::Status Run(const StepView& view, StateSlots& slots, float* logits) const;
  // All layers. On the CPU norms are passes of their own; on CUDA products have part in them.
  absl::Status LayersInPasses(const MixerStep& step) const;
  absl::Status LayersInChains(const MixerStep& step) const;
  // A decode step: padded to a common size and replayed from a recorded graph.
  absl::Status RunRecorded(const RaggedBatch& batch, StateSlots& slots);
  // On CUDA the stream, the residual, carries what the norm of each reader needs
  // (kernels/matmul.h); on the CPU layers write delta, and Norm adds it.
  absl::Status Embed(const StepView& view) const;
  kernels::ResidualStream StreamInto(const kernels::Buffer& next_norm) const;
  // CPU: residual += delta (when `add`); normed = norm(residual).
  absl::Status Norm(int num_rows, const kernels::Buffer& weight, bool add,
                    const int32_t* row_ids = nullptr) const;
  Operand Normed() const;
  // What the head reads: the norm of the rows that want logits.
  absl::StatusOr<Operand> LogitRows(const StepView& view) const;
  absl::Status Head(const StepView& view, float* logits) const;

  RecurrentGemmaConfig config_;
  ModelInfo info_;
  int max_rows_;
  kernels::Context context_;
  float embedding_scale_ = 1.0f;
  kernels::DType embedding_dtype_ = kernels::DType::kF32;
  kernels::Buffer embedding_;  // [vocab, hidden] of embedding_dtype_
  kernels::PackedMatrix
      lm_head_;                 // packed apart also when tied: the two products read other orders
  kernels::Buffer final_norm_;  // [hidden]
  std::vector<Layer> layers_;
  StateLayout layout_;
  Activations scratch_;
  StepInputs inputs_;

  // CUDA only.
  struct Recording {
    uint64_t slots = 0;  // StateSlots::id
    const float* logits = nullptr;
    kernels::DeviceGraph graph;
  };
  std::map<int, Recording> recordings_;  // by rows
  RaggedBatch padded_;
  kernels::Buffer logits_;  // [rows, vocab], grown as needed
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_GRIFFIN_H_
