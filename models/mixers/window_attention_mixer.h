// Griffin's local attention: rotary positions on the first dimensions of each head, key/value heads
// shared by groups of query heads, and the authors' window (a query sees `window` keys and its
// own).
#ifndef REPRISE_MODELS_MIXERS_WINDOW_ATTENTION_MIXER_H_
#define REPRISE_MODELS_MIXERS_WINDOW_ATTENTION_MIXER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "models/linear.h"
#include "models/mixers/mixer.h"

namespace reprise::models {

// State, with ring blocks of kGridTokens positions:
//   kv_window.k [ring_blocks, kv_heads, head_dim, kGridTokens], float32
//   kv_window.v [ring_blocks, kv_heads, kGridTokens, head_dim], float32
// On CUDA both lie as kv_window.v, in bfloat16.
class WindowAttentionMixer final : public Mixer {
 public:
  // Without weights: it can say what it remembers, and no more.
  explicit WindowAttentionMixer(const RecurrentGemmaConfig& config);
  static absl::StatusOr<std::unique_ptr<WindowAttentionMixer>> Load(
      const Weights& weights, const RecurrentGemmaConfig& config, int layer,
      const kernels::Context& context);

  void DeclareState(int layer, StateLayout& layout) override;
  kernels::MatMulParams First(const MixerStep& step, const Operand& x) const override;
  absl::Status Mix(const MixerStep& step) const override;
  kernels::MatMulParams Last(const MixerStep& step, const Sink& out) const override;
  size_t bytes() const override;

 private:
  kernels::RopeParams Rotation(const MixerStep& step) const;
  kernels::WindowAttentionParams Attention(const MixerStep& step) const;

  int heads_, kv_heads_, head_dim_, rotary_dims_, window_, ring_blocks_;
  Linear qkv_, out_;
  int keys_index_ = -1;
  int values_index_ = -1;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_MIXERS_WINDOW_ATTENTION_MIXER_H_
