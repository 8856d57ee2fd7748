// How a product is cut into tiles. Apart from the kernel, so that it can be tested alone. No choice
// made here changes a bit of the result: every output adds its products in one order.
#ifndef REPRISE_KERNELS_CPU_MATMUL_PLAN_H_
#define REPRISE_KERNELS_CPU_MATMUL_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace reprise::kernels::cpu {

struct MatMulPlan {
  size_t row_block = 1;  // rows of a tile
  size_t row_blocks = 1;
  size_t micro_rows = 1;  // rows of one call of the micro-kernel
  size_t k_block = 1;     // inputs between two loads of the partial sums
  bool blocked = false;   // several groups of rows share a K block, widened by the first
  int64_t grain = 1;      // tiles that a thread takes at a time
};

inline MatMulPlan PlanMatMul(size_t rows, size_t panels, size_t k, int threads,
                             size_t max_micro_rows) {
  // 32 KiB of float32 weights: a K block of one panel stays in the first-level cache.
  constexpr size_t kBlock = 128;
  // The x rows of a K block and the partial sums stay in the second level: 3/8 MiB together.
  constexpr size_t kMaxRowBlock = 504;
  const auto up = [](size_t value, size_t by) { return (value + by - 1) / by; };
  MatMulPlan plan;
  // Even groups: 8 rows are 4 + 4, for 6 + 2 would take as long as 6 + 6.
  plan.micro_rows = up(rows, up(rows, max_micro_rows));
  if (rows <= max_micro_rows) {
    plan.row_block = rows;
    plan.k_block = k;
    return plan;
  }
  plan.blocked = true;
  plan.k_block = kBlock;
  size_t row_blocks = up(rows, kMaxRowBlock);
  // Few panels: cut the rows so that every thread finds work.
  while (row_blocks * panels < 2 * static_cast<size_t>(threads) &&
         up(rows, row_blocks) > 4 * max_micro_rows) {
    ++row_blocks;
  }
  plan.row_block = up(up(rows, row_blocks), plan.micro_rows) * plan.micro_rows;
  plan.row_blocks = up(rows, plan.row_block);
  return plan;
}

}  // namespace reprise::kernels::cpu

#endif  // REPRISE_KERNELS_CPU_MATMUL_PLAN_H_
