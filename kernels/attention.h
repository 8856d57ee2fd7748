// Sliding-window attention over a ring of key and value blocks, and rotary positions.
#ifndef REPRISE_KERNELS_ATTENTION_H_
#define REPRISE_KERNELS_ATTENTION_H_

#include <cstdint>

#include "kernels/kernels.h"

namespace reprise::kernels {

// cos and sin of position * theta^(-2 i / rotary_dims), i < rotary_dims / 2, for each row. The
// angle is a float32 product, as in the reference implementations; cos and sin are taken in double
// and rounded. Computed once per step and shared by all layers.
struct RopeTableParams {
  RaggedRows rows;
  int rotary_dims = 0;  // even, may be 0
  float theta = 10000.0f;
  float* cos = nullptr;  // [num_rows, rotary_dims / 2]
  float* sin = nullptr;  // [num_rows, rotary_dims / 2]
};
absl::Status RopeTable(const RopeTableParams& params, const Context& context);

// Rotates the first rotary_dims of each of the first `heads` heads of x, in place; dimension i
// pairs with i + rotary_dims / 2. With out_bf16, x stays as it is and heads + plain_heads heads are
// written, rounded, the last plain_heads of them not rotated.
struct RopeParams {
  int num_rows = 0;
  int heads = 0;
  int head_dim = 0;
  int rotary_dims = 0;
  int64_t x_stride = 0;        // floats between rows, >= (heads + plain_heads) * head_dim
  const float* cos = nullptr;  // [num_rows, rotary_dims / 2]
  const float* sin = nullptr;  // [num_rows, rotary_dims / 2]
  float* x = nullptr;          // [num_rows, heads + plain_heads, head_dim]
  int plain_heads = 0;
  BF16* out_bf16 = nullptr;  // CUDA: [num_rows, heads + plain_heads, head_dim]
  int64_t out_stride = 0;    // elements between rows of out_bf16, >= as x_stride
};
absl::Status Rope(const RopeParams& params, const Context& context);

// Ring blocks of one group of keys on CUDA.
inline constexpr int kSplitBlocks = 4;

// Blocks of kGridTokens positions that a ring needs for `window`: those that a query can see and
// the one being written.
constexpr int WindowBlocks(int window) { return (window + kGridTokens - 1) / kGridTokens + 1; }

// Causal attention in which the query at position p sees the keys at p - window .. p (window + 1
// keys with its own, as in the authors' code of Griffin), heads sharing kv_heads in consecutive
// groups:
//   out = softmax(scale * q K^T) V
// The keys live in a ring of blocks: absolute block b = position / kGridTokens lies at ring index
// b mod ring_blocks. This step's k and v are written there; rows are taken in pieces that end at
// grid boundaries, so that no key is overwritten while a row of the step still sees it. Order of
// operations of one row and head: blocks in ascending absolute order; within a block the scores
// (sum over head_dim in order), the block's maximum, exponentials and sum and the weighted values,
// both in order of position; blocks are merged one after the other into a running (maximum, sum,
// output) as in online softmax. Positions outside the window are skipped and add nothing. The
// ring's content outside the window is never read into a result. out may not overlap q, k or v.
//
// On CUDA q, k, v, the rings and out are bf16, scores and sums float32; the ring's keys lie as its
// values do. Blocks are merged within groups of kSplitBlocks blocks (cut by absolute position), and
// the groups one after the other; see kernels/cuda/attention_window.cu.
struct WindowAttentionParams {
  RaggedRows rows;
  int heads = 0;
  int kv_heads = 0;     // divides heads
  int head_dim = 0;     // 1..512
  int window = 0;       // >= 1
  int ring_blocks = 0;  // >= WindowBlocks(window)
  float scale = 0.0f;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0, out_stride = 0;  // floats between rows
  int64_t k_slot_stride = 0, v_slot_stride = 0;                      // floats between slots
  int num_slots = 0;
  const float* q = nullptr;  // [num_rows, heads, head_dim], rotated
  const float* k = nullptr;  // [num_rows, kv_heads, head_dim], rotated
  const float* v = nullptr;  // [num_rows, kv_heads, head_dim]
  float* k_ring = nullptr;   // [num_slots, ring_blocks, kv_heads, head_dim, kGridTokens]
  float* v_ring = nullptr;   // [num_slots, ring_blocks, kv_heads, kGridTokens, head_dim]
  float* out = nullptr;      // [num_rows, heads, head_dim]
  // CUDA. Strides above count elements of these.
  const BF16 *q_bf16 = nullptr, *k_bf16 = nullptr, *v_bf16 = nullptr;
  BF16* k_ring_bf16 = nullptr;  // [num_slots, ring_blocks, kv_heads, kGridTokens, head_dim]
  BF16* v_ring_bf16 = nullptr;  // the same
  BF16* out_bf16 = nullptr;
};
absl::Status WindowAttention(const WindowAttentionParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_ATTENTION_H_
