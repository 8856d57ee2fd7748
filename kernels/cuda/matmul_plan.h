// Which kernel runs a product, and how the work is cut: a pure function of the problem, apart from
// the kernels. No choice made here changes a bit of the result.
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
  // x can be fetched by the copy engine: 16-byte aligned in all its strides.
  bool x_aligned = true;
  int multiprocessors = 132;
  bool e4m3 = false;
};

// How a block of the kernel for few rows uses its shared memory.
struct FewCut {
  int depth = 0;  // slots of each warp's ring
  int panel = 0;  // segments of x at a time
  int panels = 0;
  int tiles = 0;        // of the block that has most, the halves at both ends counted in full
  int slice_bytes = 0;  // of a row of x for one block of the matrix
  int x_row_bytes = 0;
  int x_offset = 0, parts_offset = 0, totals_offset = 0, barriers_offset = 0, shared_bytes = 0;
};

// See Turn in matmul_kernels.cuh.
enum class NextStart { kEarly, kLate, kTurns };
inline constexpr int kTurnWords = 256;  // the last of the queue's counters

struct MatMulPlan {
  // Few rows: x in shared memory, mma.sync, bound by the bytes of the weights. Many: wgmma.
  enum class Kernel { kNone, kFew, kMany };
  Kernel kernel = Kernel::kNone;
  int row_tile = 0;  // few: most rows of one launch, 1..8; many: 32, 64, 128, 192 or 256
  int grid = 0;
  NextStart next_start = NextStart::kEarly;
  FewCut few;
  // Many:
  int output_tile = 0;  // 64 or 128
  int cluster = 1;      // blocks of the grid that share what they fetch of x, 1 or 2
  bool split = false;   // the segments of a tile go to the blocks of a cluster, one each
};

// Few rows -------------------------------------------------------------------------------------

inline constexpr int kMostFewRows = 8;
inline constexpr int kFewWarps = 8;
inline constexpr int kFewSlotBytes = 2 * kChunkBytes;
inline constexpr int kFewMostDepth = 3;
// Blocks of two products fit on a multiprocessor, and small ones of kernels between them.
inline constexpr int64_t kFewSharedBytes = 110 << 10;
inline constexpr int64_t kMostSharedBytes = 226 << 10;  // where one must do

// Shared memory for panels of `panel` segments and rings of `depth` slots; shared_bytes is 0 where
// it does not fit.
inline FewCut CutFew(const MatMulProblem& p, int rows, int grid, int panel, int depth,
                     int64_t most_bytes = kFewSharedBytes) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  FewCut cut;
  cut.depth = depth;
  cut.panel = panel;
  cut.panels = (layout.segments + panel - 1) / panel;
  const int64_t all = int64_t{p.blocks} * layout.tiles;
  const int64_t tiles = p.gated ? (all + grid - 1) / grid : (2 * all + grid - 1) / grid / 2 + 1;
  const int64_t blocks =  // of the matrix, that these may belong to
      tiles < 2 ? 1 : std::min<int64_t>(p.blocks, (tiles - 2) / layout.tiles + 2);
  const auto align = [](int64_t bytes) { return (bytes + 127) / 128 * 128; };
  const int64_t slice_bytes = int64_t{std::min(panel * layout.SegmentInputs(), layout.Inputs())} * 2;
  const int64_t x_row_bytes = blocks * slice_bytes + 16;  // + 16: rows start in different banks
  const int64_t lanes_bytes = 32 * 4 * int64_t{sizeof(float)};  // a tile's sums
  const int64_t x_offset = int64_t{depth} * kFewWarps * kFewSlotBytes;
  const int64_t parts_offset = x_offset + align(rows * x_row_bytes);
  const int64_t totals_offset = parts_offset + (panel > 1 ? 2 * panel * lanes_bytes : 0);
  const int64_t barriers_offset = totals_offset + (cut.panels > 1 ? tiles * lanes_bytes : 0);
  const int64_t shared_bytes =
      barriers_offset + (depth * kFewWarps * 2 + (panel > 1 ? 2 * tiles : 0)) * 8;
  if (shared_bytes > most_bytes) return cut;
  cut.tiles = static_cast<int>(tiles);
  cut.slice_bytes = static_cast<int>(slice_bytes);
  cut.x_row_bytes = static_cast<int>(x_row_bytes);
  cut.x_offset = static_cast<int>(x_offset);
  cut.parts_offset = static_cast<int>(parts_offset);
  cut.totals_offset = static_cast<int>(totals_offset);
  cut.barriers_offset = static_cast<int>(barriers_offset);
  cut.shared_bytes = static_cast<int>(shared_bytes);
  return cut;
}

// With `rows` <= 8 rows per launch; kernel is kNone where shared memory is too small.
inline MatMulPlan PlanFew(const MatMulProblem& p, int rows, int64_t most_bytes = kFewSharedBytes) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  MatMulPlan plan;
  plan.next_start = NextStart::kLate;
  plan.row_tile = rows;
  plan.grid =
      static_cast<int>(std::min<int64_t>(p.multiprocessors, int64_t{p.blocks} * layout.tiles));
  for (int panels = 1; panels <= layout.segments; ++panels) {
    if (panels > 1 && p.blocks > 1) break;
    const int panel = (layout.segments + panels - 1) / panels;
    for (int depth = kFewMostDepth; depth >= 2; --depth) {
      plan.few = CutFew(p, rows, plan.grid, panel, depth, most_bytes);
      if (plan.few.shared_bytes == 0) continue;
      plan.kernel = MatMulPlan::Kernel::kFew;
      return plan;
    }
  }
  return plan;
}

// Many rows ------------------------------------------------------------------------------------

// A kernel for many rows, and its time on an H200 in units of 10 ns (bench/RESULTS.md): for each
// chunk of inputs of a block's tile, and besides.
struct ManyShape {
  int row_tile, output_tile;
  int cluster;  // see MatMulPlan
  bool split;
  int chunk_time, tile_time;
};
inline constexpr ManyShape kManyShapes[] = {
    {32, 64, 1, false, 16, 150},   {32, 128, 1, false, 22, 165}, {64, 128, 1, false, 18, 226},
    {128, 128, 1, false, 30, 420}, {192, 128, 2, false, 44, 445}, {32, 64, 1, true, 30, 240},
    {64, 128, 1, true, 43, 415},   {128, 128, 1, true, 44, 670},
};
inline constexpr ManyShape kE4m3Shapes[] = {
    {32, 64, 1, false, 18, 255},   {32, 128, 1, false, 21, 295}, {64, 128, 1, false, 24, 300},
    {128, 128, 2, false, 33, 430}, {32, 64, 1, true, 29, 230},   {64, 128, 1, true, 26, 490},
    {128, 128, 1, true, 34, 640},
};
inline absl::Span<const ManyShape> ManyShapes(bool e4m3) {
  return e4m3 ? absl::MakeConstSpan(kE4m3Shapes) : absl::MakeConstSpan(kManyShapes);
}

inline int64_t ManyTiles(const MatMulProblem& p, int row_tile, int output_tile) {
  const int64_t outputs = int64_t{PackedLayout::Of(p.n, p.k).tiles} * kTileOutputs;
  return p.blocks * ((outputs + output_tile - 1) / output_tile) *
         ((p.rows + row_tile - 1) / row_tile);
}

// kernel is kNone where that kernel is not for this product.
inline MatMulPlan PlanMany(const MatMulProblem& p, const ManyShape& shape) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  MatMulPlan plan;
  if (!p.x_aligned || (shape.split && (p.gated || layout.segments == 1))) return plan;
  const int64_t tiles = ManyTiles(p, shape.row_tile, shape.output_tile * shape.cluster);
  plan.row_tile = shape.row_tile;
  plan.output_tile = shape.output_tile;
  plan.cluster = shape.cluster;
  plan.split = shape.split;
  if (shape.split) {
    if (tiles * layout.segments > std::numeric_limits<int>::max()) return plan;
    plan.grid = static_cast<int>(tiles * layout.segments);
  } else {
    plan.grid = static_cast<int>(std::min<int64_t>(p.multiprocessors / shape.cluster, tiles)) *
                shape.cluster;
  }
  // In a step of few rows the small kernels between two products come first.
  plan.next_start = p.rows <= 256 ? NextStart::kLate : NextStart::kEarly;
  plan.kernel = MatMulPlan::Kernel::kMany;
  return plan;
}

// What a block of a split tile takes longer where two share a multiprocessor, and a wide tile where
// multiprocessors get several, in percent.
inline constexpr int kTwoBlocksTime = 138, kSeveralTilesTime = 112;

// How long a plan takes, in units of 10 ns.
inline int64_t ManyTime(const MatMulProblem& p, const ManyShape& shape) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  const int64_t tiles = ManyTiles(p, shape.row_tile, shape.output_tile * shape.cluster);
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
  return tiles / at_once * crowded +
         (rest == 0 ? 0 : rest * layout.segments > p.multiprocessors ? crowded : time);
}

// The plan that takes the least time.
inline MatMulPlan PlanFastest(const MatMulProblem& p) {
  MatMulPlan best;
  int64_t best_time = 0;
  for (const ManyShape& shape : ManyShapes(p.e4m3)) {
    if (shape.cluster > 1 && p.blocks > 1) continue;  // too short to gain by it
    if (shape.row_tile > 32 && p.rows <= shape.row_tile / 2) continue;  // a smaller one fetches less
    const MatMulPlan plan = PlanMany(p, shape);
    if (plan.kernel == MatMulPlan::Kernel::kNone) continue;
    const int64_t time = ManyTime(p, shape);
    if (best.kernel != MatMulPlan::Kernel::kNone && time >= best_time) continue;
    best = plan;
    best_time = time;
  }
  return best;
}

// The plan for a product.
inline MatMulPlan PlanMatMul(const MatMulProblem& p) {
  const PackedLayout layout = PackedLayout::Of(p.n, p.k);
  if (p.rows <= kMostFewRows) {
    // Rows of x in shared memory leave less for the weights, which many segments of few tiles
    // can make up for elsewhere.
    const int64_t tiles = ManyTiles(p, 128, 128);
    const bool narrow = p.x_aligned && p.blocks == 1 && layout.segments > 1 &&
                        ManyTiles(p, 128, 64) * 8 <= int64_t{p.multiprocessors} * 5;
    const bool cut = narrow && tiles * layout.segments * 2 >= p.multiprocessors &&
                     p.rows > 1;
    const bool whole = p.x_aligned && p.rows > 4 && tiles * 10 >= int64_t{p.multiprocessors} * 9;
    const MatMulPlan plan = PlanFew(p, p.rows);
    if (plan.kernel != MatMulPlan::Kernel::kNone && !cut && !whole) return plan;
  }
  if (!p.x_aligned) {  // in several launches
    for (const int64_t most_bytes : {kFewSharedBytes, kMostSharedBytes}) {
      for (int rows = kMostFewRows; rows > 0; rows /= 2) {
        const MatMulPlan plan = PlanFew(p, rows, most_bytes);
        if (plan.kernel != MatMulPlan::Kernel::kNone) return plan;
      }
    }
    return {};
  }
  return PlanFastest(p);
}

// The product by a given plan, for tests and benchmarks.
absl::Status MatMulByPlan(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue);
MatMulProblem ProblemOf(const MatMulParams& params, const DeviceQueue& queue);

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_MATMUL_PLAN_H_
