// Norms and products of a decode step (decode_step.cu).
#ifndef REPRISE_KERNELS_CUDA_DECODE_PRODUCT_CUH_
#define REPRISE_KERNELS_CUDA_DECODE_PRODUCT_CUH_

#include "kernels/cuda/decode_feed.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda::decode {

__device__ __forceinline__ void SyncComputing() { SyncSome(1, kComputing); }

__device__ __forceinline__ Floats<4> LoadFresh(const float* from) {
  const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
  return {four.x, four.y, four.z, four.w};
}

__host__ __device__ __forceinline__ int XRowBytes(int inputs) { return inputs * 2 + 16; }

// RmsNorm (elementwise.cu) of one row to `to`, in shared memory or not. `keep`: this block keeps
// the sum with delta.
__device__ __forceinline__ void NormRow(const StepOp& op, int64_t row, bool keep, char* to) {
  __shared__ float sums[kWarps];
  const RmsNormParams& p = op.norm;
  const int thread = threadIdx.x;
  const auto at = [&](int piece) { return (piece * kComputing + thread) * 4; };
  Floats<4> kept[kNormPieces] = {}, more[kNormPieces] = {}, weight[kNormPieces] = {};
#pragma unroll
  for (int i = 0; i < kNormPieces; ++i) {
    if (at(i) >= p.dim) continue;
    kept[i] = LoadFresh(p.x + row * p.dim + at(i));
    if (p.delta != nullptr) more[i] = LoadFresh(p.delta + row * p.dim + at(i));
    weight[i] = LoadFloats<4>(p.weight + at(i));
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kNormPieces; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (p.delta != nullptr) kept[i].v[j] += more[i].v[j];
      sum = fmaf(kept[i].v[j], kept[i].v[j], sum);
    }
  }
#pragma unroll
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  SyncComputing();
  float warps[kWarps];
#pragma unroll
  for (int i = 0; i < kWarps; ++i) warps[i] = sums[i];
#pragma unroll
  for (int half = kWarps / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) warps[i] += warps[i + half];
  }
  const float mean = warps[0] / static_cast<float>(p.dim);
  const float inverse = 1.0f / sqrtf(mean + p.eps);
#pragma unroll
  for (int i = 0; i < kNormPieces; ++i) {
    if (at(i) >= p.dim) continue;
    float normed[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      normed[j] = (kept[i].v[j] * inverse) * (p.weight_offset + weight[i].v[j]);
    }
    *reinterpret_cast<uint2*>(to + at(i) * 2) =
        make_uint2(PackBf16(normed[0], normed[1]), PackBf16(normed[2], normed[3]));
    if (keep && p.delta != nullptr) StoreFloats<4>(op.residual + row * p.dim + at(i), kept[i]);
  }
}

__device__ void LoadX(const Step& step, const StepOp& op, char* x) {
  const int inputs = op.layout.Inputs();
  for (int row = 0; row < step.rows; ++row) {
    for (int i = threadIdx.x; i < inputs / 8; i += kComputing) {
      CopyAsync16(x + row * XRowBytes(inputs) + i * 16, op.x + row * op.x_stride + i * 8, 16);
    }
  }
  WaitForCopies();
}

// How a segment's weights lie in slots: of a tile, or of a strip, which then takes both places of
// one.
template <bool kStrip_, bool kE4m3_>
struct Form {
  static constexpr bool kStrip = kStrip_, kE4m3 = kE4m3_;
  static constexpr int kEach = kStrip ? StripSlotChunks(kE4m3) : SlotChunks(kE4m3);
  static constexpr int kBytes = kStrip ? StripBytes(kE4m3) : ChunkBytes(kE4m3);  // of a chunk
};

// Fragments of 64 inputs: of weights at `a`, of x at `b`.
template <typename F>
struct Fragments {
  uint32_t weights[F::kE4m3 ? (F::kStrip ? 1 : 2) : 4][4], x[2][4];
  __device__ __forceinline__ void Load(uint32_t a, uint32_t b) {
    if constexpr (F::kE4m3) {  // as they are, by strips
      LoadWords(weights[0], a);
      if constexpr (!F::kStrip) LoadWords(weights[1], a + StripBytes(true));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) LoadMatrices(weights[i], a + i * 256);
    }
    LoadMatrices(x[0], b);
    LoadMatrices(x[1], b + 64);
  }
  __device__ __forceinline__ void MultiplyAdd(float (&sums)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t b0 = x[i / 2][i % 2 * 2], b1 = x[i / 2][i % 2 * 2 + 1];
      if constexpr (F::kE4m3) {
        uint32_t wide[4];
        WidenStep(weights[0][i], weights[F::kStrip ? 0 : 1][i], wide[0], wide[1], wide[2], wide[3]);
        Mma(sums, wide, b0, b1);
      } else {
        Mma(sums, weights[i], b0, b1);
      }
    }
  }
};

// One segment of kChunks chunks from the warp's ring. Fragments of a slot are all on their way
// before its slot is given back.
template <typename F, int kChunks>
__device__ __forceinline__ void SumChunks(uint32_t a_lane, uint32_t b, const Ring& ring,
                                          RingPosition& at, float (&sums)[4]) {
  constexpr int kEach = F::kEach, kBytes = F::kBytes;
#pragma unroll
  for (int first = 0; first < kChunks; first += kEach) {
    const uint32_t a = a_lane + at.slot * kSlotBytes;
    Wait(&ring.full[at.slot], at.parity);
#pragma unroll
    for (int i = 0; i < kEach; i += 2) {
      Fragments<F> one, two;
      if (first + i < kChunks) one.Load(a + i * kBytes, b + (first + i) * 128);
      if (first + i + 1 < kChunks) two.Load(a + (i + 1) * kBytes, b + (first + i + 1) * 128);
      if (i + 2 >= kEach) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) Arrive(&ring.empty[at.slot]);
        at.Advance(ring.depth);
      }
      if (first + i < kChunks) one.MultiplyAdd(sums);
      if (first + i + 1 < kChunks) two.MultiplyAdd(sums);
    }
  }
}

// The same for any number, as models of common sizes do not have it.
template <typename F>
__device__ __forceinline__ void SumAny(int chunks, uint32_t a_lane, uint32_t b, const Ring& ring,
                                       RingPosition& at, float (&sums)[4]) {
  for (int first = 0; first < chunks; first += F::kEach) {
    const uint32_t a = a_lane + at.slot * kSlotBytes;
    Wait(&ring.full[at.slot], at.parity);
#pragma unroll 1
    for (int i = 0; i < F::kEach && first + i < chunks; ++i) {
      Fragments<F> one;
      one.Load(a + i * F::kBytes, b + (first + i) * 128);
      one.MultiplyAdd(sums);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) Arrive(&ring.empty[at.slot]);
    at.Advance(ring.depth);
  }
}

template <typename F>
__device__ __forceinline__ void SumSegment(int chunks, uint32_t a_lane, uint32_t b,
                                           const Ring& ring, RingPosition& at, float (&sums)[4]) {
  for (; chunks >= kStepChunks; chunks -= kStepChunks) {
    SumChunks<F, kStepChunks>(a_lane, b, ring, at, sums);
    b += kStepChunks * 128;
  }
  if constexpr (F::kE4m3) {
    SumAny<F>(chunks, a_lane, b, ring, at, sums);
    return;
  }
  constexpr int kEach = F::kEach;
  for (; chunks >= kEach; chunks -= kEach) {
    SumChunks<F, kEach>(a_lane, b, ring, at, sums);
    b += kEach * 128;
  }
  if (chunks == 1) SumChunks<F, 1>(a_lane, b, ring, at, sums);
  if constexpr (F::kStrip) {
    if (chunks == 2) SumChunks<F, 2>(a_lane, b, ring, at, sums);
    if (chunks == 3) SumChunks<F, 3>(a_lane, b, ring, at, sums);
  }
}

// What a warp needs to find fragments: weights as {inputs 0-7, 8-15} x {strip 0, strip 1}, of e4m3
// as packed_layout.h says, x as 4 x 8 inputs of 8 rows (what is beyond the last row is not stored).
struct Lane {
  uint32_t strip, tile, e4m3;  // in the first slot
  uint32_t b;
  int x_row;
  __device__ Lane(const char* ring, const char* x, int rows) {
    const int lane = threadIdx.x % 32;
    strip = SharedAddress(ring) + (lane / 16) * 128 + (lane % 8) * 16;
    tile = strip + (lane / 8 % 2) * kStripBytes;
    e4m3 = SharedAddress(ring) + lane * 16;
    x_row = min(lane % 8, rows - 1);
    b = SharedAddress(x) + (lane / 8) * 16;
  }
};

// What a lane stores of a tile: outputs `low` and `high` (gated: one result of both) of rows
// lane % 4 * 2 and the next. Scales and bias are on their way while sums are made.
struct Outputs {
  int low, high;
  bool has_low, has_high;
  float low_scale = 1.0f, high_scale = 1.0f;
  float low_bias = 0.0f, high_bias = 0.0f;

  __device__ __forceinline__ Outputs(const StepOp& op, const Share& share, int tile, int lane) {
    const MatMulOutput& o = op.output;
    if (op.gated) {
      low = tile * kStripOutputs + lane / 4;
      high = o.n / 2 + low;
      has_low = has_high = low < o.n / 2;
    } else {
      low = tile * kTileOutputs + lane / 4;
      high = low + kStripOutputs;
      has_low = low < o.n && tile * 2 >= share.first;
      has_high = high < o.n && tile * 2 + 1 < share.last;
    }
    if (o.scales != nullptr) {
      if (has_low) low_scale = o.scales[low];
      if (has_high) high_scale = o.scales[high];
    }
    if (o.bias == nullptr) return;
    if (has_low) low_bias = o.bias[low];
    if (has_high) high_bias = o.bias[high];
  }

  __device__ __forceinline__ void Store(const StepOp& op, int lane, float (&total)[4]) const {
    const MatMulOutput& o = op.output;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = lane % 4 * 2 + i;
      if (row >= o.rows) return;
      if (o.scales != nullptr) {
        total[i] *= low_scale;
        total[2 + i] *= high_scale;
      }
      if (o.bias != nullptr) {
        total[i] += low_bias;
        total[2 + i] += high_bias;
      }
      if (op.gated) {
        if (has_low) {
          o.Write(row * o.stride + low, Activate(o.activation, total[i]) * total[2 + i]);
        }
        continue;
      }
      if (o.softcap > 0.0f) {
        total[i] = o.Capped(total[i]);
        total[2 + i] = o.Capped(total[2 + i]);
      }
      if (has_low) o.Write(row * o.stride + low, total[i]);
      if (has_high) o.Write(row * o.stride + high, total[2 + i]);
    }
  }
};

// The product, with x in shared memory. Segments of some tiles leave their sums in `parts`, which
// are then added in order.
__device__ void Multiply(const StepOp& op, const Share& share, int base, const Lane& lane_at,
                         float4* parts, const Ring& ring, RingPosition& at) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int segments = op.layout.segments;
  const uint32_t b_row = lane_at.b + lane_at.x_row * XRowBytes(op.layout.Inputs());
  for (int first = 0; first < share.tiles; first += kWarps) {
    const int tiles = min(kWarps, share.tiles - first);
    const Outputs outputs(op, share, share.first_tile + first + min(warp, tiles - 1), lane);
    if (first > 0) SyncComputing();  // the parts before have been read
    const int begin = first * segments, end = begin + tiles * segments;
    for (int i = begin + ((warp - base - begin) & (kWarps - 1)); i < end; i += kWarps) {
      const Unit unit(op, share, i);
      const int chunks = op.layout.SegmentChunks(unit.segment);
      const uint32_t b = b_row + unit.segment * op.layout.SegmentInputs() * 2;
      float sums[4] = {};
      if (op.layout.e4m3) {
        if (unit.strip >= 0) {
          SumSegment<Form<true, true>>(chunks, lane_at.e4m3, b, ring, at, sums);
        } else {
          SumSegment<Form<false, true>>(chunks, lane_at.e4m3, b, ring, at, sums);
        }
      } else if (unit.strip >= 0) {
        SumSegment<Form<true, false>>(chunks, lane_at.strip, b, ring, at, sums);
      } else {
        SumSegment<Form<false, false>>(chunks, lane_at.tile, b, ring, at, sums);
      }
      parts[(i - begin) * 32 + lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
    SyncComputing();
    if (warp >= tiles) continue;
    float total[4] = {};
#pragma unroll 5
    for (int segment = 0; segment < segments; ++segment) {
      const float4 part = parts[(warp * segments + segment) * 32 + lane];
      total[0] = total[0] + part.x;
      total[1] = total[1] + part.y;
      total[2] = total[2] + part.z;
      total[3] = total[3] + part.w;
    }
    outputs.Store(op, lane, total);
  }
}

}  // namespace reprise::kernels::cuda::decode

#endif  // REPRISE_KERNELS_CUDA_DECODE_PRODUCT_CUH_
