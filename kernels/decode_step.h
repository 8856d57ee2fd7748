// The operations of a decode step, one row per sequence and few rows, as few kernels on CUDA: the
// work between two attentions is one kernel whose blocks stay, meet between operations and stream
// weights all the while. The operations are those of the other headers and give the same bits.
#ifndef REPRISE_KERNELS_DECODE_STEP_H_
#define REPRISE_KERNELS_DECODE_STEP_H_

#include <variant>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/recurrence.h"

namespace reprise::kernels {

inline constexpr int kMostDecodeRows = 4;

// out = x W, where norm.weight is set of x = norm(norm.x + norm.delta).
struct DecodeProduct {
  MatMulParams matmul;        // one block; with a norm x_bf16 is room for its output
  RmsNormParams norm;         // of rows 0..num_rows-1; out and out_bf16 are not written
  float* residual = nullptr;  // where norm.x + norm.delta goes; not norm.x, which others still read
};

// The convolution, the gates that read it (input gates' blocks, then recurrent gates') and the
// recurrence, joined. Intermediate tensors are not written: conv.out, conv.out_bf16, gates.x_bf16,
// gates.out and lru.u, lru.input_gate, lru.recurrent_gate may be null.
struct DecodeRecurrence {
  CausalConv1dParams conv;
  MatMulParams gates;
  RgLruParams lru;
};

// Rotation of queries and keys, then window attention.
struct DecodeAttention {
  RopeParams rope;
  WindowAttentionParams attention;
};

using DecodeOp = std::variant<DecodeProduct, DecodeRecurrence, DecodeAttention>;

// Whether Decode takes these operations: a CUDA device, 1..kMostDecodeRows rows, and sizes that are
// multiples of 64 where they are summed over.
bool CanDecode(absl::Span<const DecodeOp> ops, const Context& context);

// Queues the operations in order. Every sequence has one row, so that row s belongs to sequence s.
// An operation may read what an earlier one wrote, but must not write what the one before it reads.
// UNIMPLEMENTED where CanDecode is false.
absl::Status Decode(absl::Span<const DecodeOp> ops, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_DECODE_STEP_H_
