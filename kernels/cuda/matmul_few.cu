// Products of at most 8 rows: bound by the bytes of the weights.
//
// A block of the grid, one per multiprocessor, owns consecutive strips of 8 outputs; where its
// first and last tile of 16 are halves, only these are fetched and stored. Its units of work are
// the segments of its tiles, [panel of segments][tile][segment], dealt to the warps in turn: a
// segment is one chain of matrix instructions, so a tile takes as long as one segment where warps
// suffice. The warp of a tile's last segment adds them all, in order. There is one panel
// where the rows of x fit into shared memory, otherwise totals wait there for the next panel.
//
// As many warps fetch: each fills a ring of slots that only one warp empties, by bulk copies.
// (One ring for all would not do: with two phases to tell apart, a barrier cannot show that a slot
// which another warp emptied has been filled again.) Weights do not depend on the kernel before, so
// the ring is filled before WaitForPrevious(); see Turn for when.
#include "kernels/cuda/async.cuh"
#include "kernels/cuda/matmul_kernels.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kWarps = kFewWarps;
constexpr int kThreads = 2 * 32 * kWarps;  // as many fetch

template <bool kE4m3>
struct Slots {
  static constexpr int kChunk = ChunkBytes(kE4m3), kStrip = StripBytes(kE4m3);
  static constexpr int kChunks = kFewSlotBytes / kChunk;  // of a slot
};

struct FewParams {
  PackedLayout layout;
  const char* weights = nullptr;
  int total_tiles = 0;  // of all blocks of the matrix
  int blocks = 0, x_blocks = 0, k = 0;
  int rows = 0;
  bool x_aligned = false;
  int64_t x_stride = 0;
  const __nv_bfloat16* x = nullptr;
  FewCut cut;
  NextStart next_start = NextStart::kEarly;
  uint32_t* turns = nullptr;
  MatMulOutput output;

  // Blocks of the grid get the same number of strips, or of tiles where the strips of one belong
  // together.
  template <bool kGated>
  __device__ int FirstStrip(int part) const {
    if (kGated) return 2 * static_cast<int>(int64_t{total_tiles} * part / gridDim.x);
    return static_cast<int>(int64_t{2} * total_tiles * part / gridDim.x);
  }
  __device__ int PanelSegments(int panel) const {
    return min(cut.panel, layout.segments - panel * cut.panel);
  }
};

// A slot's place in the ring of one warp, and the phase of its barriers.
struct RingPosition {
  int slot;
  uint32_t parity;
  __device__ void Advance(int depth) {
    slot += kWarps;
    if (slot < depth * kWarps) return;
    slot -= depth * kWarps;
    parity ^= 1;
  }
};

// By one lane: fetches the units of warp `warp`, of the strips [first, last). The rest of their
// tiles is left as it is.
template <bool kE4m3>
__device__ void Fetch(const FewParams& p, int first, int last, int warp, char* ring, Barrier* full,
                      Barrier* empty) {
  using S = Slots<kE4m3>;
  RingPosition at = {warp, 1};  // the phase before the first counts as over
  const int first_tile = first / 2, tiles = (last + 1) / 2 - first_tile;
  for (int panel = 0; panel < p.cut.panels; ++panel) {
    const int segments = p.PanelSegments(panel), units = tiles * segments;
    for (int unit = warp; unit < units; unit += kWarps) {
      const int tile = first_tile + unit / segments;
      const int segment = panel * p.cut.panel + unit % segments;
      const bool low = tile * 2 >= first, both = low && tile * 2 + 1 < last;
      const int offset = low ? 0 : S::kStrip;
      const char* source = p.weights + tile * p.layout.TileBytes() +
                           int64_t{segment} * p.layout.segment_chunks * S::kChunk + offset;
      const int chunks = p.layout.SegmentChunks(segment);
      for (int chunk = 0; chunk < chunks; chunk += S::kChunks) {
        const int count = min(S::kChunks, chunks - chunk);
        char* const target = ring + at.slot * kFewSlotBytes + offset;
        Wait(&empty[at.slot], at.parity);
        ArriveAndExpect(&full[at.slot], count * (both ? S::kChunk : S::kStrip));
        if (both) {
          BulkLoad(target, source + chunk * S::kChunk, count * S::kChunk, &full[at.slot]);
        } else {
          for (int i = 0; i < count; ++i) {
            BulkLoad(target + i * S::kChunk, source + (chunk + i) * S::kChunk, S::kStrip,
                     &full[at.slot]);
          }
        }
        at.Advance(p.cut.depth);
      }
    }
  }
}

// The panel's slices of x, [rows][matrix blocks of this block's tiles][inputs], zeros beyond k.
__device__ void LoadX(const FewParams& p, int panel, int first_block, int blocks, char* shared) {
  const int panel_inputs = p.cut.panel * p.layout.SegmentInputs();
  const int first = panel * panel_inputs;
  const int pieces = min(panel_inputs, p.layout.Inputs() - first) / 8;  // of 16 bytes
  const int slice_bytes = p.cut.slice_bytes;
  for (int at = threadIdx.x; at < p.rows * blocks * pieces; at += 32 * kWarps) {
    const int piece = at % pieces, slice = at / pieces;
    const int row = slice / blocks, block = slice - row * blocks;
    const int input = first + piece * 8;
    const __nv_bfloat16* source =
        p.x + row * p.x_stride + int64_t{(first_block + block) % p.x_blocks} * p.k + input;
    char* target = shared + row * p.cut.x_row_bytes + block * slice_bytes + piece * 16;
    const int present = min(max(p.k - input, 0), 8);
    if (p.x_aligned) {
      CopyAsync16(target, present > 0 ? source : p.x, present * 2);
    } else {
      for (int i = 0; i < 8; ++i) {
        reinterpret_cast<__nv_bfloat16*>(target)[i] = i < present ? source[i] : ToBf16(0.0f);
      }
    }
  }
  WaitForCopies();
}

// Where a lane finds its part of the weights of a slot: of bf16 as a row for ldmatrix, {inputs 0-7,
// 8-15} x {strip 0, strip 1}.
template <bool kE4m3>
__device__ __forceinline__ uint32_t LaneOffset(int lane) {
  if constexpr (kE4m3) return lane * 16;
  return (lane / 8 % 2) * kStripBytes + (lane / 16) * 128 + (lane % 8) * 16;
}

// A chunk of 64 inputs, in steps of 16: fragments of weights at `a`, of x at `b`.
template <bool kE4m3>
__device__ __forceinline__ void MultiplyAdd(float (&sums)[4], uint32_t a, uint32_t b) {
  uint32_t low[4], high[4];
  if constexpr (kE4m3) {
    LoadWords(low, a);
    LoadWords(high, a + Slots<true>::kStrip);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t first[4], second[4], x[4];
    if constexpr (kE4m3) {
      WidenStep(low[2 * half], high[2 * half], first[0], first[1], first[2], first[3]);
      WidenStep(low[2 * half + 1], high[2 * half + 1], second[0], second[1], second[2], second[3]);
    } else {
      LoadMatrices(first, a + half * 512);
      LoadMatrices(second, a + half * 512 + 256);
    }
    LoadMatrices(x, b + half * 64);
    Mma(sums, first, x[0], x[1]);
    Mma(sums, second, x[2], x[3]);
  }
}

__device__ __forceinline__ void AddTo(float (&total)[4], float4 part) {
  total[0] = total[0] + part.x;
  total[1] = total[1] + part.y;
  total[2] = total[2] + part.z;
  total[3] = total[3] + part.w;
}

// Sums of segments of the tiles at hand. Two tiles have a place at a time. Every tile has barriers
// of its own, of which each panel is a phase: warps may be several tiles apart.
struct Parts {
  float4* values;     // [2][panel][lane]
  Barrier* complete;  // [tiles], all segments are there
  Barrier* added;     // [tiles], they have been added up
};

// Leaves a segment's sums. True for the warp that has the tile's last segment: it waits for the
// others, which have theirs in hand, and adds all of them to `total`.
__device__ bool Collect(const FewParams& p, const Parts& parts, int panel, int tile, int segments,
                        int segment, const float (&sums)[4], float (&total)[4]) {
  const int lane = threadIdx.x % 32, parity = panel & 1;
  float4* const at = parts.values + (tile & 1) * p.cut.panel * 32 + lane;
  if (tile >= 2) Wait(&parts.added[tile - 2], parity);
  at[segment * 32] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  if (segment + 1 != segments) {
    Arrive(&parts.complete[tile]);
    return false;
  }
  ArriveTimes(&parts.complete[tile], 1 + p.cut.panel - segments);  // and for those of other panels
  Wait(&parts.complete[tile], parity);
  for (int s = 0; s < segments; ++s) AddTo(total, at[s * 32]);
  Arrive(&parts.added[tile]);
  return true;
}

template <bool kGated, bool kE4m3>
__global__ void __launch_bounds__(kThreads, 2) FewRowsKernel(const __grid_constant__ FewParams p) {
  extern __shared__ __align__(128) char shared[];
  const Turn turn(p.next_start, p.turns);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int slots = p.cut.depth * kWarps;
  char* const ring = shared;
  char* const x = shared + p.cut.x_offset;
  auto* const totals = reinterpret_cast<float4*>(shared + p.cut.totals_offset) + lane;
  auto* const full = reinterpret_cast<Barrier*>(shared + p.cut.barriers_offset);
  Barrier* const empty = full + slots;
  const Parts parts = {reinterpret_cast<float4*>(shared + p.cut.parts_offset), empty + slots,
                       empty + slots + p.cut.tiles};
  if (threadIdx.x < slots) {
    InitBarrier(&full[threadIdx.x], 1);
    InitBarrier(&empty[threadIdx.x], 32);
    PublishBarriers();
  }
  if (p.cut.panel > 1) {
    for (int i = threadIdx.x; i < p.cut.tiles; i += kThreads) {
      InitBarrier(&parts.complete[i], p.cut.panel * 32);
      InitBarrier(&parts.added[i], 32);
    }
  }
  __syncthreads();
  const int first_strip = p.FirstStrip<kGated>(blockIdx.x);
  const int last_strip = p.FirstStrip<kGated>(blockIdx.x + 1);
  if (warp >= kWarps) {
    const bool tells = warp == kWarps && lane == 0;
    if (tells) turn.Begin();
    if (lane == 0) Fetch<kE4m3>(p, first_strip, last_strip, warp - kWarps, ring, full, empty);
    if (tells) turn.End();
    __syncwarp();
    WaitForPrevious();
    return;
  }
  const int first = first_strip / 2, last = (last_strip + 1) / 2;  // tiles
  WaitForPrevious();

  // Lanes of ldmatrix have x as 4 x 8 inputs.
  const uint32_t a_lane = SharedAddress(ring) + LaneOffset<kE4m3>(lane);
  const int x_row = min(lane % 8, p.rows - 1);  // what is beyond is not stored
  const uint32_t b_lane = SharedAddress(x) + x_row * p.cut.x_row_bytes + (lane / 8) * 16;
  const int first_block = first / p.layout.tiles, last_block = (last - 1) / p.layout.tiles;
  RingPosition at = {warp, 0};
  for (int panel = 0; panel < p.cut.panels; ++panel) {
    if (panel > 0) SyncSome(1, 32 * kWarps);  // nobody reads the slices before
    LoadX(p, panel, first_block, last_block - first_block + 1, x);
    SyncSome(1, 32 * kWarps);
    const int segments = p.PanelSegments(panel), units = (last - first) * segments;
    for (int unit = warp; unit < units; unit += kWarps) {
      const int tile = unit / segments, segment = unit % segments;
      const int block = (first + tile) / p.layout.tiles;
      const int chunks = p.layout.SegmentChunks(panel * p.cut.panel + segment);
      uint32_t b = b_lane + (block - first_block) * p.cut.slice_bytes +
                   segment * p.layout.SegmentInputs() * 2;
      float sums[4] = {};
      using S = Slots<kE4m3>;
      for (int chunk = 0; chunk < chunks; chunk += S::kChunks) {
        const uint32_t a = a_lane + at.slot * kFewSlotBytes;
        Wait(&full[at.slot], at.parity);
#pragma unroll
        for (int i = 0; i < S::kChunks; ++i) {
          if (i == 0 || chunk + i < chunks)
            MultiplyAdd<kE4m3>(sums, a + i * S::kChunk, b + i * 128);
        }
        b += S::kChunks * 128;
        Arrive(&empty[at.slot]);
        at.Advance(p.cut.depth);
      }
      float total[4] = {};
      if (panel > 0) AddTo(total, totals[tile * 32]);
      if (segments == 1) {
        AddTo(total, make_float4(sums[0], sums[1], sums[2], sums[3]));
      } else if (!Collect(p, parts, panel, tile, segments, segment, sums, total)) {
        continue;
      }
      if (panel + 1 < p.cut.panels) {
        totals[tile * 32] = make_float4(total[0], total[1], total[2], total[3]);
        continue;
      }
      const int strip = 2 * (first + tile);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        Finish<kGated>(p.output, block, first + tile - block * p.layout.tiles, lane / 4,
                       lane % 4 * 2 + i, total[i], total[2 + i], strip >= first_strip,
                       strip + 1 < last_strip);
      }
    }
  }
}

}  // namespace

absl::Status LaunchFew(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue) {
  const PackedMatrix& w = *params.weight;
  FewParams p;
  p.layout = LayoutOf(w);
  p.weights = static_cast<const char*>(w.data());
  p.total_tiles = w.blocks() * p.layout.tiles;
  p.blocks = w.blocks();
  p.x_blocks = w.x_blocks();
  p.k = w.k();
  p.x_stride = params.x_stride;
  p.x_aligned = ProblemOf(params, queue).x_aligned;
  p.cut = plan.few;
  p.next_start = plan.next_start;
  p.turns = queue.counters() + DeviceQueue::kCounters - kTurnWords;
  p.output = OutputOf(params);
  const auto kernel = p.layout.e4m3
                          ? (w.gated() ? FewRowsKernel<true, true> : FewRowsKernel<false, true>)
                          : (w.gated() ? FewRowsKernel<true, false> : FewRowsKernel<false, false>);
  const int64_t shared_bytes = plan.few.shared_bytes;
  RETURN_IF_ERROR(
      Check(AllowSharedBytes(kernel, shared_bytes), Describe(params), ": shared memory"));
  for (int first = 0; first < params.num_rows; first += plan.row_tile) {
    p.rows = p.output.rows = std::min(plan.row_tile, params.num_rows - first);
    p.x = reinterpret_cast<const __nv_bfloat16*>(params.x_bf16) + first * params.x_stride;
    if (params.out != nullptr) p.output.out = params.out + first * params.out_stride;
    if (params.out_bf16 != nullptr) {
      p.output.out_bf16 =
          reinterpret_cast<__nv_bfloat16*>(params.out_bf16) + first * params.out_stride;
    }
    RETURN_IF_ERROR(
        Check(Launch(kernel, plan.grid, kThreads, shared_bytes, queue, p), Describe(params)));
  }
  return absl::OkStatus();
}

}  // namespace reprise::kernels::cuda
