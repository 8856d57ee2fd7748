// Weights from the host's row-major matrix to the layout of packed_layout.h. The source goes up in
// pieces through the queue's scratch, so that nothing but the packed form takes memory.
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_layout.h"
#include "kernels/e4m3.h"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// A piece: tiles [first_tile, first_tile + num_tiles) of one block.
struct PieceParams {
  PackedLayout layout;
  int first_tile = 0, num_tiles = 0;
  int n = 0, k = 0;
  bool gated = false;
  DType dtype = DType::kF32;
  // Outputs as staged: [outputs, k], or [k, outputs] where transposed. Of gated weights the gates
  // of the piece come first, then the others.
  int staged_outputs = 0;
  bool transposed = false;
  const void* staged = nullptr;
  uint4* packed = nullptr;  // the piece's first chunk
  float* scales = nullptr;  // e4m3: [n] of the block

  // Of gated weights: where the outputs that are gated begin, in the piece.
  __device__ int HalfStaged() const { return staged_outputs / 2; }
  __device__ int Output(int staged_row) const {
    if (!gated) return first_tile * kTileOutputs + staged_row;
    const int first = first_tile * kStripOutputs;
    return staged_row < HalfStaged() ? first + staged_row
                                     : n / 2 + first + staged_row - HalfStaged();
  }
  __device__ int64_t Index(int staged_row, int input) const {
    return transposed ? int64_t{input} * staged_outputs + staged_row
                      : int64_t{staged_row} * k + input;
  }
};

// Row `row` of a strip: the output's place in the piece, and how many outputs of this kind there
// are from it on (none or fewer: it is padding).
struct StripRow {
  int staged, left;
  __device__ StripRow(const PieceParams& p, int tile, int strip, int row) {
    if (p.gated) {
      staged = tile * kStripOutputs + row + (strip == 0 ? 0 : p.HalfStaged());
      left = p.n / 2 - ((p.first_tile + tile) * kStripOutputs + row);
    } else {
      staged = tile * kTileOutputs + strip * kStripOutputs + row;
      left = p.n - (p.first_tile * kTileOutputs + staged);
    }
  }
};

__device__ float ReadFloat(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[index];
    case DType::kF16:
      return __half2float(static_cast<const __half*>(data)[index]);
    default:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
  }
}

// One thread per 8 inputs of one output: 16 bytes of the result.
__global__ void __launch_bounds__(kThreads) PackKernel(PieceParams p) {
  LetNextStart();
  WaitForPrevious();
  constexpr int kGroups = kChunkInputs / 8;
  const int64_t count = p.num_tiles * p.layout.TileBytes() / 16;
  for (int64_t at = blockIdx.x * int64_t{kThreads} + threadIdx.x; at < count;
       at += int64_t{gridDim.x} * kThreads) {
    int64_t rest = at;
    const int row = static_cast<int>(rest % kStripOutputs);
    rest /= kStripOutputs;
    const int group = static_cast<int>(rest % kGroups);
    rest /= kGroups;
    const int strip = static_cast<int>(rest % 2);
    rest /= 2;
    const int chunk = static_cast<int>(rest % p.layout.chunks);
    const int tile = static_cast<int>(rest / p.layout.chunks);
    const StripRow from(p, tile, strip, row);
    __nv_bfloat16 values[8];
    for (int i = 0; i < 8; ++i) {
      const int input = chunk * kChunkInputs + group * 8 + i;
      float value = 0.0f;
      if (from.left > 0 && input < p.k) {
        value = ReadFloat(p.staged, p.dtype, p.Index(from.staged, input));
      }
      values[i] = ToBf16(value);
    }
    uint4 bits;
    static_assert(sizeof(values) == sizeof(bits));
    memcpy(&bits, values, sizeof(bits));
    p.packed[at] = bits;
  }
}

// One warp per output.
__global__ void __launch_bounds__(kThreads) ScaleKernel(PieceParams p) {
  LetNextStart();
  WaitForPrevious();
  const int lane = threadIdx.x % 32;
  for (int row = (blockIdx.x * kThreads + threadIdx.x) / 32; row < p.staged_outputs;
       row += gridDim.x * (kThreads / 32)) {
    float largest = 0.0f;
    for (int i = lane; i < p.k; i += 32) {
      largest = fmaxf(largest, fabsf(ReadFloat(p.staged, p.dtype, p.Index(row, i))));
    }
    for (int half = 16; half > 0; half /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, half));
    }
    if (lane == 0) p.scales[p.Output(row)] = E4m3Scale(largest);
  }
}

// One thread per 16 inputs of one output: what a lane loads at once.
__global__ void __launch_bounds__(kThreads) PackE4m3Kernel(PieceParams p) {
  LetNextStart();
  WaitForPrevious();
  const int64_t count = p.num_tiles * p.layout.TileBytes() / 16;
  for (int64_t at = blockIdx.x * int64_t{kThreads} + threadIdx.x; at < count;
       at += int64_t{gridDim.x} * kThreads) {
    const int lane = static_cast<int>(at % 32), strip = static_cast<int>(at / 32 % 2);
    const int64_t chunks = at / 64;
    const int chunk = static_cast<int>(chunks % p.layout.chunks);
    const int tile = static_cast<int>(chunks / p.layout.chunks);
    const StripRow from(p, tile, strip, lane / 4);
    const float scale = from.left > 0 ? p.scales[p.Output(from.staged)] : 1.0f;
    uint32_t words[4];
    for (int step = 0; step < 4; ++step) {
      words[step] = 0;
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t values[2] = {};
        for (int i = 0; i < 2; ++i) {
          const int input = chunk * kChunkInputs + step * 16 + pair * 8 + lane % 4 * 2 + i;
          if (from.left <= 0 || input >= p.k) continue;
          values[i] = ToE4m3(ReadFloat(p.staged, p.dtype, p.Index(from.staged, input)) / scale);
        }
        words[step] |= PackedPair(pair == 1, values[0], values[1]);
      }
    }
    p.packed[at] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// Copies `count` outputs of a block from output `first` on to the piece's outputs `to`.
cudaError_t Stage(const PackedMatrix::Source& source, int block, int first, int count, int to,
                  int staged_outputs, char* staging, DeviceQueue& queue) {
  const size_t element = DTypeBytes(source.dtype);
  const char* data =
      static_cast<const char*>(source.data) + int64_t{block} * source.n * source.k * element;
  const auto stream = static_cast<cudaStream_t>(queue.stream());
  if (!source.transposed) {
    return cudaMemcpyAsync(staging + int64_t{to} * source.k * element,
                           data + int64_t{first} * source.k * element,
                           int64_t{count} * source.k * element, cudaMemcpyHostToDevice, stream);
  }
  return cudaMemcpy2DAsync(staging + to * element, staged_outputs * element, data + first * element,
                           source.n * element, count * element, source.k, cudaMemcpyHostToDevice,
                           stream);
}

}  // namespace

size_t PackedBytes(const PackedMatrix::Source& source) {
  return source.blocks * PackedLayout::Of(source.n, source.k, source.e4m3).BlockBytes();
}

absl::Status PackMatrix(const PackedMatrix::Source& source, void* destination, float* scales,
                        DeviceQueue& queue) {
  const PackedLayout layout = PackedLayout::Of(source.n, source.k, source.e4m3);
  const int64_t tile_source_bytes = int64_t{kTileOutputs} * source.k * DTypeBytes(source.dtype);
  const int64_t most = static_cast<int64_t>(queue.scratch_bytes()) / tile_source_bytes;
  if (most == 0) {
    return absl::ResourceExhaustedError(absl::StrCat("PackedMatrix: ", tile_source_bytes,
                                                     " bytes of 16 outputs, scratch has ",
                                                     queue.scratch_bytes()));
  }
  auto* staging = static_cast<char*>(queue.scratch());
  for (int block = 0; block < source.blocks; ++block) {
    for (int first = 0; first < layout.tiles;) {
      const int tiles = static_cast<int>(std::min<int64_t>(most, layout.tiles - first));
      PieceParams p;
      p.layout = layout;
      p.first_tile = first;
      p.num_tiles = tiles;
      p.n = source.n;
      p.k = source.k;
      p.gated = source.gated;
      p.dtype = source.dtype;
      p.transposed = source.transposed;
      p.staged = staging;
      if (source.e4m3) p.scales = scales + int64_t{block} * source.n;
      p.packed = reinterpret_cast<uint4*>(static_cast<char*>(destination) +
                                          block * layout.BlockBytes() + first * layout.TileBytes());
      if (source.gated) {
        const int count = tiles * kStripOutputs;  // n is a multiple of 16: no tile is ragged
        p.staged_outputs = 2 * count;
        for (const int half : {0, 1}) {
          RETURN_IF_ERROR(Check(Stage(source, block, half * source.n / 2 + first * kStripOutputs,
                                      count, half * count, p.staged_outputs, staging, queue),
                                "PackedMatrix: upload of weights"));
        }
      } else {
        const int count = std::min(tiles * kTileOutputs, source.n - first * kTileOutputs);
        p.staged_outputs = count;
        RETURN_IF_ERROR(
            Check(Stage(source, block, first * kTileOutputs, count, 0, count, staging, queue),
                  "PackedMatrix: upload of weights"));
      }
      const int64_t work = tiles * layout.TileBytes() / 16;
      const auto launch = [&](auto kernel, int64_t threads) {
        const auto grid = static_cast<unsigned>(std::min<int64_t>(
            (threads + kThreads - 1) / kThreads, 16 * queue.info().multiprocessors));
        return Check(Launch(kernel, grid, kThreads, 0, queue, p), "PackedMatrix[", source.blocks,
                     " x ", source.n, " x ", source.k, "]");
      };
      if (source.e4m3) RETURN_IF_ERROR(launch(ScaleKernel, int64_t{32} * p.staged_outputs));
      RETURN_IF_ERROR(launch(source.e4m3 ? PackE4m3Kernel : PackKernel, work));
      first += tiles;
    }
  }
  // Products fetch weights before they wait for the kernel before them, and `data` is lent for the
  // call only.
  return queue.Synchronize();
}

}  // namespace reprise::kernels::cuda
