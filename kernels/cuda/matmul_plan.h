// How the work of a product is cut: a pure function of the problem, apart from the kernel. No
// choice made here changes a bit of the result.
#ifndef REPRISE_KERNELS_CUDA_MATMUL_PLAN_H_
#define REPRISE_KERNELS_CUDA_MATMUL_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/device_queue.h"
#include "kernels/matmul.h"

namespace reprise::kernels::cuda {

struct MatMulProblem {
  int rows = 0;
  int blocks = 1, n = 0, k = 0;
  bool gated = false;
  int multiprocessors = 132;
  bool e4m3 = false;
  bool capped = false;
};

// When the next kernel's blocks may start and fetch their first weights: at once, which shares the
// bandwidth, or when this kernel has asked for all its weights.
enum class NextStart { kEarly, kLate };

struct MatMulPlan {
  int row_tile = 0;     // 32, 64, 128 or 192; 0: no plan
  int output_tile = 0;  // 64 or 128
  int cluster = 1;      // blocks of the grid that share what they fetch of x, 1 or 2
  bool split = false;   // the segments of a tile go to the blocks of a cluster, one each
  int grid = 0;
  NextStart next_start = NextStart::kEarly;

  bool exists() const { return row_tile != 0; }
};

// A shape of the kernel, and its time on an H200 in units of 10 ns (bench/RESULTS.md): for each
// chunk of inputs of a block's tile, and besides.
struct MatMulShape {
  int row_tile, output_tile;
  int cluster;  // see MatMulPlan
  bool split;
  int chunk_time, tile_time;
};
inline constexpr MatMulShape kBf16Shapes[] = {
    {32, 64, 1, false, 16, 150},   {32, 128, 1, false, 22, 165},  {64, 128, 1, false, 18, 226},
    {128, 128, 1, false, 30, 420}, {192, 128, 2, false, 44, 445}, {32, 64, 1, true, 30, 240},
    {64, 128, 1, true, 43, 415},   {128, 128, 1, true, 44, 670},
};
// Those that exist for e4m3 weights: fewer, since they are compiled apart, and a tile of 192 rows
// would need too many registers.
inline constexpr MatMulShape kE4m3Shapes[] = {
    {32, 64, 1, false, 18, 255},   {32, 128, 1, false, 21, 295}, {64, 128, 1, false, 24, 300},
    {128, 128, 2, false, 33, 430}, {32, 64, 1, true, 29, 230},   {64, 128, 1, true, 26, 490},
    {128, 128, 1, true, 34, 640},
};
inline absl::Span<const MatMulShape> MatMulShapes(bool e4m3) {
  return e4m3 ? absl::MakeConstSpan(kE4m3Shapes) : absl::MakeConstSpan(kBf16Shapes);
}

inline int64_t TileCount(const MatMulProblem& p, int row_tile, int output_tile) {
  const int64_t outputs = int64_t{PackedLayout::Of(p.n, p.k).tiles} * kTileOutputs;
  return p.blocks * ((outputs + output_tile - 1) / output_tile) *
         ((p.rows + row_tile - 1) / row_tile);
}

// No plan where the shape is not for this product.
inline MatMulPlan PlanShape(const MatMulProblem& p, const MatMulShape& shape) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  if (shape.split && (p.gated || p.capped || layout.segments == 1)) return {};
  const int64_t tiles = TileCount(p, shape.row_tile, shape.output_tile * shape.cluster);
  const int64_t blocks =
      shape.split ? tiles * layout.segments
                  : std::min<int64_t>(p.multiprocessors / shape.cluster, tiles) * shape.cluster;
  if (tiles * layout.segments > std::numeric_limits<int>::max()) return {};
  MatMulPlan plan;
  plan.row_tile = shape.row_tile;
  plan.output_tile = shape.output_tile;
  plan.cluster = shape.cluster;
  plan.split = shape.split;
  plan.grid = static_cast<int>(blocks);
  // In a step of few rows the small kernels between two products come first.
  plan.next_start = p.rows <= 256 ? NextStart::kLate : NextStart::kEarly;
  return plan;
}

// What a block of a split tile takes longer where two share a multiprocessor, and a wide tile where
// multiprocessors get several, in percent.
inline constexpr int kTwoBlocksTime = 138, kSeveralTilesTime = 112;

// How long a plan takes, in units of 10 ns.
inline int64_t TimeOf(const MatMulProblem& p, const MatMulShape& shape) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  const int64_t tiles = TileCount(p, shape.row_tile, shape.output_tile * shape.cluster);
  const int64_t time =
      int64_t{shape.split ? layout.segment_chunks : layout.chunks} * shape.chunk_time +
      shape.tile_time;
  if (!shape.split) {
    const int64_t at_once = std::max(p.multiprocessors / shape.cluster, 1);
    const int percent = tiles > at_once && shape.row_tile > 32 ? kSeveralTilesTime : 100;
    return (tiles + at_once - 1) / at_once * (time * percent / 100);
  }
  const int blocks = shape.output_tile == 64 ? 2 : 1;  // on a multiprocessor
  // Clusters find room in 5 of 6 places.
  const int64_t at_once =
      std::max<int64_t>(int64_t{p.multiprocessors} * blocks * 5 / 6 / layout.segments, 1);
  const int64_t crowded = blocks > 1 ? time * kTwoBlocksTime / 100 : time;
  const int64_t rest = tiles % at_once;
  return tiles / at_once * crowded + (rest == 0                                    ? 0
                                      : rest * layout.segments > p.multiprocessors ? crowded
                                                                                   : time);
}

// The plan that takes the least time.
inline MatMulPlan PlanMatMul(const MatMulProblem& p) {
  MatMulPlan best;
  int64_t best_time = 0;
  for (const MatMulShape& shape : MatMulShapes(p.e4m3)) {
    if (shape.cluster > 1 && p.blocks > 1) continue;  // too short to gain by it
    // A smaller tile fetches less.
    if (shape.row_tile > 32 && p.rows <= shape.row_tile / 2) continue;
    const MatMulPlan plan = PlanShape(p, shape);
    if (!plan.exists()) continue;
    const int64_t time = TimeOf(p, shape);
    if (best.exists() && time >= best_time) continue;
    best = plan;
    best_time = time;
  }
  return best;
}

// The product by a given plan. Rows of x, and its blocks, begin at multiples of 16 bytes.
absl::Status MatMulByPlan(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue);
// The kernel of a product; its residual stream is of split plans only. Blocks of x are
// `x_block_stride` elements apart.
absl::Status TileMatMul(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue,
                        int64_t x_block_stride);
MatMulProblem ProblemOf(const MatMulParams& params, const DeviceQueue& queue);

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_MATMUL_PLAN_H_
