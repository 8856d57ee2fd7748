// Window attention: the warpgroups that do the products and the softmax.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_CONSUMER_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_CONSUMER_CUH_

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_window.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda::window {

// The consumers' side: one warpgroup, kTeamDims columns of the output.
template <int kDim, bool kSplit>
class Consumer {
  using S = Shape<kDim>;

 public:
  __device__ __forceinline__ Consumer(const WindowAttentionParams& p, const Memory<kDim>& memory,
                                      const Partials& partials, float scale)
      : p_(p),
        memory_(memory),
        partials_(partials),
        scale_(scale),
        team_(__shfl_sync(~0u, threadIdx.x / 128, 0)) {}  // the compiler sees that warps agree

  __device__ __forceinline__ void Run(const Task& task) {
    const int per_token = p_.heads / p_.kv_heads;
    int position[2];  // of this thread's two rows; a row beyond the end sees nothing
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pair = task.begin + Row(i);
      position[i] =
          pair < task.end ? task.first + pair / per_token - task.begin / per_token : -(1 << 30);
    }
    float total[S::kSums], total_max[2], total_sum[2];
    if constexpr (!kSplit) {
#pragma unroll
      for (int i = 0; i < S::kSums; ++i) total[i] = 0.0f;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        total_max[i] = kMinusInfinity;
        total_sum[i] = 0.0f;
      }
    }
    const int phase = static_cast<int>(task.base / kTile % kSplitBlocks);
    for (int b = 0; b < task.blocks;) {
      StartGroup();
      const int end =
          min(task.blocks, (b + phase) / kSplitBlocks * kSplitBlocks + kSplitBlocks - phase);
      for (; b < end; ++b) {
        float scores[32];
        Score(scores, b + 1 == task.blocks);
        const int first_key = b * kTile;
        if (first_key < task.last - p_.window || first_key + kTile - 1 > task.first) {
          Mask(scores, position[0] - first_key, position[1] - first_key);
        }
        // In a decode step most warps have no row at all.
        if (task.begin + Row(0) - Lane() / 4 < task.end) Softmax(scores);
        AddValues(scores);
      }
      if constexpr (!kSplit) MergeGroup(total, total_max, total_sum);
    }
    if constexpr (kSplit) {
      WritePartials(task);
    } else {
      WriteOut(task, total, total_sum);
    }
  }

 private:
  __device__ __forceinline__ static int Lane() { return threadIdx.x % 32; }
  // The tile's row of which this thread has part i of a product.
  __device__ __forceinline__ static int Row(int i) {
    return threadIdx.x % 128 / 32 * 16 + Lane() / 4 + 8 * i;
  }

  __device__ __forceinline__ void Release(uint32_t barrier) { ArriveForWarp(barrier); }

  __device__ __forceinline__ void StartGroup() {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) sums_[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max_[i] = kMinusInfinity;
      sum_[i] = 0.0f;
    }
  }

  __device__ __forceinline__ void Score(float (&scores)[32], bool last_block) {
    Wait(memory_.Full(units_.place), units_.phase);
    const TileDescriptor queries = RowsOf(memory_.Queries(queries_.place));
    const TileDescriptor keys = RowsOf(memory_.Unit(units_.place));
    BeginMma(scores);
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint32_t offset = k / 4 * kPanelBytes + k % 4 * 32;
      Wgmma<64>(scores, queries.At(offset), keys.At(offset), k > 0);
    }
    EndMma(scores);
    Release(memory_.Empty(units_.place));
    units_.Next();
    if (last_block) {
      Release(memory_.QueriesEmpty(queries_.place));
      queries_.Next();
    }
  }

  // Of each row the keys (of this block) from position - window to position are visible.
  __device__ __forceinline__ void Mask(float (&scores)[32], int position0, int position1) {
    const int column = Lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int key = i / 4 * 8 + column + i % 2;
      const int position = i % 4 < 2 ? position0 : position1;
      if (key > position || key < position - p_.window) scores[i] = kMinusInfinity;
    }
  }

  // Scores to exponentials; what was summed so far is brought to the new maximum.
  __device__ __forceinline__ void Softmax(float (&scores)[32]) {
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = scores[2 * i];
#pragma unroll
      for (int j = 0; j < 32; j += 4) {
        top = fmaxf(top, fmaxf(scores[j + 2 * i], scores[j + 2 * i + 1]));
      }
      const float max = fmaxf(max_[i], RowMax(top) * scale_), reference = Reference(max);
      factor[i] = Exp2(max_[i] - reference);
      max_[i] = max;
      float sum = 0.0f;  // of this thread's columns, ascending
#pragma unroll
      for (int j = 0; j < 32; j += 4) {
#pragma unroll
        for (int k = j + 2 * i; k < j + 2 * i + 2; ++k) {
          scores[k] = Exp2(fmaf(scores[k], scale_, -reference));
          sum += scores[k];
        }
      }
      sum_[i] = fmaf(sum_[i], factor[i], sum);
    }
    // Times 1 changes nothing, and most blocks bring no new maximum.
    if (!__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) sums_[i] *= factor[i % 4 / 2];
  }

  __device__ __forceinline__ void AddValues(const float (&weights)[32]) {
    uint32_t rounded[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        rounded[k][i] = PackBf16(weights[8 * k + 2 * i], weights[8 * k + 2 * i + 1]);
      }
    }
    Wait(memory_.Full(units_.place), units_.phase);
    const TileDescriptor values =
        ColumnsOf(memory_.Unit(units_.place) + team_ * (S::kTeamDims / 64) * kPanelBytes);
    BeginMma(sums_);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      ValueMma(sums_, rounded[k], values.At(k * 16 * 128));
    }
    EndMma(sums_);
    Release(memory_.Empty(units_.place));
    units_.Next();
  }

  __device__ __forceinline__ void MergeGroup(float (&total)[S::kSums], float (&total_max)[2],
                                             float (&total_sum)[2]) {
    MergeFactors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factors[i] = MergeScales(max_[i], RowSum(sum_[i]), total_max[i], total_sum[i]);
    }
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) total[i] = Merge(factors[i % 4 / 2], sums_[i], total[i]);
  }

  // Calls fn(i, row of the step, head) for this thread's rows that exist.
  template <class Fn>
  __device__ __forceinline__ void ForRows(const Task& task, const Fn& fn) {
    const int per_token = p_.heads / p_.kv_heads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pair = task.begin + Row(i), token = pair / per_token;
      if (pair >= task.end) continue;
      fn(i, task.first_row + token, task.kv_head * per_token + pair - token * per_token);
    }
  }
  // The first of the two columns of sums 4j + 2i and 4j + 2i + 1.
  __device__ __forceinline__ int Column(int j) const {
    return team_ * S::kTeamDims + 8 * j + Lane() % 4 * 2;
  }

  __device__ __forceinline__ void WritePartials(const Task& task) {
    const float sum[2] = {RowSum(sum_[0]), RowSum(sum_[1])};
    ForRows(task, [&](int i, int64_t row, int head) {
      const int64_t at = (row * p_.heads + head) * partials_.groups + task.group;
      if (team_ == 0 && Lane() % 4 == 0) partials_.scales[at] = make_float2(max_[i], sum[i]);
      float* const to = partials_.sums + at * p_.head_dim;
#pragma unroll
      for (int j = 0; j < S::kSums / 4; ++j) {
        if (Column(j) >= p_.head_dim) continue;
        *reinterpret_cast<float2*>(to + Column(j)) =
            make_float2(sums_[4 * j + 2 * i], sums_[4 * j + 2 * i + 1]);
      }
    });
  }

  __device__ __forceinline__ void WriteOut(const Task& task, const float (&total)[S::kSums],
                                           const float (&total_sum)[2]) {
    ForRows(task, [&](int i, int64_t row, int head) {
      BF16* const to = p_.out_bf16 + row * p_.out_stride + int64_t{head} * p_.head_dim;
#pragma unroll
      for (int j = 0; j < S::kSums / 4; ++j) {
        if (Column(j) >= p_.head_dim) continue;
        *reinterpret_cast<uint32_t*>(to + Column(j)) =
            PackBf16(Quotient(total[4 * j + 2 * i], total_sum[i]),
                     Quotient(total[4 * j + 2 * i + 1], total_sum[i]));
      }
    });
  }

  const WindowAttentionParams& p_;
  const Memory<kDim>& memory_;
  const Partials& partials_;
  const float scale_;
  const int team_;
  Cursor<S::kUnits> units_;
  Cursor<2> queries_;
  float sums_[S::kSums], max_[2], sum_[2];  // of the current group; sum_ of this thread's columns
};

}  // namespace reprise::kernels::cuda::window

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_CONSUMER_CUH_
