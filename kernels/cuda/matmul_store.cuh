// Where the sums of a product go (matmul_tile.cu).
#ifndef REPRISE_KERNELS_CUDA_MATMUL_STORE_CUH_
#define REPRISE_KERNELS_CUDA_MATMUL_STORE_CUH_

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/matmul_tile.cuh"
#include "kernels/cuda/residual.cuh"

namespace reprise::kernels::cuda::tile {

inline MatMulOutput OutputOf(const MatMulParams& params) {
  MatMulOutput output;
  output.rows = params.num_rows;
  output.n = params.weight->n();
  output.stride = params.out_stride;
  output.scales = params.weight->scales();
  output.bias = params.bias;
  output.activation = params.activation;
  output.softcap = params.softcap;
  output.residual = params.residual;
  output.out = params.out;
  output.out_bf16 = reinterpret_cast<__nv_bfloat16*>(params.out_bf16);
  output.vectors = params.residual.stream != nullptr
                       ? InVectors(params.residual, output.n)
                       : Aligned(params.out, params.out_stride) && output.n % 8 == 0 &&
                             Aligned(params.out_bf16, params.out_stride);
  return output;
}

__device__ __forceinline__ void WriteOne(const MatMulOutput& o, int64_t to, float value) {
  if (o.out != nullptr) {
    o.out[to] = value;
  } else {
    o.out_bf16[to] = ToBf16(value);
  }
}

// Up to 4 results of a row from output `j` of `count` on, which belong at `to`.
__device__ __forceinline__ void WriteUpToFour(const MatMulOutput& o, int64_t to, int j, int count,
                                              const float (&results)[4]) {
  if (!o.vectors || j + 4 > count) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j + i < count) WriteOne(o, to + i, results[i]);
    }
  } else if (o.out != nullptr) {
    *reinterpret_cast<float4*>(o.out + to) =
        make_float4(results[0], results[1], results[2], results[3]);
  } else {
    *reinterpret_cast<uint2*>(o.out_bf16 + to) =
        make_uint2(PackBf16(results[0], results[1]), PackBf16(results[2], results[3]));
  }
}

// Where a warpgroup's tile lies: of which block of the matrix, and its first row and 16 outputs.
struct Place {
  int block, first_row, group_tile;
};

// A warpgroup's totals to memory. `barrier`: of this warpgroup alone; `piece`:
// [kPieceRows][kPieceStride] of this warpgroup; `factors`: [kRows], of the norm or 1 (a choice
// between the two would be a branch, across which results do not overlap).
template <typename S>
__device__ __forceinline__ void Store(const MatMulOutput& o, const Place& at_tile, int barrier,
                                      float* piece, const float* factors,
                                      const float (&total)[S::kRows / 2]) {
  int thread = threadIdx.x % 128;
  asm volatile("" : "+r"(thread));  // or what follows from it would take registers in the main loop
  const int lane = thread % 32;
  const int first_row = lane % 4 * 2, strip_output = lane / 4;
  const int count = S::kGated ? o.n / 2 : o.n;  // results of a row
  constexpr int kTileResults = S::kGated ? kStripOutputs : kTileOutputs;
  constexpr int kResults = kGroupTiles * kTileResults;
  const int first_result = at_tile.group_tile * kTileResults;

  // This thread's sums are of two outputs, which gated ones make one result. The other's is
  // kStripOutputs further on.
  const int place = thread / 32 * kTileResults + strip_output;
  float low_bias = 0.0f, high_bias = 0.0f, low_scale = 1.0f, high_scale = 1.0f;
  const int low_output = first_result + place;
  const int high_output = low_output + (S::kGated ? count : kStripOutputs);
  const auto read_both = [&](const float* from, float& low, float& high) {
    from += int64_t{at_tile.block} * o.n;
    if (low_output < count) low = from[low_output];
    if (low_output < count && high_output < o.n) high = from[high_output];
  };
  if (o.bias != nullptr) read_both(o.bias, low_bias, high_bias);
  if constexpr (S::kE4m3) read_both(o.scales, low_scale, high_scale);
  const auto turn_rows = [&]<Activation kActivation>(int part) {
#pragma unroll
    for (int i = 0; i < S::kPieceRows / 8; ++i) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float* const at = piece + (i * 8 + first_row + row) * kPieceStride + place;
        const int from = (part * (S::kPieceRows / 8) + i) * 4 + row;
        const float factor = factors[part * S::kPieceRows + i * 8 + first_row + row];
        // Without a norm times 1, without a bias plus +0: the former changes nothing, the latter
        // the sign of a zero, everywhere alike.
        float low = total[from] * factor, high = total[from + 2] * factor;
        if constexpr (S::kE4m3) {
          low *= low_scale;
          high *= high_scale;
        }
        low += low_bias;
        high += high_bias;
        if constexpr (S::kGated) {
          at[0] = Activate(kActivation, low) * high;  // known at compile time, they overlap
        } else {
          at[0] = low;
          at[kStripOutputs] = high;
        }
      }
    }
  };

  // What it stores of each piece: 4 results of every kStep rows. Little code matters: in a step of
  // few rows it runs once, and comes from memory; so only the turning, which names registers, is
  // there once for each part.
  constexpr int kStep = 128 * 4 / kResults;
  constexpr int kParts = S::kRows / S::kPieceRows;
  const int four = thread * 4 % kResults, in_piece = thread * 4 / kResults;
  const int j = first_result + four;
  const int64_t column = int64_t{at_tile.block} * count + j;
#pragma unroll 1
  for (int turning = 0; turning < kParts; ++turning) {
    const int part_row = at_tile.first_row + turning * S::kPieceRows;
    if (part_row >= o.rows) break;
    SyncSome(barrier, 128);  // the part before has been read
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (part != turning) continue;
      if (!S::kGated || o.activation == Activation::kGeluTanh) {
        turn_rows.template operator()<Activation::kGeluTanh>(part);
      } else if (o.activation == Activation::kGelu) {
        turn_rows.template operator()<Activation::kGelu>(part);
      } else if (o.activation == Activation::kSilu) {
        turn_rows.template operator()<Activation::kSilu>(part);
      } else {
        turn_rows.template operator()<Activation::kRelu>(part);
      }
    }
    SyncSome(barrier, 128);
#pragma unroll 1
    for (int row = in_piece; row < S::kPieceRows && part_row + row < o.rows; row += kStep) {
      Floats<4> results = LoadFloats<4>(piece + row * kPieceStride + four);
      if (!S::kGated && o.softcap > 0.0f) {
#pragma unroll
        for (float& result : results.v) result = o.softcap * tanhf(result / o.softcap);
      }
      WriteUpToFour(o, (part_row + row) * o.stride + column, j, count, results.v);
    }
  }
}

// Of one segment: a warpgroup's sums to shared memory, [kRows][kSumsStride].
template <typename S>
__device__ __forceinline__ void LeaveSums(int group, float* sums_out,
                                          const float (&sums)[S::kRows / 2]) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  float* const at = sums_out + lane % 4 * 2 * S::kSumsStride + group * kGroupOutputs +
                    thread / 32 * kTileOutputs + lane / 4;
#pragma unroll
  for (int i = 0; i < S::kRows / 8; ++i) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float* const to = at + (i * 8 + row) * S::kSumsStride;
      to[0] = sums[i * 4 + row];
      to[kStripOutputs] = sums[i * 4 + row + 2];
    }
  }
}

// Adds the sums that the blocks of a cluster have left, in order of their segments, each block for
// its part of the tile, and stores the totals or adds them to the residual stream. `sums_out`:
// where this block left its own.
template <typename S>
__device__ __forceinline__ void AddSegments(const TileParams& p, uint32_t sums_out,
                                            const float* factors) {
  Work work(p);
  work.Next();
  const MatMulOutput& o = p.output;
  const int segments = p.layout.segments;
  constexpr int kFours = S::kGroups * kGroupOutputs / 4;  // of a row; 16 lanes have 64 outputs
  const int first_output = work.output_tile * S::kGroups * kGroupOutputs;
  const int first_row = work.row_tile * S::kRows;
  const int rows = min(S::kRows, o.rows - first_row);
  // A thread keeps its outputs: kMultiplying is a multiple of kFours.
  const int four = static_cast<int>(threadIdx.x) % kFours * 4, j = first_output + four;
  const bool streams = o.residual.stream != nullptr;
  Floats<4> weight = {};
  if (streams) weight = LoadUpToFour(o.residual.weight, j, o.n, o.vectors);
  float bias[4] = {}, scale[4] = {1.0f, 1.0f, 1.0f, 1.0f};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int64_t output = int64_t{work.block} * o.n + j + c;
    if (j + c < o.n && o.bias != nullptr) bias[c] = o.bias[output];
    if (S::kE4m3 && j + c < o.n) scale[c] = o.scales[output];
  }
  constexpr int kAtOnce = 2;  // rows whose loads are on their way together
  constexpr int kStep = S::kMultiplying / kFours;
  const int first = work.begin * kStep + static_cast<int>(threadIdx.x) / kFours;
  const int step = segments * kStep;
  for (int begin = first; begin < rows; begin += kAtOnce * step) {
    Floats<4> old[kAtOnce] = {};
    float parts[kAtOnce][kMostSegments][4] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = begin + i * step;
      if (row >= rows) break;
      if (streams) {
        old[i] =
            LoadUpToFour(o.residual.stream + int64_t{first_row + row} * o.n, j, o.n, o.vectors);
      }
      const uint32_t at = sums_out + (row * S::kSumsStride + four) * sizeof(float);
#pragma unroll
      for (int segment = 0; segment < kMostSegments; ++segment) {
        if (segment < segments) LoadFrom(segment, at, parts[i][segment]);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = begin + i * step;
      if (row >= rows) break;
      float total[4] = {};
#pragma unroll
      for (int segment = 0; segment < kMostSegments; ++segment) {
        if (segment >= segments) break;
#pragma unroll
        for (int c = 0; c < 4; ++c) total[c] = total[c] + parts[i][segment][c];
      }
      const float factor = factors[row];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        total[c] *= factor;
        if constexpr (S::kE4m3) total[c] *= scale[c];
        total[c] += bias[c];
      }
      if (streams) {
        // 16 lanes have 64 outputs.
#pragma unroll
        for (int c = 0; c < 4; ++c) old[i].v[c] += total[c];
        WriteStream(o.residual, first_row + row, j, o.n, o.vectors, weight, old[i]);
      } else {
        const int64_t to = (first_row + row) * o.stride + int64_t{work.block} * o.n + j;
        WriteUpToFour(o, to, j, o.n, total);
      }
    }
  }
}

}  // namespace reprise::kernels::cuda::tile

#endif  // REPRISE_KERNELS_CUDA_MATMUL_STORE_CUH_
