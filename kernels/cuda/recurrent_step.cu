// The convolution, the gates and RG-LRU of a step in which every sequence has one row, as one
// kernel: what goes from one to the next stays in registers and shared memory. Bound by the time
// that loads take to come, and with many rows by the bytes of the states.
//
// A cluster has one diagonal block of the gates and a tile of rows, each of its blocks 64 channels:
// it convolves them, hands the result, rounded, to all blocks of the cluster as their inputs, sums
// both gates of its own channels and advances them. The order of operations on every number is that
// of the kernels for single operations.
#include "kernels/cuda/async.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/packed_layout.h"
#include "kernels/cuda/recurrence_conv.cuh"
#include "kernels/cuda/recurrence_math.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kWidth = 4;  // of the convolution
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMostInputs = 512;  // one segment, and a cluster of 8
constexpr int kColumns = 32;      // of the product: as many rows as a tile has at most

// A block's channels are one chunk of the gates' inputs; as outputs they are one warpgroup's of
// each gate.
constexpr int kChannels = kChunkInputs;
constexpr int kGateTiles = kChannels / kTileOutputs;
constexpr int kGateBytes = kGateTiles * kChunkBytes;  // of one gate, for one chunk of inputs
constexpr int kXRowBytes = kChannels * 2;
constexpr int kXBytes = kColumns * kXRowBytes;  // of one chunk
// 4 words of padding put a warp's stores into 32 different banks.
constexpr int kSumsStride = kChannels + 4;
constexpr int kSumsBytes = 2 * kColumns * kSumsStride * 4;

// A thread has the same channels of one or two rows, kRowStep apart, from beginning to end.
constexpr int kEach = 4;
constexpr int kBeside = kChannels / kEach;  // threads of a row
constexpr int kRowStep = kThreads / kBeside;
using Four = Floats<kEach>;

struct StepParams {
  CausalConv1dParams conv;
  RgLruParams lru;
  const char* weights = nullptr;  // of the gates: all blocks of one, then of the other
  const float* gate_bias = nullptr;
  int blocks = 0;  // of one gate
  int chunks = 0;  // of a block's inputs, and blocks of a cluster
};

// 1 KiB to align the rows of x.
constexpr int SharedBytes(int chunks) {
  return 1024 + chunks * (kXBytes + 2 * kGateBytes) + kSumsBytes + 16;
}

// Where things lie in shared memory, at the same places in all blocks of a cluster.
struct Shared {
  char* x;        // [chunks][kColumns][kXRowBytes], swizzled
  char* weights;  // [chunks][2 gates][kGateTiles] chunks
  float* sums;    // [2 gates][kColumns][kSumsStride]
  Barrier* full;  // of the weights

  __device__ __forceinline__ Shared(char* memory, int chunks) {
    x = memory + (1024 - SharedAddress(memory) % 1024) % 1024;
    weights = x + chunks * kXBytes;
    sums = reinterpret_cast<float*>(weights + chunks * 2 * kGateBytes);
    full = reinterpret_cast<Barrier*>(sums + 2 * kColumns * kSumsStride);
  }
};

// The weights of both gates for this block's channels as outputs; all warps take part.
__device__ __forceinline__ void FetchWeights(const StepParams& p, const Shared& shared, int block,
                                             int rank, int warp) {
  const int chunks = p.chunks, tiles = chunks * kGateTiles;  // of one block of the gates
  if (threadIdx.x % 32 == 0) {
#pragma unroll 1
    for (int i = warp; i < chunks * 2 * kGateTiles; i += kWarps) {
      const int chunk = i / (2 * kGateTiles), gate = i / kGateTiles % 2, tile = i % kGateTiles;
      const int64_t from = int64_t{gate * p.blocks + block} * tiles + rank * kGateTiles + tile;
      BulkLoad(shared.weights + i * kChunkBytes, p.weights + (from * chunks + chunk) * kChunkBytes,
               kChunkBytes, shared.full);
    }
  }
  __syncwarp();
}

// A row that a thread works on.
struct Row {
  int slot = -1;
  int before = 0;  // positions before the row's, kWidth - 1 at most
  bool boundary = false;
};

// One warpgroup's sums of its gate to shared memory, when the weights are there.
__device__ __forceinline__ void SumGate(const Shared& shared, int chunks, int warp) {
  const int group = warp / 4, lane = threadIdx.x % 32;
  const uint64_t a =
      PlainMatrix(SharedAddress(shared.weights + group * kGateBytes), 128, kStripBytes);
  const uint64_t b = SwizzledMatrix(SharedAddress(shared.x));
  float sums[kColumns / 2];
  Wait(shared.full, 0);
  Pin(sums);
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    WgmmaBegin();
#pragma unroll
    for (int i = 0; i < kChunkInputs / 16; ++i) {
      Wgmma<kColumns>(sums, a + chunk * (2 * kGateBytes / 16) + i * (256 / 16),
                      b + chunk * (kXBytes / 16) + i * (32 / 16), chunk != 0 || i != 0);
    }
    WgmmaCommit();
  }
  WgmmaWait<0>();
  Pin(sums);
  float* const at = shared.sums + (group * kColumns + lane % 4 * 2) * kSumsStride +
                    warp % 4 * kTileOutputs + lane / 4;
#pragma unroll
  for (int i = 0; i < kColumns / 8; ++i) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float* const to = at + (i * 8 + row) * kSumsStride;
      to[0] = sums[i * 4 + row];
      to[kStripOutputs] = sums[i * 4 + row + 2];
    }
  }
}

// One store: of a struct or a float4 the compiler makes four where they are the last of several.
__device__ __forceinline__ void StoreFour(float* to, const Four& value) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "f"(value.v[0]), "f"(value.v[1]), "f"(value.v[2]), "f"(value.v[3])
               : "memory");
}

// grid: clusters, those of a tile of rows side by side. kRows: of a thread, 1 or 2. The product has
// columns for 2; where there is one, the others come to nothing.
template <int kJoin, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    RecurrentStepKernel(const __grid_constant__ StepParams p) {
  extern __shared__ char shared_memory[];
  const Shared shared(shared_memory, p.chunks);
  const int rank = blockIdx.x % p.chunks, cluster = blockIdx.x / p.chunks;
  const int block = cluster % p.blocks, first_row = cluster / p.blocks * (kRows * kRowStep);
  // Read through a shuffle, so that the compiler knows it to be the same in a warp.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  if (threadIdx.x == 0) {
    InitBarrier(shared.full, 1);
    PublishBarriers();
    ArriveAndExpect(shared.full, p.chunks * 2 * kGateBytes);
  }
  __syncthreads();
  FetchWeights(p, shared, block, rank, warp);
  LetNextStart();

  const int in_block = threadIdx.x % kBeside * kEach;
  const int channel = (block * p.chunks + rank) * kChannels + in_block;
  const Taps<kWidth, kEach> taps(p.conv, channel);
  const Four log_a_scale = LoadFloats<kEach>(p.lru.log_a_scale + channel);
  Four gate_bias[2] = {};  // adding +0 for none changes no sum
  if (p.gate_bias != nullptr) {
    gate_bias[0] = LoadFloats<kEach>(p.gate_bias + channel);
    gate_bias[1] = LoadFloats<kEach>(p.gate_bias + p.lru.width + channel);
  }
  SyncCluster();  // from here on the others' shared memory is theirs to be written to
  WaitForPrevious();

  // All loads at once, as far as they need not wait for each other; without a branch, behind which
  // the next would wait. Where there is no row, the last one is read and not used.
  const int first = threadIdx.x / kBeside;
  const int row_count = p.lru.rows.num_rows - first_row;
  int slots[kRows];
  int64_t positions[kRows];
  Four inputs[kRows][kWidth], join[kRows], old[kRows][3];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int64_t row = first_row + min(first + i * kRowStep, row_count - 1);
    slots[i] = p.lru.rows.slots[row];
    positions[i] = p.lru.rows.start_positions[row];
    inputs[i][kWidth - 1] = LoadFloats<kEach>(p.conv.x + row * p.conv.x_stride + channel);
    join[i] = LoadFloats<kEach>(p.lru.join + row * p.lru.join_stride + channel);
  }
  Row rows[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (first + i * kRowStep < row_count) rows[i].slot = slots[i];
    rows[i].before = static_cast<int>(min(positions[i], int64_t{kWidth - 1}));
    rows[i].boundary = (positions[i] + 1) % kGridTokens == 0;
    const int64_t slot = rows[i].slot;
    const float* const conv_state = p.conv.state + slot * p.conv.state_slot_stride + channel;
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) {
      inputs[i][j] = {};
      if (slot >= 0 && rows[i].before + j + 1 >= kWidth) {
        inputs[i][j] = LoadFloats<kEach>(conv_state + int64_t{j} * p.conv.channels);
      }
    }
    const float* const lru_state = p.lru.state + slot * p.lru.state_slot_stride + channel;
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      old[i][j] = {};
      if (slot >= 0 && rows[i].before > 0) {
        old[i][j] = LoadFloats<kEach>(lru_state + int64_t{j} * p.lru.width);
      }
    }
  }

  // Rows that are padding, or are not there, are zeros.
  Four u[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    u[i] = taps.Apply(inputs[i]);
    if (rows[i].slot < 0) u[i] = {};
    const int in_tile = first + i * kRowStep, piece = in_block / 8;
    const uint32_t at = SharedAddress(shared.x) + rank * kXBytes + in_tile * kXRowBytes +
                        ((piece ^ (in_tile % 8)) * 8 + in_block % 8) * 2;
    const uint32_t low = PackBf16(u[i].v[0], u[i].v[1]), high = PackBf16(u[i].v[2], u[i].v[3]);
    int to = rank;  // each begins with itself, so that not all write to the same one
    for (int k = 0; k < p.chunks; ++k) {
      StoreTo(to, at, low, high);
      to = to + 1 == p.chunks ? 0 : to + 1;
    }
  }
  FenceForTensorCores();
  ArriveAtCluster();
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      join[i].v[c] = Activate(static_cast<Activation>(kJoin), join[i].v[c]);
    }
    if (rows[i].slot < 0) continue;
    // Nobody else reads these.
    float* const state = p.conv.state + rows[i].slot * p.conv.state_slot_stride + channel;
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) {
      StoreFour(state + int64_t{j} * p.conv.channels, inputs[i][j + 1]);
    }
  }
  WaitForCluster();
  FenceForTensorCores();
  SumGate(shared, p.chunks, warp);
  __syncthreads();

#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int in_tile = first + i * kRowStep;
    if (in_tile >= row_count) continue;
    Four out = {};
    if (rows[i].slot >= 0) {
      const float* const sums = shared.sums + in_tile * kSumsStride + in_block;
      const Four input_sum = LoadFloats<kEach>(sums);
      const Four recurrent_sum = LoadFloats<kEach>(sums + kColumns * kSumsStride);
      const bool at_start = rows[i].before == 0, boundary = rows[i].boundary;
      Four grid, local, product;
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        const float input_gate = (0.0f + input_sum.v[c]) + gate_bias[0].v[c];
        const float recurrent_gate = (0.0f + recurrent_sum.v[c]) + gate_bias[1].v[c];
        ChannelState state = {old[i][0].v[c], old[i][1].v[c], old[i][2].v[c]};
        Advance(InputOf(u[i].v[c], input_gate, recurrent_gate, log_a_scale.v[c], at_start), state);
        const float output = Output(state);
        out.v[c] = join[i].v[c] * output;  // as Joined
        grid.v[c] = boundary ? output : state.grid;
        local.v[c] = boundary ? 0.0f : state.local;
        product.v[c] = boundary ? 1.0f : state.product;
      }
      float* const state = p.lru.state + rows[i].slot * p.lru.state_slot_stride + channel;
      if (boundary || at_start) StoreFour(state, grid);
      StoreFour(state + p.lru.width, local);
      StoreFour(state + 2 * int64_t{p.lru.width}, product);
    }
    const int64_t row = first_row + in_tile;
    StoreRounded<kEach>(p.lru.out_bf16 + row * p.lru.out_stride + channel, out);
  }
}

template <int kJoin, int kRows>
cudaError_t LaunchRows(const StepParams& p, int clusters, const DeviceQueue& queue) {
  const auto kernel = RecurrentStepKernel<kJoin, kRows>;
  const int shared_bytes = SharedBytes(p.chunks);
  const cudaError_t error = AllowSharedBytes(kernel, shared_bytes);
  if (error != cudaSuccess) return error;
  return LaunchClusters(p.chunks, kernel, clusters * p.chunks, kThreads, shared_bytes, queue, p);
}

template <int kJoin>
cudaError_t LaunchStep(const StepParams& p, const DeviceQueue& queue) {
  const auto clusters = [&](int tile) {
    return (p.lru.rows.num_rows + tile - 1) / tile * p.blocks;
  };
  // Small tiles as long as each block has a multiprocessor to itself; then they only cost weights.
  const int small = clusters(kRowStep);
  if (small * p.chunks <= queue.info().multiprocessors) {
    return LaunchRows<kJoin, 1>(p, small, queue);
  }
  return LaunchRows<kJoin, 2>(p, clusters(2 * kRowStep), queue);
}

}  // namespace

bool CanRecurrentStep(const RecurrentStepParams& params, const DeviceQueue& queue) {
  const CausalConv1dParams& conv = params.conv;
  const RgLruParams& lru = params.lru;
  const RaggedRows& rows = lru.rows;
  if (rows.num_rows < 1 || rows.num_seqs != rows.num_rows || rows.max_seq_rows != 1) return false;
  if (params.gates.weight == nullptr || conv.width != kWidth || lru.join == nullptr) return false;
  const PackedMatrix& w = *params.gates.weight;
  // As long as all clusters find room at once, which they do in 5 of 6 places; then three kernels
  // are as fast.
  const int64_t tiles = (rows.num_rows + 2 * kRowStep - 1) / (2 * kRowStep);
  if (tiles * lru.width / kChannels * 6 >
      int64_t{queue.info().multiprocessors} * kBlocksPerMultiprocessor * 5) {
    return false;
  }
  return w.dtype() == DType::kBF16 && !w.gated() && w.n() == w.k() && w.k() % kChannels == 0 &&
         w.k() <= kMostInputs && w.blocks() == 2 * w.x_blocks() &&
         w.x_blocks() * w.k() == lru.width && conv.channels == lru.width &&
         Aligned(conv.x, conv.x_stride) && Aligned(conv.weight, conv.channels) &&
         Aligned(conv.bias, conv.channels) && Aligned(conv.state, conv.state_slot_stride) &&
         Aligned(params.gates.bias, lru.width) && Aligned(lru.log_a_scale, lru.width) &&
         Aligned(lru.join, lru.join_stride) && Aligned(lru.state, lru.state_slot_stride) &&
         Aligned(lru.out_bf16, lru.out_stride);
}

absl::Status RecurrentStep(const RecurrentStepParams& params, DeviceQueue& queue) {
  const PackedMatrix& w = *params.gates.weight;
  StepParams p;
  p.conv = params.conv;
  p.lru = params.lru;
  p.weights = static_cast<const char*>(w.data());
  p.gate_bias = params.gates.bias;
  p.blocks = w.x_blocks();
  p.chunks = w.k() / kChannels;
  const cudaError_t error =
      LaunchJoined(p.lru.join_activation, [&]<int kJoin>() { return LaunchStep<kJoin>(p, queue); });
  return Check(error, "RecurrentStep[rows ", p.lru.rows.num_rows, ", width ", p.lru.width,
               ", blocks ", p.blocks, "]");
}

}  // namespace reprise::kernels::cuda
