// How PackedMatrix lies in device memory: one layout for all kernels.
//
// bf16, cut into chunks of 16 outputs x 64 inputs, which are contiguous (2 KiB) and fetched by bulk
// copies. Chunks are ordered [block][tile of 16 outputs][chunk of 64 inputs], and within a chunk:
//
//   [2 strips of 8 outputs][8 groups of 8 inputs][8 outputs][8 inputs]
//
// The innermost 8 x 8 pieces (128 contiguous bytes, 16 per output) are what wgmma calls a core
// matrix without swizzle: pieces of a strip are 128 bytes apart (leading offset), strips 1 KiB
// (stride offset), also across tiles in shared memory.
//
// Outputs are padded with zeros to 16 and inputs to 64. Of gated weights a tile holds 8 gates
// (strip 0) and the 8 matching outputs (strip 1), so that both sums of a result end in one thread.
//
// e4m3: chunks of the same shape and order in half the bytes, and within one
//
//   [2 strips of 8 outputs][32 lanes][4 steps of 16 inputs][4 inputs]
//
// A lane 4 g + t finds in one load what wgmma wants of it in its registers: of output
// g of the strip inputs 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of every step. The four values of a step are
// a word of which one mask, and two shifts and masks, give pairs whose fields lie where a bf16 has
// them (PackedPair, and WidenStep of tensor_core.cuh).
//
// Tensor cores sum segments of the inputs from zero: at most kMostSegments, of as many whole
// kSegmentStep inputs each as that takes; the last may be shorter.
#ifndef REPRISE_KERNELS_CUDA_PACKED_LAYOUT_H_
#define REPRISE_KERNELS_CUDA_PACKED_LAYOUT_H_

#include <cstddef>
#include <cstdint>

namespace reprise::kernels::cuda {

#ifdef __CUDACC__
#define REPRISE_HOST_DEVICE __host__ __device__
#else
#define REPRISE_HOST_DEVICE
#endif

// Part of the numerics: changing them changes bits.
inline constexpr int kMostSegments = 5;
inline constexpr int kSegmentStep = 512;
inline constexpr int kTileOutputs = 16;  // of which 8 gates where gated
inline constexpr int kStripOutputs = 8;
inline constexpr int kChunkInputs = 64;
inline constexpr int kChunkBytes = kTileOutputs * kChunkInputs * 2;  // of bf16
inline constexpr int kStripBytes = kChunkBytes / 2;
REPRISE_HOST_DEVICE constexpr int ChunkBytes(bool e4m3) { return kChunkBytes / (e4m3 ? 2 : 1); }
REPRISE_HOST_DEVICE constexpr int StripBytes(bool e4m3) { return kStripBytes / (e4m3 ? 2 : 1); }
inline constexpr int kStepChunks = kSegmentStep / kChunkInputs;

struct PackedLayout {
  int tiles = 0;     // of 16 outputs, per block
  int chunks = 0;    // of 64 inputs
  int segments = 0;  // of inputs
  int segment_chunks = 0;
  bool e4m3 = false;

  static constexpr PackedLayout Of(int n, int k, bool e4m3 = false) {
    PackedLayout layout;
    layout.e4m3 = e4m3;
    layout.tiles = (n + kTileOutputs - 1) / kTileOutputs;
    layout.chunks = (k + kChunkInputs - 1) / kChunkInputs;
    constexpr int kMostStepChunks = kMostSegments * kStepChunks;
    layout.segment_chunks = (layout.chunks + kMostStepChunks - 1) / kMostStepChunks * kStepChunks;
    layout.segments = (layout.chunks + layout.segment_chunks - 1) / layout.segment_chunks;
    return layout;
  }

  REPRISE_HOST_DEVICE constexpr int Inputs() const { return chunks * kChunkInputs; }
  REPRISE_HOST_DEVICE constexpr int64_t TileBytes() const {
    return int64_t{chunks} * ChunkBytes(e4m3);
  }
  REPRISE_HOST_DEVICE constexpr int64_t BlockBytes() const { return tiles * TileBytes(); }
  REPRISE_HOST_DEVICE constexpr int SegmentChunks(int segment) const {
    const int left = chunks - segment * segment_chunks;
    return left < segment_chunks ? left : segment_chunks;
  }
};

// Two e4m3 values of one half of a word: the first pair of a step has its fields at
// 0x87f087f0, the second at 0x780f780f.
REPRISE_HOST_DEVICE constexpr uint32_t PackedPair(bool second, uint32_t low, uint32_t high) {
  const uint32_t both = high << 16 | low;
  return second ? (both & 0x000f000f) | (both & 0x00700070) << 8 | (both & 0x00800080) << 4
                : (both & 0x007f007f) << 4 | (both & 0x00800080) << 8;
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_PACKED_LAYOUT_H_
