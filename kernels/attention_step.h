// Attention of a decode step as one kernel on CUDA.
#ifndef REPRISE_KERNELS_ATTENTION_STEP_H_
#define REPRISE_KERNELS_ATTENTION_STEP_H_

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/kernels.h"

namespace reprise::kernels {

// The rotation, and the attention that reads it: of rope.x the first heads are the queries, then
// come keys, then values (rope.heads = heads + kv_heads, rope.plain_heads = kv_heads). The rotated
// tensor is not written: rope.out_bf16 and attention.q_bf16, k_bf16, v_bf16 may be null.
struct AttentionStepParams {
  RopeParams rope;
  WindowAttentionParams attention;
};

// Whether AttentionStep takes this attention: a CUDA device, one row or more of which each is a
// sequence of its own and not so many that separate kernels are as fast, up to 16 heads per kv head
// of a multiple of 16 up to 256 elements, a window of at most 8 groups of keys, at most 2^14 blocks
// of a ring, and rows, slots and tables that begin at multiples of 16 bytes (8 of out_bf16).
bool CanAttentionStep(const AttentionStepParams& params, const Context& context);

// Row s belongs to sequence s. Gives the bits of Rope and WindowAttention. attention.out_bf16 must
// not overlap rope.x. INVALID_ARGUMENT as from those two, UNIMPLEMENTED where CanAttentionStep is
// false.
//
// Keys and values in the rings are read while the kernel before may still run: nothing that is
// queued after the step's rows were copied may write there.
absl::Status AttentionStep(const AttentionStepParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_ATTENTION_STEP_H_
