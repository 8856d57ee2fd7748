// The gated MLP of a layer: down(act(gate(x)) * up(x)), all three with bias.
#ifndef REPRISE_MODELS_MLP_H_
#define REPRISE_MODELS_MLP_H_

#include <array>

#include "absl/status/statusor.h"
#include "kernels/elementwise.h"
#include "models/activations.h"
#include "models/linear.h"

namespace reprise::models {

// Immutable.
class GatedMlp {
 public:
  static absl::StatusOr<GatedMlp> Load(const Weights& weights, const RecurrentGemmaConfig& config,
                                       int layer, const kernels::Context& context);
  GatedMlp() = default;

  size_t bytes() const { return gate_up_.bytes() + down_.bytes(); }

  // x, out: [num_rows, hidden]. On the CPU.
  absl::Status Run(int num_rows, const Operand& x, const Sink& out, const Activations& scratch,
                   const kernels::Context& context) const;
  // On CUDA: its two products, in order.
  std::array<kernels::MatMulParams, 2> Products(int num_rows, const Operand& x, const Sink& out,
                                                const Activations& scratch) const;

 private:
  kernels::Activation activation_ = kernels::Activation::kGeluTanh;
  Linear gate_up_, down_;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_MLP_H_
