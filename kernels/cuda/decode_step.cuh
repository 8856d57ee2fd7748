// What the kernel of decode_step.cu is told, and how a block of it finds its part.
#ifndef REPRISE_KERNELS_CUDA_DECODE_STEP_CUH_
#define REPRISE_KERNELS_CUDA_DECODE_STEP_CUH_

#include <cuda.h>

#include "kernels/cuda/attention_window.cuh"
#include "kernels/cuda/matmul_kernels.cuh"
#include "kernels/elementwise.h"
#include "kernels/recurrence.h"

namespace reprise::kernels::cuda::decode {

constexpr int kWarps = 8;  // that compute
constexpr int kComputing = 32 * kWarps;
constexpr int kThreads = 2 * kComputing;  // as many fetch
constexpr int kSlotBytes = 2 * kChunkBytes;
// Chunks of a slot, of tiles and where a strip comes alone.
__host__ __device__ constexpr int SlotChunks(bool e4m3) { return kSlotBytes / ChunkBytes(e4m3); }
__host__ __device__ constexpr int StripSlotChunks(bool e4m3) {
  return kSlotBytes / StripBytes(e4m3);
}
constexpr int kMostDepth = 8;          // slots of a warp's ring
constexpr int kRoundUnits = kWarps * kMostSegments;  // whose sums are kept at a time
constexpr int kPartBytes = 512;                      // of a segment
constexpr int kMostOps = 24;           // of one launch
constexpr int kNormPieces = 4;         // of 1024 elements of a row
constexpr int kMostXBytes = 64 << 10;  // of all rows of x
constexpr int kMostInputs = 512;       // of a block of the gates: one segment

struct alignas(16) StepOp {
  enum class Kind : int {
    kNormProduct,    // x is normed in every block
    kProduct,        // x is read
    kNorm,           // of a row in a block, to x of the product that follows
    kRecurrence,     // convolution, gates, RG-LRU
    kMoveConvState,  // of the recurrence before
    kRope,
    kMerge,  // what is left of window attention: its groups, its ring
  };
  Kind kind = Kind::kProduct;
  bool barrier = false;  // the operations before must be done in all blocks
  bool gated = false;
  int shift = 0;  // turns the shares of the blocks, so that odd strips go round
  // Products, and the gates:
  PackedLayout layout;
  const char* weights = nullptr;
  MatMulOutput output;
  __nv_bfloat16* x = nullptr;
  int64_t x_stride = 0;
  RmsNormParams norm;
  float* residual = nullptr;
  CausalConv1dParams conv;
  RgLruParams lru;
  const float* gate_bias = nullptr;
  int gate_chunks = 0;  // of one of the two gates
  RopeParams rope;
  WindowAttentionParams attention;
  window::Partials partials;
};
static_assert(sizeof(StepOp) % 16 == 0);

struct Step {
  int count = 0;
  int rows = 0;
  int depth = 0;
  int x_offset = 0, parts_offset = 0, ops_offset = 0, barriers_offset = 0;
  uint32_t* arrived = nullptr;         // blocks at barriers; 0 before and after
  uint32_t* left = nullptr;            // blocks that are done; 0 before and after
  const int32_t* slots = nullptr;      // [rows]; null where no operation asks
  const int64_t* positions = nullptr;  // [rows]
  CUtensorMap maps[kMostOps];          // of the weights, by strips
  StepOp ops[kMostOps];
};
static_assert(sizeof(Step) < 32000);  // travels as a parameter

// The strips [first, last) of 8 outputs (kRecurrence: channels) of one block, and its units of
// work: segments of tiles (kRecurrence: strips). Warps take units in turn, from operation to
// operation.
struct Share {
  int first = 0, last = 0;
  int first_tile = 0, tiles = 0;
  int units = 0;

  Share() = default;
  __device__ __forceinline__ explicit Share(const StepOp& op) {
    const int parts = static_cast<int>(gridDim.x);
    const int part = (static_cast<int>(blockIdx.x) + op.shift) % parts;
    if (op.kind == StepOp::Kind::kRecurrence) {
      const int strips = op.lru.width / kStripOutputs;
      first = strips * part / parts;
      last = strips * (part + 1) / parts;
      units = last - first;
    } else if (op.kind <= StepOp::Kind::kProduct) {
      const int all = op.gated ? op.layout.tiles : 2 * op.layout.tiles;
      first = all * part / parts * (op.gated ? 2 : 1);
      last = all * (part + 1) / parts * (op.gated ? 2 : 1);
      first_tile = first / 2;
      tiles = first == last ? 0 : (last + 1) / 2 - first_tile;
      units = tiles * op.layout.segments;
    }
  }
};

// A unit of a product: a segment of a tile, or of the strip of it that is this block's.
struct Unit {
  int tile, segment;
  int strip;  // -1: both

  __device__ __forceinline__ Unit(const StepOp& op, const Share& share, int index) {
    tile = share.first_tile + index / op.layout.segments;
    segment = index % op.layout.segments;
    const bool low = tile * 2 >= share.first, high = tile * 2 + 1 < share.last;
    strip = low && high ? -1 : low ? 0 : 1;
  }
};

}  // namespace reprise::kernels::cuda::decode

#endif  // REPRISE_KERNELS_CUDA_DECODE_STEP_CUH_
