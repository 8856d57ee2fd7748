// Griffin's recurrent block (De et al. 2024, section 2.3):
//   y = act(linear_y x);  u = conv(linear_x x);  out = linear_out(RG-LRU(u) * y)
#ifndef REPRISE_MODELS_MIXERS_RG_LRU_MIXER_H_
#define REPRISE_MODELS_MIXERS_RG_LRU_MIXER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/recurrence.h"
#include "kernels/recurrent_step.h"
#include "models/linear.h"
#include "models/mixers/mixer.h"

namespace reprise::models {

// State: conv_tail [conv_width - 1, lru_width] (none for a width of 1), rg_lru [3, lru_width].
class RgLruMixer final : public Mixer {
 public:
  // Without weights: it can say what it remembers, and no more.
  explicit RgLruMixer(const RecurrentGemmaConfig& config);
  static absl::StatusOr<std::unique_ptr<RgLruMixer>> Load(const Weights& weights,
                                                          const RecurrentGemmaConfig& config,
                                                          int layer,
                                                          const kernels::Context& context);

  void DeclareState(int layer, StateLayout& layout) override;
  kernels::MatMulParams First(const MixerStep& step, const Operand& x) const override;
  absl::Status Mix(const MixerStep& step) const override;
  kernels::MatMulParams Last(const MixerStep& step, const Sink& out) const override;
  size_t bytes() const override;

 private:
  kernels::CausalConv1dParams Convolution(const MixerStep& step) const;
  kernels::RgLruParams Recurrence(const MixerStep& step) const;
  // All that lies between the two linear layers.
  kernels::RecurrentStepParams Together(const MixerStep& step) const;

  int width_;
  int conv_width_;
  kernels::Activation activation_;
  Linear linear_in_;  // y, then x
  Linear gates_;      // input gate, then recurrent gate; block-diagonal
  Linear linear_out_;
  kernels::Buffer conv_weight_;  // [conv_width, width]
  kernels::Buffer conv_bias_;    // [width]
  kernels::Buffer log_a_scale_;  // [width], -8 softplus(recurrent_param)
  int conv_index_ = -1;
  int lru_index_ = -1;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_MIXERS_RG_LRU_MIXER_H_
