// Products of many rows: where sums go (matmul_many.cu).
#ifndef REPRISE_KERNELS_CUDA_MATMUL_MANY_STORE_CUH_
#define REPRISE_KERNELS_CUDA_MATMUL_MANY_STORE_CUH_

#include "kernels/cuda/matmul_many.cuh"

namespace reprise::kernels::cuda::many {

__device__ __forceinline__ void ReadFour(const float* from, float (&values)[4]) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  values[0] = four.x;
  values[1] = four.y;
  values[2] = four.z;
  values[3] = four.w;
}

// Up to 4 results of a row from output `j` of `count` on, which belong at `to`.
__device__ __forceinline__ void WriteUpToFour(const MatMulOutput& o, int64_t to, int j, int count,
                                              const float (&results)[4]) {
  if (o.vectors && j + 4 <= count) {
    o.WriteFour(to, results);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (j + i < count) o.Write(to + i, results[i]);
  }
}

// A warpgroup's totals to memory. `piece`: [kPieceRows][kPieceStride] of this warpgroup.
template <typename S>
__device__ __forceinline__ void Store(const ManyParams& p, const Work& work, int group,
                                      float* piece, const float (&total)[S::kRows / 2]) {
  int thread = threadIdx.x % 128;
  asm volatile("" : "+r"(thread));  // or what follows from it would take registers in the main loop
  const int lane = thread % 32;
  const int first_row = lane % 4 * 2, strip_output = lane / 4;
  const int group_tile = (work.output_tile * S::kGroups + group) * kGroupTiles;
  const MatMulOutput& o = p.output;
  const int count = S::kGated ? o.n / 2 : o.n;  // results of a row
  constexpr int kTileResults = S::kGated ? kStripOutputs : kTileOutputs;
  constexpr int kResults = kGroupTiles * kTileResults;
  const int first_result = group_tile * kTileResults;

  // This thread's sums are of two outputs, which gated ones make one result. The other's is
  // kStripOutputs further on.
  const int place = thread / 32 * kTileResults + strip_output;
  float low_bias = 0.0f, high_bias = 0.0f, low_scale = 1.0f, high_scale = 1.0f;
  const int low_output = first_result + place;
  const int high_output = low_output + (S::kGated ? count : kStripOutputs);
  const auto read_both = [&](const float* from, float& low, float& high) {
    from += int64_t{work.block} * o.n;
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
        float low = total[from], high = total[from + 2];
        if constexpr (S::kE4m3) {
          low *= low_scale;
          high *= high_scale;
        }
        // No total is -0, so that adding +0 for no bias changes none; a scaled one may be.
        if (!S::kE4m3 || o.bias != nullptr) {
          low += low_bias;
          high += high_bias;
        }
        if constexpr (S::kGated) {
          at[0] = Activate(kActivation, low) * high;  // known at compile time, they overlap
        } else {
          at[0] = low;
          at[kStripOutputs] = high;
        }
      }
    }
  };

  // What it stores of each piece: 4 results of every kStep rows.
  constexpr int kStep = 128 * 4 / kResults;
  const int four = thread * 4 % kResults;
  const int j = first_result + four;
  const int64_t column = int64_t{work.block} * count + j;
#pragma unroll
  for (int part = 0; part < S::kRows / S::kPieceRows; ++part) {
    const int part_row = work.row_tile * S::kRows + part * S::kPieceRows;
    if (part_row >= o.rows) break;
    SyncSome(1 + group, 128);  // the part before has been read
    if (!S::kGated || o.activation == Activation::kGeluTanh) {
      turn_rows.template operator()<Activation::kGeluTanh>(part);
    } else if (o.activation == Activation::kGelu) {
      turn_rows.template operator()<Activation::kGelu>(part);
    } else if (o.activation == Activation::kSilu) {
      turn_rows.template operator()<Activation::kSilu>(part);
    } else {
      turn_rows.template operator()<Activation::kRelu>(part);
    }
    SyncSome(1 + group, 128);
#pragma unroll 1
    for (int row = thread * 4 / kResults; row < S::kPieceRows && part_row + row < o.rows;
         row += kStep) {
      float results[4];
      ReadFour(piece + row * kPieceStride + four, results);
      if (!S::kGated && o.softcap > 0.0f) {
#pragma unroll
        for (int i = 0; i < 4; ++i) results[i] = o.Capped(results[i]);
      }
      WriteUpToFour(o, (part_row + row) * o.stride + column, j, count, results);
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
// its part of the tile, and stores the totals. `sums_out`: where this block left its own.
template <typename S>
__device__ __forceinline__ void AddSegments(const ManyParams& p, uint32_t sums_out) {
  Work work(p);
  work.Next();
  const MatMulOutput& o = p.output;
  const int segments = p.layout.segments;
  constexpr int kFours = S::kGroups * kGroupOutputs / 4;  // of a row
  const int first_output = work.output_tile * S::kGroups * kGroupOutputs;
  const int first_row = work.row_tile * S::kRows;
  const int rows = min(S::kRows, o.rows - first_row);
  const int first = (work.begin * S::kMultiplying) + static_cast<int>(threadIdx.x);
  for (int i = first; i < rows * kFours; i += segments * S::kMultiplying) {
    const int row = i / kFours, four = i % kFours * 4;
    const int j = first_output + four;
    if (j >= o.n) continue;
    const uint32_t at = sums_out + (row * S::kSumsStride + four) * sizeof(float);
    float parts[kMostSegments][4] = {};
#pragma unroll
    for (int segment = 0; segment < kMostSegments; ++segment) {
      if (segment < segments) LoadFrom(segment, at, parts[segment]);
    }
    float total[4] = {};
#pragma unroll
    for (int segment = 0; segment < kMostSegments; ++segment) {
      if (segment >= segments) break;
#pragma unroll
      for (int c = 0; c < 4; ++c) total[c] = total[c] + parts[segment][c];
    }
    const int64_t output = int64_t{work.block} * o.n + j;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (j + c >= o.n) continue;
      if constexpr (S::kE4m3) total[c] *= o.scales[output + c];
      if (o.bias != nullptr) total[c] += o.bias[output + c];
      if (o.softcap > 0.0f) total[c] = o.Capped(total[c]);
    }
    WriteUpToFour(o, (first_row + row) * o.stride + output, j, o.n, total);
  }
}

}  // namespace reprise::kernels::cuda::many

#endif  // REPRISE_KERNELS_CUDA_MATMUL_MANY_STORE_CUH_
