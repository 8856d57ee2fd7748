// How PackedMatrix lies in device memory: one layout for all kernels.
//
// bf16, cut into chunks of 16 outputs x 64 inputs, which are contiguous (2 KiB) and fetched by bulk
// copies. Chunks are ordered [block][tile of 16 outputs][chunk of 64 inputs], and within a chunk:
//
//   [2 strips of 8 outputs][8 groups of 8 inputs][8 outputs][8 inputs]
//
// The innermost 8 x 8 pieces (128 contiguous bytes, 16 per output) are what ldmatrix loads as
// fragments for mma.sync, and what wgmma calls a core matrix without swizzle: pieces of a strip are
// 128 bytes apart (leading offset), strips 1 KiB (stride offset), also across tiles in shared
// memory.
//
// Outputs are padded with zeros to 16 and inputs to 64. Of gated weights a tile holds 8 gates
// (strip 0) and the 8 matching outputs (strip 1), so that both sums of a result end in one thread.
//
// Tensor cores sum segments of kSegment inputs from zero; a segment is 8 chunks, the last may be
// shorter.
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

inline constexpr int kSegment = 512;     // part of the numerics: changing it changes bits
inline constexpr int kTileOutputs = 16;  // of which 8 gates where gated
inline constexpr int kStripOutputs = 8;
inline constexpr int kChunkInputs = 64;
inline constexpr int kChunkBytes = kTileOutputs * kChunkInputs * 2;
inline constexpr int kStripBytes = kChunkBytes / 2;
inline constexpr int kSegmentChunks = kSegment / kChunkInputs;

struct PackedLayout {
  int tiles = 0;     // of 16 outputs, per block
  int chunks = 0;    // of 64 inputs
  int segments = 0;  // of inputs

  static constexpr PackedLayout Of(int n, int k) {
    PackedLayout layout;
    layout.tiles = (n + kTileOutputs - 1) / kTileOutputs;
    layout.chunks = (k + kChunkInputs - 1) / kChunkInputs;
    layout.segments = (layout.chunks + kSegmentChunks - 1) / kSegmentChunks;
    return layout;
  }

  REPRISE_HOST_DEVICE constexpr int Inputs() const { return chunks * kChunkInputs; }
  REPRISE_HOST_DEVICE constexpr int64_t TileBytes() const { return int64_t{chunks} * kChunkBytes; }
  REPRISE_HOST_DEVICE constexpr int64_t BlockBytes() const { return tiles * TileBytes(); }
  REPRISE_HOST_DEVICE constexpr int SegmentChunks(int segment) const {
    const int left = chunks - segment * kSegmentChunks;
    return left < kSegmentChunks ? left : kSegmentChunks;
  }
};

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_PACKED_LAYOUT_H_
