// The short convolution. Bound by bytes.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/recurrence_conv.cuh"

namespace reprise::kernels::cuda {
namespace {

// Sequences of at most this many rows are taken row by row, with their state in registers.
constexpr int kShortRows = 16;
constexpr int kShortThreads = 128;

// The long form: 32 threads side by side, kTileWarps times kTileRows rows.
constexpr int kTileWarps = 8;
constexpr int kTileRows = 8;

template <int kSize>
__device__ __forceinline__ void Store(const CausalConv1dParams& p, int64_t row, int channel,
                                      const Floats<kSize>& out) {
  StoreFloats<kSize>(p.out + row * p.out_stride + channel, out);
  if (p.out_bf16 == nullptr) return;
  StoreRounded<kSize>(p.out_bf16 + row * p.out_stride + channel, out);
}

// Where the inputs of one sequence come from.
template <int kWidth, int kSize>
struct Source {
  static constexpr int kState = kWidth - 1;
  int64_t begin, end, start, slot;

  __device__ __forceinline__ Source(const RaggedRows& rows, int s)
      : begin(rows.seq_offsets[s]),
        end(rows.seq_offsets[s + 1]),
        start(rows.start_positions[s]),
        slot(rows.slots[s]) {}

  __device__ __forceinline__ float* State(const CausalConv1dParams& p, int channel) const {
    return p.state + slot * p.state_slot_stride + channel;
  }
  // Row t of the sequence's rows, t >= -kState; those before the first come from the state.
  __device__ __forceinline__ Floats<kSize> At(const CausalConv1dParams& p, int64_t t,
                                              int channel) const {
    if (t >= 0) return LoadFloats<kSize>(p.x + (begin + t) * p.x_stride + channel);
    if (start + t < 0) return {};
    return LoadFloats<kSize>(State(p, channel) + (kState + t) * p.channels);
  }
};

// grid: (channels, num_seqs). All rows of a sequence, and its state.
template <int kWidth, int kSize>
__global__ void __launch_bounds__(kShortThreads) ShortConvKernel(CausalConv1dParams p) {
  LetNextStart();
  const int channel = (blockIdx.x * kShortThreads + threadIdx.x) * kSize;
  if (channel >= p.channels) {
    WaitForPrevious();
    return;
  }
  const Taps<kWidth, kSize> taps(p, channel);
  const Source<kWidth, kSize> source(p.rows, blockIdx.y);
  WaitForPrevious();
  const int64_t count = source.end - source.begin;
  if (count == 0) return;
  if (source.slot < 0) {
    for (int64_t r = source.begin; r < source.end; ++r) Store<kSize>(p, r, channel, {});
    return;
  }
  Floats<kSize> inputs[kWidth];
#pragma unroll
  for (int j = 0; j + 1 < kWidth; ++j) inputs[j] = source.At(p, j + 1 - kWidth, channel);
  for (int64_t t = 0; t < count; ++t) {
    inputs[kWidth - 1] = source.At(p, t, channel);
    Store<kSize>(p, source.begin + t, channel, taps.Apply(inputs));
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) inputs[j] = inputs[j + 1];
  }
  if constexpr (kWidth > 1) {
    float* const state = source.State(p, channel);
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) {
      StoreFloats<kSize>(state + int64_t{j} * p.channels, inputs[j]);
    }
  }
}

// Rows of the whole step, whatever their sequences. grid: tiles of rows x tiles of channels,
// channels fastest. Reads the states and leaves them as they are: another block may still read.
template <int kWidth, int kSize>
__global__ void __launch_bounds__(32 * kTileWarps)
    LongConvKernel(CausalConv1dParams p, int channel_tiles) {
  LetNextStart();
  const int channel = (blockIdx.x % channel_tiles * 32 + threadIdx.x % 32) * kSize;
  if (channel >= p.channels) {
    WaitForPrevious();
    return;
  }
  const Taps<kWidth, kSize> taps(p, channel);
  WaitForPrevious();
  const int first = (blockIdx.x / channel_tiles * kTileWarps + threadIdx.x / 32) * kTileRows;
  if (first >= p.rows.num_rows) return;
  Floats<kSize> x[kTileRows];
  int seqs[kTileRows];
#pragma unroll
  for (int j = 0; j < kTileRows; ++j) {
    const int64_t row = min(first + j, p.rows.num_rows - 1);
    x[j] = LoadFloats<kSize>(p.x + row * p.x_stride + channel);
    seqs[j] = p.rows.row_seqs[row];
  }
  Floats<kSize> inputs[kWidth];
  bool padding = false;
#pragma unroll
  for (int i = 0; i < kTileRows; ++i) {
    const int row = first + i;
    if (row >= p.rows.num_rows) break;
    if (i == 0 || seqs[i] != seqs[i > 0 ? i - 1 : 0]) {
      const Source<kWidth, kSize> source(p.rows, seqs[i]);
      padding = source.slot < 0;
#pragma unroll
      for (int j = 0; j + 1 < kWidth; ++j) {
        if (!padding) inputs[j] = source.At(p, row - source.begin + j + 1 - kWidth, channel);
      }
    }
    inputs[kWidth - 1] = x[i];
    Store<kSize>(p, row, channel, padding ? Floats<kSize>{} : taps.Apply(inputs));
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) inputs[j] = inputs[j + 1];
  }
}

// Moves the states to the end of the rows. grid: (channels, num_seqs).
template <int kWidth, int kSize>
__global__ void __launch_bounds__(kShortThreads) MoveConvStateKernel(CausalConv1dParams p) {
  LetNextStart();
  WaitForPrevious();
  const int channel = (blockIdx.x * kShortThreads + threadIdx.x) * kSize;
  if (channel >= p.channels) return;
  const Source<kWidth, kSize> source(p.rows, blockIdx.y);
  const int64_t count = source.end - source.begin;
  if (count == 0 || source.slot < 0) return;
  Floats<kSize> inputs[kWidth];
#pragma unroll
  for (int j = 0; j + 1 < kWidth; ++j) inputs[j] = source.At(p, count + j + 1 - kWidth, channel);
  float* const state = source.State(p, channel);
#pragma unroll
  for (int j = 0; j + 1 < kWidth; ++j) {
    StoreFloats<kSize>(state + int64_t{j} * p.channels, inputs[j]);
  }
}

template <int kWidth, int kSize>
cudaError_t LaunchConv(const CausalConv1dParams& p, const DeviceQueue& queue) {
  const int per_block = kShortThreads * kSize;
  const dim3 by_sequence((p.channels + per_block - 1) / per_block, p.rows.num_seqs);
  if (p.rows.max_seq_rows <= kShortRows) {
    return Launch(ShortConvKernel<kWidth, kSize>, by_sequence, kShortThreads, 0, queue, p);
  }
  const int64_t channel_tiles = (p.channels + 32 * kSize - 1) / (32 * kSize);
  const int64_t row_tiles =
      (p.rows.num_rows + kTileWarps * kTileRows - 1) / (kTileWarps * kTileRows);
  const cudaError_t error =
      Launch(LongConvKernel<kWidth, kSize>, static_cast<unsigned>(channel_tiles * row_tiles),
             32 * kTileWarps, 0, queue, p, static_cast<int>(channel_tiles));
  if (error != cudaSuccess || kWidth == 1) return error;
  return Launch(MoveConvStateKernel<kWidth, kSize>, by_sequence, kShortThreads, 0, queue, p);
}

template <int kWidth>
cudaError_t ChooseSize(const CausalConv1dParams& p, const DeviceQueue& queue) {
  const bool vector = p.channels % 4 == 0 && Aligned(p.x, p.x_stride) &&
                      Aligned(p.out, p.out_stride) && Aligned(p.out_bf16, p.out_stride) &&
                      Aligned(p.state, p.state_slot_stride) && Aligned(p.weight, p.channels) &&
                      Aligned(p.bias, p.channels);
  return vector ? LaunchConv<kWidth, 4>(p, queue) : LaunchConv<kWidth, 1>(p, queue);
}

}  // namespace

absl::Status CausalConv1d(const CausalConv1dParams& p, DeviceQueue& queue) {
  cudaError_t error = cudaErrorInvalidValue;
  switch (p.width) {
    case 1:
      error = ChooseSize<1>(p, queue);
      break;
    case 2:
      error = ChooseSize<2>(p, queue);
      break;
    case 3:
      error = ChooseSize<3>(p, queue);
      break;
    case 4:
      error = ChooseSize<4>(p, queue);
      break;
    case 5:
      error = ChooseSize<5>(p, queue);
      break;
    case 6:
      error = ChooseSize<6>(p, queue);
      break;
    case 7:
      error = ChooseSize<7>(p, queue);
      break;
    case 8:
      error = ChooseSize<8>(p, queue);
      break;
  }
  return Check(error, "CausalConv1d[rows ", p.rows.num_rows, ", sequences ", p.rows.num_seqs,
               ", channels ", p.channels, ", width ", p.width, "]");
}

}  // namespace reprise::kernels::cuda
