// Window attention of a decode step (attention_step.cu): the warpgroups that copy, score and sum.
//
// Products have keys or columns of values as outputs and heads, of which there are few, as their
// columns. Every number is made by the same operations in the same order as in the other kernels.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_STEP_TEAMS_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_STEP_TEAMS_CUH_

#include "kernels/cuda/attention_producer.cuh"
#include "kernels/cuda/attention_step.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda::window {

// Named barriers of the teams.
constexpr int kScoresBarrier = 1, kValuesBarrier = 2, kMergeBarrier = 3, kPrepareBarrier = 4;

// Copies what the rings hold; the place of the step's own key or value is left as it is.
template <int kDim>
class StepCopies : Producer<kDim, StepMemory<kDim>> {
  using Base = Producer<kDim, StepMemory<kDim>>;
  using Base::bytes_, Base::column_, Base::memory_, Base::p_, Base::row_, Base::units_;

 public:
  using Base::Base, Base::Finish;

  __device__ __forceinline__ void Run(const StepParams& p, const Tile& tile, int group) {
    const int last = tile.Last(group);
#pragma unroll 1
    for (int b = tile.First(group); b <= last; ++b) {
#pragma unroll 1
      for (int value = 0; value < 2; ++value) {
        const BF16* const slot = value == 0 ? p_.k_ring_bf16 + tile.slot * p_.k_slot_stride
                                            : p_.v_ring_bf16 + tile.slot * p_.v_slot_stride;
        CopyUnit(tile, b, slot + int64_t{tile.RingRow(p, b)} * p_.head_dim);
      }
    }
  }

 private:
  // A block of keys or values. What the row does not see becomes zeros.
  __device__ __forceinline__ void CopyUnit(const Tile& tile, int b, const BF16* ring) {
    Base::AwaitRoom(memory_.Empty(units_.place), units_.phase ^ 1);
    const uint32_t to = memory_.Unit(units_.place);
    const int low = tile.low - b * kTile, step_row = tile.start - b * kTile;
    const BF16* from = ring + row_ * p_.head_dim + column_;
#pragma unroll 4
    for (int i = 0; i < Base::kTurns; ++i, from += Base::kRowsAtOnce * p_.head_dim) {
      const int row = row_ + i * Base::kRowsAtOnce;
      if (row == step_row && bytes_ > 0) continue;
      CopyAsync(to + Base::Place(i), from, row >= low && row < step_row ? bytes_ : 0);
    }
    Base::EndUnit();
  }
};

// What the two teams that multiply have in common: one takes the keys' units, one the values'.
template <int kDim, int kValue>
class StepTeam {
 protected:
  static constexpr int kBarrier = kValue == 0 ? kScoresBarrier : kValuesBarrier;

  __device__ __forceinline__ StepTeam(const StepParams& p, const StepMemory<kDim>& memory)
      : p_(p), memory_(memory) {
    if constexpr (kValue == 1) units_.Next();
  }

  __device__ __forceinline__ static int Lane() { return threadIdx.x % 32; }
  __device__ __forceinline__ static int Warp() { return threadIdx.x % kTeam / 32; }
  __device__ __forceinline__ void Release(uint32_t barrier) { ArriveForWarp(barrier); }

  // Waits for the unit of block b, and puts the step's own row into it.
  __device__ __forceinline__ void AwaitUnit(const Tile& tile, int b, int tile_place) {
    Wait(memory_.Full(units_.place), units_.phase);
    const int row = tile.start - b * kTile;
    if (row < 0 || row >= kTile) return;
    const int element = threadIdx.x % kTeam * 4;
    if (element < p_.attention.head_dim) {
      uint32_t low, high;
      LoadShared(memory_.StepRow(tile_place, kValue) + element * 2, low, high);
      StoreShared(memory_.Unit(units_.place) + ElementOffset(row, element), low, high);
    }
    FenceForTensorCores();
    SyncSome(kBarrier, kTeam);
  }
  __device__ __forceinline__ void ReleaseUnit() {
    Release(memory_.Empty(units_.place));
    units_.Next();
    units_.Next();
  }

  const StepParams& p_;
  const StepMemory<kDim>& memory_;
  Cursor<Shape<kDim>::kUnits> units_;
  Cursor<2> blocks_;  // buffers of scores and weights
};

// Scores and the softmax within a group. Warps 0 and 1 have four threads for each head.
template <int kDim>
class ScoreTeam : StepTeam<kDim, 0> {
  using Base = StepTeam<kDim, 0>;
  using Base::blocks_, Base::memory_, Base::p_, Base::units_, Base::Lane, Base::Warp;

 public:
  __device__ __forceinline__ ScoreTeam(const StepParams& p, const StepMemory<kDim>& memory)
      : Base(p, memory) {}

  // `tile_place`: of queries and the step's key.
  __device__ __forceinline__ void Run(const Tile& tile, int group, int tile_place) {
    max_ = kMinusInfinity;
    sum_ = 0.0f;
    float scores[8];
    const int first = tile.First(group), last = tile.Last(group);
    // The next block is scored while this one's scores become weights. All code is there once: a
    // step runs it a few times, and it comes from memory.
#pragma unroll 1
    for (int b = first; b <= last + 1; ++b) {
      if (b > first) Keep(scores);
      if (b <= last) Begin(tile, b, tile_place, scores);
      if (b > first) {
        if (Warp() < 2) MakeWeights(tile, b - 1);
        blocks_.Next();
      }
      WgmmaWait<0>();
      Pin(scores);
    }
  }

  // The group's maximum and sum of exponentials.
  __device__ __forceinline__ void Leave(int place) {
    if (Warp() >= 2) return;
    const float sum = RowSum(sum_);
    if (Lane() % 4 == 0) StoreShared(memory_.Scale(place, Head()), max_, sum);
  }

 private:
  __device__ __forceinline__ static int Head() { return threadIdx.x % kTeam / 4; }

  __device__ __forceinline__ void Begin(const Tile& tile, int b, int tile_place,
                                        float (&scores)[8]) {
    Base::AwaitUnit(tile, b, tile_place);
    const TileDescriptor keys = RowsOf(memory_.Unit(units_.place));
    const TileDescriptor queries = RowsOf(memory_.Queries(tile_place));
    Pin(scores);
    WgmmaBegin();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint32_t in_panel = k % 4 * 32;
      Wgmma<kStepHeads>(scores, keys.At(k / 4 * kPanelBytes + in_panel),
                        queries.At(k / 4 * StepMemory<kDim>::kQueryPanel + in_panel), k > 0);
    }
    WgmmaCommit();
  }

  __device__ __forceinline__ void Keep(const float (&scores)[8]) {
    Base::ReleaseUnit();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = Warp() * 16 + Lane() / 4 + i % 4 / 2 * 8;
      const int head = i / 4 * 8 + Lane() % 4 * 2 + i % 2;
      StoreShared(memory_.Score(blocks_.place, head, key), scores[i]);
    }
    SyncSome(Base::kBarrier, kTeam);
  }

  // By warps 0 and 1. This thread's keys are 8 j + 2 t and the next, t its number among the head's
  // four.
  __device__ __forceinline__ void MakeWeights(const Tile& tile, int b) {
    const int head = Head(), column = Lane() % 4 * 2;
    float scores[16];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      LoadShared(memory_.Score(blocks_.place, head, 8 * j + column), scores[2 * j],
                 scores[2 * j + 1]);
    }
    const int low = tile.low - b * kTile, high = tile.start - b * kTile;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int key = i / 2 * 8 + column + i % 2;
      if (key > high || key < low) scores[i] = kMinusInfinity;
    }
    float top = scores[0];
#pragma unroll
    for (int i = 1; i < 16; ++i) top = fmaxf(top, scores[i]);
    const float max = fmaxf(max_, RowMax(top) * p_.scale), reference = Reference(max);
    const float factor = Exp2(max_ - reference);
    max_ = max;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      scores[i] = Exp2(fmaf(scores[i], p_.scale, -reference));
      sum += scores[i];
    }
    sum_ = fmaf(sum_, factor, sum);

    Wait(memory_.WeightsEmpty(blocks_.place), blocks_.phase ^ 1);
    if (Lane() % 4 == 0) StoreShared(memory_.Factor(blocks_.place, head), factor);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      StoreShared(memory_.Weights(blocks_.place) + TileOffset(head, j) + column * 2,
                  PackBf16(scores[2 * j], scores[2 * j + 1]));
    }
    FenceForTensorCores();
    Base::Release(memory_.WeightsFull(blocks_.place));
  }

  float max_ = kMinusInfinity, sum_ = 0.0f;  // of the group; sum_ of this thread's keys
};

// Weighted values.
template <int kDim>
class ValueTeam : StepTeam<kDim, 1> {
  using Base = StepTeam<kDim, 1>;
  using Base::blocks_, Base::memory_, Base::p_, Base::units_, Base::Lane, Base::Warp;
  static constexpr int kPanels = kDim / 64;

 public:
  __device__ __forceinline__ ValueTeam(const StepParams& p, const StepMemory<kDim>& memory)
      : Base(p, memory) {}

  // `tile_place`: of the step's value.
  __device__ __forceinline__ void Run(const Tile& tile, int group, int tile_place) {
    float(&sums)[kPanels][8] = sums_;
#pragma unroll
    for (int i = 0; i < 8 * kPanels; ++i) sums[i / 8][i % 8] = 0.0f;
    const int last = tile.Last(group);
#pragma unroll 1
    for (int b = tile.First(group); b <= last; ++b) {
      Base::AwaitUnit(tile, b, tile_place);
      Wait(memory_.WeightsFull(blocks_.place), blocks_.phase);
      float factors[4];
      bool change = false;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        LoadShared(memory_.Factor(blocks_.place, HeadOf(i / 2 * 4 + i % 2)), factors[i]);
        change |= factors[i] != 1.0f;
      }
      // Times 1 changes nothing, and most blocks bring no new maximum.
      if (__any_sync(~0u, change)) {
#pragma unroll
        for (int i = 0; i < 8 * kPanels; ++i) sums[i / 8][i % 8] *= factors[i % 8 / 4 * 2 + i % 2];
      }
      const TileDescriptor values = ColumnsOf(memory_.Unit(units_.place));
      const TileDescriptor weights = RowsOf(memory_.Weights(blocks_.place));
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) Pin(sums[panel]);
      WgmmaBegin();
#pragma unroll
      for (int k = 0; k < kTile / 16; ++k) {
#pragma unroll
        for (int panel = 0; panel < kPanels; ++panel) {
          ColumnMma(sums[panel], values.At(panel * kPanelBytes + k * 16 * 128), weights.At(k * 32));
        }
      }
      WgmmaCommit();
      WgmmaWait<0>();
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) Pin(sums[panel]);
      Base::ReleaseUnit();
      Base::Release(memory_.WeightsEmpty(blocks_.place));
      blocks_.Next();
    }
  }

  // The group's sums.
  __device__ __forceinline__ void Leave(int place) {
    const int per_token = p_.PerToken();
#pragma unroll
    for (int i = 0; i < 8 * kPanels; ++i) {
      const int column = i / 8 * 64 + Warp() * 16 + Lane() / 4 + i % 4 / 2 * 8;
      if (HeadOf(i % 8) < per_token) {
        StoreShared(memory_.Sum(place, HeadOf(i % 8), column), sums_[i / 8][i % 8]);
      }
    }
  }

 private:
  // Of sum i of a panel.
  __device__ __forceinline__ static int HeadOf(int i) { return i / 4 * 8 + Lane() % 4 * 2 + i % 2; }

  float sums_[kPanels][8];  // of the group
};

}  // namespace reprise::kernels::cuda::window

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_STEP_TEAMS_CUH_
