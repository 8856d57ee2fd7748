// What the operations with window attention check alike.
#ifndef REPRISE_KERNELS_INTERNAL_VALIDATE_ATTENTION_H_
#define REPRISE_KERNELS_INTERNAL_VALIDATE_ATTENTION_H_

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels::internal {

// Sizes, the rings, the output's stride and the rows; not the tensors.
inline void ValidateWindow(Validator& v, const WindowAttentionParams& p, int most_head_dim,
                           const Context& context) {
  v.AtLeast("heads", p.heads, 1)
      .Range("kv_heads", p.kv_heads, 1, p.heads)
      .Range("head_dim", p.head_dim, 1, most_head_dim)
      .Range("window", p.window, 1, 1 << 30);
  if (!v.ok()) return;
  const int64_t kv_elements = int64_t{p.kv_heads} * p.head_dim;
  v.Check(p.heads % p.kv_heads == 0, "kv_heads", absl::StrCat("a divisor of heads ", p.heads),
          absl::StrCat(p.kv_heads))
      .AtLeast("ring_blocks", p.ring_blocks, WindowBlocks(p.window))
      .Positive("scale", p.scale)
      .AtLeast("out_stride", p.out_stride, int64_t{p.heads} * p.head_dim)
      .AtLeast("k_slot_stride", p.k_slot_stride, p.ring_blocks * kv_elements * kGridTokens)
      .AtLeast("v_slot_stride", p.v_slot_stride, p.ring_blocks * kv_elements * kGridTokens)
      .Rows(p.rows, p.num_slots, context);
}

}  // namespace reprise::kernels::internal

#endif  // REPRISE_KERNELS_INTERNAL_VALIDATE_ATTENTION_H_
