// RG-LRU. Long chunks are cut at the grid: the scans within grid blocks run at the same time, and
// only h_grid goes from block to block. Short ones take one thread per channel through the rows.
// Both do the same operations in the same order, so which of them ran shows in no bit.
#include <algorithm>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/recurrence_math.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kGrid = kGridTokens;

// Sequences of at most this many rows are taken row by row.
constexpr int kShortRows = 16;
constexpr int kShortThreads = 128;

// The long form: a block of threads has kSpanWarps consecutive grid blocks of 32 channels.
constexpr int kSpanWarps = 4;
constexpr int kSpanThreads = 32 * kSpanWarps;
constexpr int kBatch = 8;  // rows whose inputs are loaded together
constexpr size_t kSpanShared = sizeof(float2) * kSpanWarps * kGrid * 32;
constexpr int kSpanBlocksPerMultiprocessor = 3;

// grid: (channels, num_seqs), kSize channels per thread. Leaves sequences of more than max_rows
// rows alone.
template <int kJoin, int kSize>
__global__ void __launch_bounds__(kShortThreads) ShortKernel(RgLruParams p, int max_rows) {
  LetNextStart();
  const int channel = (blockIdx.x * kShortThreads + threadIdx.x) * kSize;
  if (channel >= p.width) {
    WaitForPrevious();
    return;
  }
  const Floats<kSize> log_a_scale = LoadFloats<kSize>(p.log_a_scale + channel);
  const int s = blockIdx.y;
  const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
  const int64_t slot = p.rows.slots[s];
  int64_t position = p.rows.start_positions[s];
  WaitForPrevious();
  if (begin == end || end - begin > max_rows) return;
  if (slot < 0) {
    for (int64_t r = begin; r < end; ++r) {
      StoreRounded<kSize>(p.out_bf16 + r * p.out_stride + channel, {});
    }
    return;
  }
  float* const slot_state = p.state + slot * p.state_slot_stride + channel;
  Floats<kSize> grid = {}, local = {}, product = {};
  bool grid_moved = position == 0;
  if (position > 0) {
    grid = LoadFloats<kSize>(slot_state);
    local = LoadFloats<kSize>(slot_state + p.width);
    product = LoadFloats<kSize>(slot_state + 2 * int64_t{p.width});
  }
  for (int64_t r = begin; r < end; ++r, ++position) {
    const auto u = LoadFloats<kSize>(p.u + r * p.u_stride + channel);
    const auto input_gate = LoadFloats<kSize>(p.input_gate + r * p.gate_stride + channel);
    const auto recurrent_gate = LoadFloats<kSize>(p.recurrent_gate + r * p.gate_stride + channel);
    Floats<kSize> join = {};
    if (kJoin != kNoJoin) join = LoadFloats<kSize>(p.join + r * p.join_stride + channel);
    const bool boundary = (position + 1) % kGrid == 0;
    grid_moved = grid_moved || boundary;
    Floats<kSize> joined;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      ChannelState state = {grid.v[i], local.v[i], product.v[i]};
      Advance(
          InputOf(u.v[i], input_gate.v[i], recurrent_gate.v[i], log_a_scale.v[i], position == 0),
          state);
      const float out = Output(state);
      joined.v[i] = Joined<kJoin>(out, join.v[i]);
      grid.v[i] = boundary ? out : state.grid;
      local.v[i] = boundary ? 0.0f : state.local;
      product.v[i] = boundary ? 1.0f : state.product;
    }
    StoreRounded<kSize>(p.out_bf16 + r * p.out_stride + channel, joined);
  }
  if (grid_moved) StoreFloats<kSize>(slot_state, grid);
  StoreFloats<kSize>(slot_state + p.width, local);
  StoreFloats<kSize>(slot_state + 2 * int64_t{p.width}, product);
}

// The grid blocks that a long sequence's rows touch; 0 for a short one.
__device__ __forceinline__ int PiecesOf(const RaggedRows& rows, int s, int min_rows) {
  const int count = rows.seq_offsets[s + 1] - rows.seq_offsets[s];
  if (count < min_rows) return 0;
  const int64_t start = rows.start_positions[s];
  return static_cast<int>((start + count - 1) / kGrid - start / kGrid) + 1;
}

struct Span {
  int seq;    // -1: there is no span of this number
  int index;  // within the sequence
  int total;  // spans of all sequences
};

// Finds span number `number` of all long sequences' spans. Called by all threads of the block.
__device__ Span FindSpan(const RaggedRows& rows, int number) {
  __shared__ int found[2];
  __shared__ int warp_totals[kSpanWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) found[0] = -1;
  int before = 0;
  for (int base = 0; base < rows.num_seqs; base += kSpanThreads) {
    const int s = base + static_cast<int>(threadIdx.x);
    int count = 0;
    if (s < rows.num_seqs) {
      count = (PiecesOf(rows, s, kShortRows + 1) + kSpanWarps - 1) / kSpanWarps;
    }
    int through = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int lower = __shfl_up_sync(~0u, through, step);
      if (lane >= step) through += lower;
    }
    __syncthreads();
    if (lane == 31) warp_totals[warp] = through;
    __syncthreads();
    int first = before + through - count;
#pragma unroll
    for (int w = 0; w < kSpanWarps; ++w) {
      if (w < warp) first += warp_totals[w];
      before += warp_totals[w];
    }
    if (number >= first && number < first + count) {
      found[0] = s;
      found[1] = number - first;
    }
  }
  __syncthreads();
  return {found[0], found[1], before};
}

// h_grid of one channel on its way to a span, and the span's number, written and read as one.
struct alignas(8) Handed {
  float grid;
  uint32_t span;
};

__device__ __forceinline__ Handed LoadHanded(const Handed* from) {
  uint64_t both;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(both) : "l"(from) : "memory");
  return {__uint_as_float(static_cast<uint32_t>(both)), static_cast<uint32_t>(both >> 32)};
}

__device__ __forceinline__ void StoreHanded(Handed* to, const Handed& value) {
  const uint64_t both = uint64_t{value.span} << 32 | __float_as_uint(value.grid);
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(both) : "memory");
}

struct Handover {
  uint32_t* ticket;  // 0 before and after
  Handed* handed;    // [num_seqs, width], zeros at the start
};

// The rows of one warp: grid block `piece` of a sequence.
struct Piece {
  int64_t row;       // the first
  int64_t position;  // of the first row
  int count;         // 1..kGrid
  bool first, last;  // of the sequence's
};

// Inputs to (h_local, a_prod) of every row, which stay in `stored` ([kGrid][32], a lane reads only
// what it wrote); `state` goes to the piece's end, its grid untouched.
__device__ __forceinline__ void ScanPiece(const RgLruParams& p, const Piece& piece, int channel,
                                          float log_a_scale, float2* stored, ChannelState& state) {
  const float* const u = p.u + piece.row * p.u_stride + channel;
  const float* const input_gate = p.input_gate + piece.row * p.gate_stride + channel;
  const float* const recurrent_gate = p.recurrent_gate + piece.row * p.gate_stride + channel;
  float next[3][kBatch];
  const auto load = [&](int from) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int64_t r = min(from + j, piece.count - 1), at = r * p.gate_stride;
      next[0][j] = __ldcs(u + r * p.u_stride);
      next[1][j] = __ldcs(input_gate + at);
      next[2][j] = __ldcs(recurrent_gate + at);
    }
  };
  load(0);
  for (int from = 0; from < piece.count; from += kBatch) {
    float now[3][kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      now[0][j] = next[0][j];
      now[1][j] = next[1][j];
      now[2][j] = next[2][j];
    }
    load(from + kBatch);  // always: behind a branch it would come after this batch's arithmetic
    Input inputs[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      inputs[j] =
          InputOf(now[0][j], now[1][j], now[2][j], log_a_scale, piece.position + from + j == 0);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      ChannelState moved = state;
      Advance(inputs[j], moved);
      if (from + j < piece.count) state = moved;
      stored[(from + j) * 32] = make_float2(moved.local, moved.product);
    }
  }
}

template <int kJoin>
__device__ __forceinline__ void WritePiece(const RgLruParams& p, const Piece& piece, int channel,
                                           bool active, float grid, const float2* stored) {
  for (int from = 0; from < piece.count; from += kBatch) {
    float join[kBatch] = {};
    if constexpr (kJoin != kNoJoin) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int64_t r = piece.row + min(from + j, piece.count - 1);
        join[j] = __ldcs(p.join + r * p.join_stride + channel);
      }
    }
    // All of them first, so that they overlap; then what is there.
    float out[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const float2 value = stored[min(from + j, piece.count - 1) * 32];
      out[j] = Joined<kJoin>(Output({grid, value.x, value.y}), join[j]);
    }
    const auto store = [&](int j) {
      StoreRounded<1>(p.out_bf16 + (piece.row + from + j) * p.out_stride + channel, {{out[j]}});
    };
    if (active && from + kBatch <= piece.count) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) store(j);
    } else if (active) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (from + j < piece.count) store(j);
      }
    }
  }
}

// (h_local, a_prod) at the end of each warp's grid block, and h_grid of the first block.
struct SpanEnds {
  float2 scanned[kSpanWarps][32];
  float grid[32];
};

// One span of one tile of 32 channels. Blocks take spans by ticket, a sequence's in order of time:
// a block waits only for blocks with lower tickets, which run already. Called by all threads.
template <int kJoin>
__device__ void RunSpan(const RgLruParams& p, const Span& span, int tile, Handed* all_handed,
                        float2* shared, SpanEnds& ends) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, s = span.seq;
  const int64_t start = p.rows.start_positions[s];
  const int64_t begin = p.rows.seq_offsets[s], count = p.rows.seq_offsets[s + 1] - begin;
  const int pieces = PiecesOf(p.rows, s, 0), number = span.index * kSpanWarps + warp;
  const bool active = tile * 32 + lane < p.width;
  const int channel = active ? tile * 32 + lane : p.width - 1;  // idle lanes read and drop

  const int64_t block_start = (start / kGrid + number) * kGrid;
  Piece piece;
  piece.first = number == 0;
  piece.last = number == pieces - 1;
  piece.position = piece.first ? start : block_start;
  piece.row = begin + piece.position - start;
  piece.count = static_cast<int>(min(block_start + kGrid, start + count) - piece.position);

  const int64_t slot = p.rows.slots[s];
  if (slot < 0) {
    for (int r = 0; r < piece.count && active; ++r) {
      StoreRounded<1>(p.out_bf16 + (piece.row + r) * p.out_stride + channel, {});
    }
    return;
  }
  float* const slot_state = p.state + slot * p.state_slot_stride + channel;
  float2* const stored = shared + warp * kGrid * 32 + lane;
  ChannelState state = {0.0f, 0.0f, 1.0f};
  if (number < pieces) {
    if (piece.first) {
      state.product = 0.0f;
      if (start > 0) {
        state = {slot_state[0], slot_state[p.width], slot_state[2 * int64_t{p.width}]};
      }
    }
    ScanPiece(p, piece, channel, p.log_a_scale[channel], stored, state);
    ends.scanned[warp][lane] = make_float2(state.local, state.product);
    if (piece.first) ends.grid[lane] = state.grid;
  }
  Handed* const handed = all_handed + int64_t{s} * p.width + channel;
  if (warp == 0 && span.index > 0) {
    Handed value;
    do {
      value = LoadHanded(handed);
    } while (value.span != static_cast<uint32_t>(span.index));
    ends.grid[lane] = value.grid;
  }
  __syncthreads();
  if (number >= pieces) return;

  state.grid = ends.grid[lane];
  for (int w = 0; w < warp; ++w) {
    const float2 scanned = ends.scanned[w][lane];
    state.grid = Output({state.grid, scanned.x, scanned.y});
  }
  const float out = Output(state);
  if (warp == kSpanWarps - 1 && !piece.last && active) {
    StoreHanded(handed, {out, static_cast<uint32_t>(span.index) + 1});
  }
  WritePiece<kJoin>(p, piece, channel, active, state.grid, stored);
  if (piece.last && active) {
    const bool boundary = (start + count) % kGrid == 0;
    slot_state[0] = boundary ? out : state.grid;
    slot_state[p.width] = boundary ? 0.0f : state.local;
    slot_state[2 * int64_t{p.width}] = boundary ? 1.0f : state.product;
  }
}

template <int kJoin>
__global__ void __launch_bounds__(kSpanThreads, kSpanBlocksPerMultiprocessor)
    LongKernel(RgLruParams p, Handover handover, int tiles) {
  extern __shared__ float2 shared[];
  __shared__ SpanEnds ends;
  __shared__ uint32_t ticket;
  LetNextStart();
  WaitForPrevious();
  uint32_t next = 0;
  if (threadIdx.x == 0) next = atomicAdd(handover.ticket, 1);
  while (true) {
    if (threadIdx.x == 0) ticket = next;
    __syncthreads();
    const uint32_t mine = ticket;
    const Span span = FindSpan(p.rows, static_cast<int>(mine / tiles));
    if (span.seq < 0) {
      // Each block draws one ticket in vain; the last of all cleans up.
      const uint32_t last = static_cast<uint32_t>(span.total) * tiles + gridDim.x - 1;
      if (threadIdx.x == 0 && mine == last) *handover.ticket = 0;
      return;
    }
    if (threadIdx.x == 0) next = atomicAdd(handover.ticket, 1);  // comes while the span runs
    RunSpan<kJoin>(p, span, static_cast<int>(mine % tiles), handover.handed, shared, ends);
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kShortThreads)
    ClearHandoverKernel(Handed* handed, int64_t count) {
  LetNextStart();
  WaitForPrevious();
  const int64_t at = int64_t{blockIdx.x} * kShortThreads + threadIdx.x;
  if (at < count) handed[at] = {0.0f, 0};
}

template <int kJoin>
cudaError_t LaunchShort(const RgLruParams& p, int max_rows, const DeviceQueue& queue) {
  const auto pairs = [](const auto* data, int64_t stride) {
    return Aligned(data, stride, 2 * sizeof(*data));
  };
  const bool two = p.width % 2 == 0 && pairs(p.u, p.u_stride) &&
                   pairs(p.input_gate, p.gate_stride) && pairs(p.recurrent_gate, p.gate_stride) &&
                   pairs(p.join, p.join_stride) && pairs(p.log_a_scale, p.width) &&
                   pairs(p.state, p.state_slot_stride) && pairs(p.out_bf16, p.out_stride);
  const int per_block = kShortThreads * (two ? 2 : 1);
  const dim3 grid((p.width + per_block - 1) / per_block, p.rows.num_seqs);
  return Launch(two ? ShortKernel<kJoin, 2> : ShortKernel<kJoin, 1>, grid, kShortThreads, 0, queue,
                p, max_rows);
}

template <int kJoin>
cudaError_t LaunchRgLru(const RgLruParams& p, DeviceQueue& queue) {
  const RaggedRows& rows = p.rows;
  if (rows.max_seq_rows <= kShortRows) return LaunchShort<kJoin>(p, kShortRows, queue);
  const int64_t tiles = (p.width + 31) / 32;
  const int64_t handed = int64_t{rows.num_seqs} * p.width;
  if (handed * sizeof(Handed) > queue.scratch_bytes()) {
    return LaunchShort<kJoin>(p, rows.max_seq_rows, queue);
  }
  // Not all rows can belong to long sequences when there are more sequences than this.
  const int64_t long_seqs = std::min<int64_t>(rows.num_seqs, rows.num_rows / (kShortRows + 1));
  const int64_t spans = rows.num_rows / (kGrid * kSpanWarps) + 2 * long_seqs;
  const int64_t resident = int64_t{queue.info().multiprocessors} * kSpanBlocksPerMultiprocessor;
  Handover handover;
  handover.ticket = queue.counters();
  handover.handed = static_cast<Handed*>(queue.scratch());
  cudaError_t error = AllowSharedBytes(LongKernel<kJoin>, kSpanShared);
  if (error != cudaSuccess) return error;
  error = Launch(ClearHandoverKernel,
                 static_cast<unsigned>((handed + kShortThreads - 1) / kShortThreads), kShortThreads,
                 0, queue, handover.handed, handed);
  if (error != cudaSuccess) return error;
  error = Launch(LongKernel<kJoin>, static_cast<unsigned>(std::min(spans * tiles, resident)),
                 kSpanThreads, kSpanShared, queue, p, handover, static_cast<int>(tiles));
  if (error != cudaSuccess || (rows.num_seqs == 1 && rows.num_rows > kShortRows)) return error;
  return LaunchShort<kJoin>(p, kShortRows, queue);
}

}  // namespace

absl::Status RgLru(const RgLruParams& p, DeviceQueue& queue) {
  const auto launch = [&]<int kJoin>() { return LaunchRgLru<kJoin>(p, queue); };
  const cudaError_t error = p.join == nullptr ? launch.template operator()<kNoJoin>()
                                              : LaunchJoined(p.join_activation, launch);
  return Check(error, "RgLru[rows ", p.rows.num_rows, ", sequences ", p.rows.num_seqs, ", width ",
               p.width, "]");
}

}  // namespace reprise::kernels::cuda
