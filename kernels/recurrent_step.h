// The recurrent part of a decode step as one kernel on CUDA.
#ifndef REPRISE_KERNELS_RECURRENT_STEP_H_
#define REPRISE_KERNELS_RECURRENT_STEP_H_

#include "absl/status/status.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/recurrence.h"

namespace reprise::kernels {

// The convolution, the gates that read it (input gates' blocks, then recurrent gates') and the
// recurrence, joined. Intermediate tensors are not written: conv.out, conv.out_bf16, gates.x_bf16,
// gates.out and lru.u, lru.input_gate, lru.recurrent_gate may be null.
struct RecurrentStepParams {
  CausalConv1dParams conv;
  MatMulParams gates;
  RgLruParams lru;
};

// Whether RecurrentStep takes this recurrence: a CUDA device, one row or more of which each is a
// sequence of its own and not so many that several kernels are as fast, a convolution of 4 taps,
// bf16 gates of square blocks of a multiple of 64 up to 512, a join, and rows, states and vectors
// that begin at multiples of 16 bytes (8 of out_bf16).
bool CanRecurrentStep(const RecurrentStepParams& params, const Context& context);

// Row s belongs to sequence s. Gives the bits of CausalConv1d, MatMul and RgLru. lru.out_bf16 must
// overlap neither conv.x nor lru.join. INVALID_ARGUMENT as from those three, UNIMPLEMENTED where
// CanRecurrentStep is false.
absl::Status RecurrentStep(const RecurrentStepParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_RECURRENT_STEP_H_
