// Window attention: the warpgroup that copies queries, keys and values into shared memory.
#ifndef REPRISE_KERNELS_CUDA_ATTENTION_PRODUCER_CUH_
#define REPRISE_KERNELS_CUDA_ATTENTION_PRODUCER_CUH_

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_window.cuh"

namespace reprise::kernels::cuda::window {

// The producers' side: copies are issued as long as there is room, and told to the consumers in
// order when they have landed. Shared: where units, queries and barriers are, as Memory.
template <int kDim, class Shared>
class Producer {
 protected:
  using S = Shape<kDim>;
  static constexpr int kPieces = kDim / 8;  // 16-byte pieces of a row
  static constexpr int kRowsAtOnce = kCopyThreads / kPieces;
  static constexpr int kTurns = kTile / kRowsAtOnce;

 public:
  __device__ __forceinline__ Producer(const WindowAttentionParams& p, const Shared& memory)
      : p_(p), memory_(memory) {
    const int piece = threadIdx.x % kPieces;
    row_ = threadIdx.x % kCopyThreads / kPieces;
    bytes_ = piece * 8 < p.head_dim ? 16 : 0;
    column_ = bytes_ > 0 ? piece * 8 : 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      places_[i] = TileOffset(row_ + i * kRowsAtOnce, piece) - i * kRowsAtOnce * 128;
    }
  }

  __device__ __forceinline__ void Run(const Task& task) {
    AwaitRoom(memory_.QueriesEmpty(queries_.place), queries_.phase ^ 1);
    CopyQueries(task, memory_.Queries(queries_.place));
    queries_.Next();  // lands with the first block of keys
    const int64_t column = int64_t{task.kv_head} * p_.head_dim;
    int ring_block = static_cast<int>(task.base / kTile % p_.ring_blocks);
    for (int b = 0; b < task.blocks; ++b) {
      const int64_t in_ring =
          (int64_t{ring_block} * p_.kv_heads + task.kv_head) * p_.head_dim * kTile;
      CopyBlock(task, b, p_.k_bf16 + task.first_row * p_.k_stride + column, p_.k_stride,
                p_.k_ring_bf16 + task.slot * p_.k_slot_stride + in_ring);
      CopyBlock(task, b, p_.v_bf16 + task.first_row * p_.v_stride + column, p_.v_stride,
                p_.v_ring_bf16 + task.slot * p_.v_slot_stride + in_ring);
      if (++ring_block == p_.ring_blocks) ring_block = 0;
    }
  }

  __device__ __forceinline__ void Finish() {
    WaitCopies<0>();
    while (landed_ < issued_) TellOldest();
  }

 protected:
  // Where turn i goes. Swizzling repeats every 8 rows, so every other turn at the latest.
  __device__ __forceinline__ uint32_t Place(int i) const {
    return places_[i % 2] + i * kRowsAtOnce * 128;
  }

  __device__ __forceinline__ void CopyQueries(const Task& task, uint32_t to) {
    const int per_token = p_.heads / p_.kv_heads;
#pragma unroll 4
    for (int i = 0; i < kTurns; ++i) {
      const int pair = task.begin + row_ + i * kRowsAtOnce, token = pair / per_token;
      const bool valid = pair < task.end;
      const int64_t column =
          int64_t{task.kv_head * per_token + pair - token * per_token} * p_.head_dim;
      const BF16* from =
          valid ? p_.q_bf16 + (task.first_row + token) * p_.q_stride + column + column_ : p_.q_bf16;
      CopyAsync(to + Place(i), from, valid ? bytes_ : 0);
    }
  }

  // Block b of keys or values: from the step's rows, or from the ring where older. What no row sees
  // becomes zeros, for zero times whatever lies there must be zero.
  __device__ __forceinline__ void CopyBlock(const Task& task, int b, const BF16* step,
                                            int64_t step_stride, const BF16* ring) {
    AwaitRoom(memory_.Empty(units_.place), units_.phase ^ 1);
    const uint32_t to = memory_.Unit(units_.place);
    const int first = b * kTile, last = first + kTile - 1, key = first + row_;
    const BF16* from_step = step + (key - task.start) * step_stride + column_;
    const BF16* from_ring = ring + row_ * p_.head_dim + column_;
    const int64_t step_turn = kRowsAtOnce * step_stride;
    const int ring_turn = kRowsAtOnce * p_.head_dim;
    const bool from_one = first >= task.start || last < task.start;
    if (from_one && first >= task.low && last <= task.high) {
      const bool in_step = first >= task.start;
      const BF16* from = in_step ? from_step : from_ring;
      const int64_t turn = in_step ? step_turn : ring_turn;
#pragma unroll
      for (int i = 0; i < kTurns; ++i, from += turn) CopyAsync(to + Place(i), from, bytes_);
    } else {
#pragma unroll 4
      for (int i = 0; i < kTurns; ++i, from_step += step_turn, from_ring += ring_turn) {
        const int at = key + i * kRowsAtOnce;
        const bool valid = at >= task.low && at <= task.high;
        const BF16* from = at >= task.start ? from_step : from_ring;
        CopyAsync(to + Place(i), valid ? from : p_.q_bf16, valid ? bytes_ : 0);
      }
    }
    EndUnit();
  }

  __device__ __forceinline__ void EndUnit() {
    CommitCopies();
    units_.Next();
    ++issued_;
  }

  __device__ __forceinline__ void TellOldest() {
    FenceForTensorCores();
    ArriveForWarp(memory_.Full(told_.place));
    told_.Next();
    ++landed_;
  }

  // Waits for a barrier of the consumers, and meanwhile tells them what has landed: they may need
  // it to get there.
  __device__ __forceinline__ void AwaitRoom(uint32_t barrier, uint32_t parity) {
    while (landed_ < issued_) {
      if (__all_sync(~0u, Over(barrier, parity))) return;
      WaitForOldest();
      TellOldest();
    }
    Wait(barrier, parity);
  }

  __device__ __forceinline__ void WaitForOldest() {
    switch (issued_ - landed_) {
      case 1:
        return WaitCopies<0>();
      case 2:
        return WaitCopies<1>();
      case 3:
        return WaitCopies<2>();
      case 4:
        return WaitCopies<3>();
      default:
        return WaitCopies<4>();
    }
  }

  const WindowAttentionParams& p_;
  const Shared& memory_;
  int row_, column_, bytes_;  // what this thread copies in its first turn
  uint32_t places_[2];
  Cursor<S::kUnits> units_, told_;
  Cursor<2> queries_;
  uint32_t issued_ = 0, landed_ = 0;  // units
};

}  // namespace reprise::kernels::cuda::window

#endif  // REPRISE_KERNELS_CUDA_ATTENTION_PRODUCER_CUH_
