// What is left of window attention when the groups of keys are summed: they are merged, and the new
// keys and values go into the ring.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_FINISH_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_FINISH_CUH_

#include "kernels/cuda/attention_window.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda::window {

__host__ __device__ inline int64_t MergeWarps(const WindowAttentionParams& p,
                                              const Partials& partials) {
  if (partials.groups == 0) return 0;
  return int64_t{p.rows.num_rows} * p.heads * ((p.head_dim + 127) / 128);
}

// Merges groups [first, first + kAtOnce), as far as there are `groups`, into what was merged
// before.
template <int kAtOnce>
__device__ __forceinline__ void MergeInOrder(const float (&scales)[kAtOnce][2],
                                             const float (&sums)[kAtOnce][4], int first, int groups,
                                             float& max, float& sum, Floats<4>& total) {
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (first + i >= groups) break;
    const MergeFactors factors = MergeScales(scales[i][0], scales[i][1], max, sum);
#pragma unroll
    for (int c = 0; c < 4; ++c) total.v[c] = Merge(factors, sums[i][c], total.v[c]);
  }
}

// Merges the groups of one (row, head) pair of the split form, 128 columns of it. One warp.
__device__ __forceinline__ void MergeGroups(const WindowAttentionParams& p,
                                            const Partials& partials, int64_t row, int head,
                                            int column) {
  constexpr int kAtOnce = 10;  // groups whose sums are loaded together
  const int s = p.rows.row_seqs[row];
  const int64_t slot = p.rows.slots[s], first_row = p.rows.seq_offsets[s];
  const int64_t end_row = p.rows.seq_offsets[s + 1], start = p.rows.start_positions[s];
  WaitForPrevious();
  column += threadIdx.x % 32 * 4;
  if (slot < 0 || column >= p.head_dim) return;
  const int per_token = p.heads / p.kv_heads;
  const int pairs = static_cast<int>(end_row - first_row) * per_token;
  const int begin =
      (static_cast<int>(row - first_row) * per_token + head % per_token) / kTile * kTile;
  const TileKeys keys(p, start, begin, min(begin + kTile, pairs));
  const int groups = static_cast<int>(keys.last / kGroupTokens - keys.low / kGroupTokens) + 1;
  const int64_t at = (row * p.heads + head) * partials.groups;
  const float2* const all_scales = partials.scales + at;
  const float* const all_sums = partials.sums + at * p.head_dim + column;
  Floats<4> total = {};
  float max = kMinusInfinity, sum = 0.0f;
  for (int first = 0; first < groups; first += kAtOnce) {
    float scales[kAtOnce][2], sums[kAtOnce][4];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int g = min(first + i, groups - 1);
      const float2 scale = __ldcg(all_scales + g);
      const float4 four =
          __ldcg(reinterpret_cast<const float4*>(all_sums + int64_t{g} * p.head_dim));
      scales[i][0] = scale.x;
      scales[i][1] = scale.y;
      sums[i][0] = four.x;
      sums[i][1] = four.y;
      sums[i][2] = four.z;
      sums[i][3] = four.w;
    }
    MergeInOrder(scales, sums, first, groups, max, sum, total);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) total.v[i] = Quotient(total.v[i], sum);
  StoreRounded<4>(p.out_bf16 + row * p.out_stride + int64_t{head} * p.head_dim + column, total);
}

// The key and the value of one row and kv head go into the ring, unless a later row takes their
// place; the output of a padding row becomes zero. One warp.
__device__ __forceinline__ void KeepRow(const WindowAttentionParams& p, int64_t row, int kv_head) {
  const int s = p.rows.row_seqs[row], lane = threadIdx.x % 32;
  const int64_t slot = p.rows.slots[s], first_row = p.rows.seq_offsets[s];
  const int64_t position = p.rows.start_positions[s] + row - first_row;
  const int64_t later = p.rows.seq_offsets[s + 1] - 1 - row;
  WaitForPrevious();
  if (slot < 0) {
    const int dims = p.heads / p.kv_heads * p.head_dim;
    BF16* const out = p.out_bf16 + row * p.out_stride + int64_t{kv_head} * dims;
    for (int i = lane * 8; i < dims; i += 256) {
      *reinterpret_cast<uint4*>(out + i) = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  if (later >= int64_t{p.ring_blocks} * kTile) return;
  const int64_t block = position / kTile % p.ring_blocks;
  const int64_t in_ring = ((block * p.kv_heads + kv_head) * kTile + position % kTile) * p.head_dim;
  const int64_t column = int64_t{kv_head} * p.head_dim;
  const BF16* const key = p.k_bf16 + row * p.k_stride + column;
  const BF16* const value = p.v_bf16 + row * p.v_stride + column;
  BF16* const key_to = p.k_ring_bf16 + slot * p.k_slot_stride + in_ring;
  BF16* const value_to = p.v_ring_bf16 + slot * p.v_slot_stride + in_ring;
  for (int i = lane * 8; i < p.head_dim; i += 256) {
    *reinterpret_cast<uint4*>(key_to + i) = *reinterpret_cast<const uint4*>(key + i);
    *reinterpret_cast<uint4*>(value_to + i) = *reinterpret_cast<const uint4*>(value + i);
  }
}

// Warps' worth of work that is left when all groups are summed.
__host__ __device__ inline int64_t FinishWarps(const WindowAttentionParams& p,
                                               const Partials& partials) {
  return MergeWarps(p, partials) + int64_t{p.rows.num_rows} * p.kv_heads;
}

// What warp number `warp` of them does. One warp per (row, kv head), and before them in the split
// form one per 128 columns of a (row, head).
__device__ __forceinline__ void FinishPart(const WindowAttentionParams& p, const Partials& partials,
                                           int64_t warp) {
  const int64_t merges = MergeWarps(p, partials);
  if (warp < merges) {  // in 31 bits: sums are kept for few rows only
    const int pieces = p.head_dim > 128 ? 2 : 1;
    const int pair = static_cast<int>(warp) / pieces, row = pair / p.heads;
    MergeGroups(p, partials, row, pair - row * p.heads,
                (static_cast<int>(warp) - pair * pieces) * 128);
    return;
  }
  warp -= merges;
  if (warp < int64_t{p.rows.num_rows} * p.kv_heads) {
    KeepRow(p, warp / p.kv_heads, static_cast<int>(warp % p.kv_heads));
  } else {
    WaitForPrevious();
  }
}

}  // namespace reprise::kernels::cuda::window

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_FINISH_CUH_
