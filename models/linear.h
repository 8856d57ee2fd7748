// y = W x + b with weights from a checkpoint.
#ifndef REPRISE_MODELS_LINEAR_H_
#define REPRISE_MODELS_LINEAR_H_

#include <initializer_list>

#include "absl/status/statusor.h"
#include "kernels/matmul.h"
#include "models/activations.h"
#include "models/weights.h"

namespace reprise::models {

// A linear layer of a checkpoint and the one that holds its bias.
struct LinearNames {
  WeightId weight, bias;
};

// Immutable.
class Linear {
 public:
  // Several layers that read the same inputs become one product, their outputs side by side (of
  // block-diagonal ones: all blocks of the first, then all of the second). A bias that the config
  // does not have is none. `gated`: two layers, see PackedMatrix::Source.
  static absl::StatusOr<Linear> Load(const Weights& weights,
                                     std::initializer_list<LinearNames> layers, int layer,
                                     const kernels::Context& context, bool gated = false);
  Linear() = default;

  int64_t inputs() const { return int64_t{weight_.x_blocks()} * weight_.k(); }
  int64_t outputs() const {
    return int64_t{weight_.blocks()} * weight_.n() / (weight_.gated() ? 2 : 1);
  }
  size_t bytes() const { return weight_.bytes() + bias_.size(); }

  // x [num_rows, inputs] at x_stride (0: dense) -> out [num_rows, outputs], dense; they must not
  // overlap. Gated weights (CUDA): out = act(gate) * up.
  kernels::MatMulParams Product(
      int num_rows, const Operand& x, const Sink& out, int64_t x_stride = 0,
      kernels::Activation activation = kernels::Activation::kGeluTanh) const;

  // Weights, bias and output stride of a product.
  void SetWeights(kernels::MatMulParams& params) const;

 private:
  kernels::PackedMatrix weight_;
  kernels::Buffer bias_;  // [outputs] or empty
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_LINEAR_H_
