// Window attention. One block of threads takes 64 rows of one sequence, (token, head) pairs of one
// kv head, through blocks of 64 keys: a warpgroup of producers copies queries, keys and values into
// shared memory, one or two warpgroups of consumers do the products, each for its part of head_dim.
//
// For one row: groups of kSplitBlocks blocks, cut by absolute position; within a group online
// softmax from block to block, from nothing; then the groups are merged in ascending order. A block
// of which the row sees nothing multiplies its sums by 1 and adds zeros. So it makes no difference
// what other rows of the tile see, nor whether one block of threads goes through all groups (the
// whole form) or every group has its own (the split form, for few rows), as both do the same.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kTile = 64;  // rows of a tile, and keys of a block
static_assert(kTile == kGridTokens);
constexpr int kGroupTokens = kSplitBlocks * kTile;
constexpr int kCopyThreads = 128;  // one warpgroup of producers
constexpr float kMinusInfinity = -__builtin_huge_valf();

// kDim: head_dim rounded up to whole panels; columns beyond head_dim are zeros.
template <int kDim>
struct Shape {
  static constexpr int kTeams = kDim > 128 ? 2 : 1;  // warpgroups of consumers
  static constexpr int kTeamDims = kDim / kTeams;
  static constexpr int kSums = kTeamDims / 2;  // of one thread
  static constexpr int kThreads = kCopyThreads + 128 * kTeams;
  static constexpr int kBlocks = kTeams == 2 ? 1 : 2;  // per multiprocessor
  static constexpr uint32_t kUnitBytes = kTile * kDim * 2;
  static constexpr int kUnits = kTeams == 2 ? 5 : 4;  // blocks of keys or of values in flight
  static constexpr int kCopyRegisters = 40;
  static constexpr int kTeamRegisters = kTeams == 2 ? 232 : 216;
  // Two tiles of queries and the units, from a multiple of 1024 on, and the barriers.
  static constexpr size_t kSharedBytes = 1024 + (2 + kUnits) * size_t{kUnitBytes} + 256;
};

// Where the split form keeps its sums.
struct Partials {
  int groups = 0;            // most groups that a tile sees; 0: the whole form
  float* sums = nullptr;     // [num_rows, heads, groups, head_dim]
  float2* scales = nullptr;  // [num_rows, heads, groups]: maximum and sum of exponentials
};

struct Tiling {
  int per_sequence = 0;  // tiles of the longest sequence and one kv head
  int tasks = 0;
};

// The keys that a tile of rows sees.
struct TileKeys {
  int64_t low, first, last;  // the lowest key; positions of the first and the last row

  __device__ __forceinline__ TileKeys(const WindowAttentionParams& p, int64_t start, int begin,
                                      int end) {
    const int per_token = p.heads / p.kv_heads;
    first = start + begin / per_token;
    last = start + (end - 1) / per_token;
    low = max(first - p.window, int64_t{0});
  }
};

// A tile and the blocks of keys that it goes through. Positions are relative to `base`, the first
// of these blocks' first.
struct Task {
  int64_t first_row;  // of the sequence
  int64_t slot;
  int64_t base;
  int kv_head;
  int begin, end;  // rows of the tile among the sequence's pairs
  int group;       // split form: the group's number among those that the tile sees
  int blocks;
  int start;        // the sequence's first position in this step
  int low, high;    // keys that some row sees
  int first, last;  // positions of the tile's first and last token
};

// False where there is nothing to do.
__device__ __forceinline__ bool MakeTask(const WindowAttentionParams& p, const Tiling& tiling,
                                         int groups, int index, Task& task) {
  int rest = index;
  task.group = 0;
  if (groups > 0) {
    task.group = rest % groups;
    rest /= groups;
  }
  const int tile = rest % tiling.per_sequence;
  rest /= tiling.per_sequence;
  task.kv_head = rest % p.kv_heads;
  const int s = rest / p.kv_heads;
  task.first_row = p.rows.seq_offsets[s];
  const int64_t pairs = (p.rows.seq_offsets[s + 1] - task.first_row) * (p.heads / p.kv_heads);
  task.slot = p.rows.slots[s];
  const int64_t start = p.rows.start_positions[s];
  if (task.slot < 0 || int64_t{tile} * kTile >= pairs) return false;
  task.begin = tile * kTile;
  task.end = static_cast<int>(min(pairs, int64_t{task.begin} + kTile));
  const TileKeys keys(p, start, task.begin, task.end);
  int64_t first_block = keys.low / kTile, last_block = keys.last / kTile;
  if (groups > 0) {
    const int64_t group = keys.low / kGroupTokens + task.group;
    first_block = max(first_block, group * kSplitBlocks);
    last_block = min(last_block, (group + 1) * kSplitBlocks - 1);
    if (first_block > last_block) return false;
  }
  task.base = first_block * kTile;
  task.blocks = static_cast<int>(last_block - first_block) + 1;
  task.start = static_cast<int>(start - task.base);
  task.low = static_cast<int>(max(keys.low - task.base, int64_t{0}));
  task.high = static_cast<int>(keys.last - task.base);
  task.first = static_cast<int>(keys.first - task.base);
  task.last = task.high;
  return true;
}

// Shared memory: tiles of queries, units, barriers.
template <int kDim>
struct Memory {
  using S = Shape<kDim>;
  uint32_t base;
  __device__ __forceinline__ uint32_t Queries(uint32_t i) const { return base + i * S::kUnitBytes; }
  __device__ __forceinline__ uint32_t Unit(uint32_t i) const {
    return base + (2 + i) * S::kUnitBytes;
  }
  __device__ __forceinline__ uint32_t Barriers() const { return Unit(S::kUnits); }
  __device__ __forceinline__ uint32_t Full(uint32_t i) const { return Barriers() + i * 8; }
  __device__ __forceinline__ uint32_t Empty(uint32_t i) const {
    return Barriers() + (S::kUnits + i) * 8;
  }
  __device__ __forceinline__ uint32_t QueriesEmpty(uint32_t i) const {
    return Barriers() + (2 * S::kUnits + i) * 8;
  }
};

// Goes round a ring of kCount places.
template <int kCount>
struct Cursor {
  uint32_t place = 0, phase = 0;
  __device__ __forceinline__ void Next() {
    if (++place < kCount) return;
    place = 0;
    phase ^= 1;
  }
};

// The producers' side: copies are issued as long as there is room, and told to the consumers in
// order when they have landed.
template <int kDim>
class Producer {
  using S = Shape<kDim>;
  static constexpr int kPieces = kDim / 8;  // 16-byte pieces of a row
  static constexpr int kRowsAtOnce = kCopyThreads / kPieces;
  static constexpr int kTurns = kTile / kRowsAtOnce;

 public:
  __device__ __forceinline__ Producer(const WindowAttentionParams& p, const Memory<kDim>& memory)
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

 private:
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
    CommitCopies();
    units_.Next();
    ++issued_;
  }

  __device__ __forceinline__ void TellOldest() {
    FenceForTensorCores();
    __syncwarp();
    if (threadIdx.x % 32 == 0) Arrive(memory_.Full(told_.place));
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
  const Memory<kDim>& memory_;
  int row_, column_, bytes_;  // what this thread copies in its first turn
  uint32_t places_[2];
  Cursor<S::kUnits> units_, told_;
  Cursor<2> queries_;
  uint32_t issued_ = 0, landed_ = 0;  // units
};

// 2^x, 2 ulp, exactly 1 at 0: exponentials are taken to base 2, the scale of the scores includes
// log2 e.
__device__ __forceinline__ float Exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// Sum over the four threads that share a row of a product.
__device__ __forceinline__ float RowSum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}
__device__ __forceinline__ float RowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// What exponentials of a row are taken relative to; any number serves where it saw nothing yet.
__device__ __forceinline__ float Reference(float max) { return max == kMinusInfinity ? 0.0f : max; }

// Factors by which what was merged so far, and what is merged into it, are multiplied.
struct MergeFactors {
  float old, fresh;
};

// Merges a group's maximum and sum into the running ones.
__device__ __forceinline__ MergeFactors MergeScales(float group_max, float group_sum, float& max,
                                                    float& sum) {
  const float top = fmaxf(max, group_max), reference = Reference(top);
  const MergeFactors factors = {Exp2(max - reference), Exp2(group_max - reference)};
  sum = fmaf(sum, factors.old, group_sum * factors.fresh);
  max = top;
  return factors;
}

__device__ __forceinline__ float Merge(const MergeFactors& factors, float fresh, float old) {
  return fmaf(old, factors.old, fresh * factors.fresh);
}

// The zero keeps -0, which depends on how often a vanishing sum was rescaled, out of the result.
__device__ __forceinline__ float Quotient(float sum, float weight) { return sum / weight + 0.0f; }

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

  __device__ __forceinline__ void Release(uint32_t barrier) {
    __syncwarp();
    if (Lane() == 0) Arrive(barrier);
  }

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
      ScoreMma(scores, queries.At(offset), keys.At(offset), k > 0);
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

template <int kDim, bool kSplit>
__global__ void __launch_bounds__(Shape<kDim>::kThreads, Shape<kDim>::kBlocks)
    WindowKernel(const __grid_constant__ WindowAttentionParams p,
                 const __grid_constant__ Tiling tiling, const __grid_constant__ Partials partials,
                 float scale) {
  using S = Shape<kDim>;
  extern __shared__ uint8_t shared[];
  const Memory<kDim> memory = {(SharedAddress(shared) + 1023) / 1024 * 1024};
  LetNextStart();
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kUnits; ++i) {
      InitBarrier(memory.Full(i), kCopyThreads / 32);
      InitBarrier(memory.Empty(i), 4 * S::kTeams);
    }
    for (int i = 0; i < 2; ++i) InitBarrier(memory.QueriesEmpty(i), 4 * S::kTeams);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  WaitForPrevious();
  Task task;
  if (threadIdx.x / 128 == S::kTeams) {
    ShrinkRegisters<S::kCopyRegisters>();
    Producer<kDim> producer(p, memory);
    for (int i = blockIdx.x; i < tiling.tasks; i += gridDim.x) {
      if (MakeTask(p, tiling, partials.groups, i, task)) producer.Run(task);
    }
    producer.Finish();
  } else {
    GrowRegisters<S::kTeamRegisters>();
    Consumer<kDim, kSplit> consumer(p, memory, partials, scale);
    for (int i = blockIdx.x; i < tiling.tasks; i += gridDim.x) {
      if (MakeTask(p, tiling, partials.groups, i, task)) consumer.Run(task);
    }
  }
}

constexpr int kFinishWarps = 4;

__host__ __device__ inline int64_t MergeWarps(const WindowAttentionParams& p,
                                              const Partials& partials) {
  if (partials.groups == 0) return 0;
  return int64_t{p.rows.num_rows} * p.heads * ((p.head_dim + 127) / 128);
}

// Merges the groups of one (row, head) pair of the split form, 128 columns of it. One warp.
__device__ __forceinline__ void MergeGroups(const WindowAttentionParams& p,
                                            const Partials& partials, int64_t row, int head,
                                            int column) {
  constexpr int kAtOnce = 10;  // groups whose sums are loaded together
  const int s = p.rows.row_seqs[row];
  const int64_t slot = p.rows.slots[s], first_row = p.rows.seq_offsets[s];
  const int64_t end_row = p.rows.seq_offsets[s + 1], start = p.rows.start_positions[s];
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
    float2 scales[kAtOnce];
    float4 sums[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int g = min(first + i, groups - 1);
      scales[i] = __ldcg(all_scales + g);
      sums[i] = __ldcg(reinterpret_cast<const float4*>(all_sums + int64_t{g} * p.head_dim));
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= groups) break;
      const MergeFactors factors = MergeScales(scales[i].x, scales[i].y, max, sum);
      total.v[0] = Merge(factors, sums[i].x, total.v[0]);
      total.v[1] = Merge(factors, sums[i].y, total.v[1]);
      total.v[2] = Merge(factors, sums[i].z, total.v[2]);
      total.v[3] = Merge(factors, sums[i].w, total.v[3]);
    }
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
  if (slot < 0) {
    const int dims = p.heads / p.kv_heads * p.head_dim;
    BF16* const out = p.out_bf16 + row * p.out_stride + int64_t{kv_head} * dims;
    for (int i = lane * 8; i < dims; i += 256) {
      *reinterpret_cast<uint4*>(out + i) = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const int64_t position = p.rows.start_positions[s] + row - first_row;
  const int64_t later = p.rows.seq_offsets[s + 1] - 1 - row;
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

// One warp per (row, kv head), and before them in the split form one per 128 columns of a (row,
// head).
__global__ void __launch_bounds__(32 * kFinishWarps)
    FinishKernel(const __grid_constant__ WindowAttentionParams p,
                 const __grid_constant__ Partials partials) {
  LetNextStart();
  WaitForPrevious();
  int64_t warp = int64_t{blockIdx.x} * kFinishWarps + threadIdx.x / 32;
  const int64_t merges = MergeWarps(p, partials);
  if (warp < merges) {
    const int pieces = (p.head_dim + 127) / 128;
    const int64_t pair = warp / pieces, row = pair / p.heads;
    MergeGroups(p, partials, row, static_cast<int>(pair - row * p.heads),
                static_cast<int>(warp - pair * pieces) * 128);
    return;
  }
  warp -= merges;
  if (warp < int64_t{p.rows.num_rows} * p.kv_heads) {
    KeepRow(p, warp / p.kv_heads, static_cast<int>(warp % p.kv_heads));
  }
}

template <int kDim, bool kSplit>
cudaError_t LaunchWindow(const WindowAttentionParams& p, const Tiling& tiling,
                         const Partials& partials, const DeviceQueue& queue) {
  using S = Shape<kDim>;
  const cudaError_t error = AllowSharedBytes(WindowKernel<kDim, kSplit>, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  const int resident = queue.info().multiprocessors * S::kBlocks;
  return Launch(WindowKernel<kDim, kSplit>, std::min(tiling.tasks, resident), S::kThreads,
                S::kSharedBytes, queue, p, tiling, partials, p.scale * 1.44269504f);
}

template <int kDim>
cudaError_t LaunchForm(const WindowAttentionParams& p, const Tiling& tiling,
                       const Partials& partials, const DeviceQueue& queue) {
  return partials.groups > 0 ? LaunchWindow<kDim, true>(p, tiling, partials, queue)
                             : LaunchWindow<kDim, false>(p, tiling, partials, queue);
}

absl::Status ValidateForCuda(const WindowAttentionParams& p) {
  if (p.head_dim % 16 != 0 || p.head_dim > 256) {
    return absl::UnimplementedError(absl::StrCat(
        "WindowAttention: head_dim: CUDA takes multiples of 16 up to 256, found ", p.head_dim));
  }
  const struct {
    const char* name;
    const BF16* data;
    int64_t stride;
  } tensors[] = {{"q", p.q_bf16, p.q_stride},
                 {"k", p.k_bf16, p.k_stride},
                 {"v", p.v_bf16, p.v_stride},
                 {"out", p.out_bf16, p.out_stride},
                 {"k_ring", p.k_ring_bf16, p.k_slot_stride},
                 {"v_ring", p.v_ring_bf16, p.v_slot_stride}};
  for (const auto& tensor : tensors) {
    if (Aligned(tensor.data, tensor.stride, 16)) continue;
    return absl::UnimplementedError(absl::StrCat(
        "WindowAttention: ", tensor.name,
        ": CUDA takes rows and slots that begin at multiples of 16 bytes, found a stride of ",
        tensor.stride, " elements"));
  }
  return absl::OkStatus();
}

// The split form where whole tiles would leave multiprocessors idle; a function of the params
// alone.
Partials ChooseForm(const WindowAttentionParams& p, int64_t tiles, const DeviceQueue& queue) {
  const int64_t per_token = p.heads / p.kv_heads, multiprocessors = queue.info().multiprocessors;
  const bool one_tile = p.rows.max_seq_rows * per_token <= kTile;
  if (tiles >= (one_tile ? 4 * multiprocessors : multiprocessors / 2 + 1)) return {};
  // A tile sees window + 1 keys and one more per further token.
  const int64_t tokens =
      std::min<int64_t>(p.rows.max_seq_rows, (kTile + per_token - 2) / per_token + 1);
  const int64_t groups = (p.window + tokens - 1 + kGroupTokens - 1) / kGroupTokens + 1;
  const size_t pairs = size_t(p.rows.num_rows) * p.heads;
  const size_t sums_bytes = pairs * groups * p.head_dim * sizeof(float);
  if (groups * tiles > (1 << 30) ||
      sums_bytes + pairs * groups * sizeof(float2) > queue.scratch_bytes()) {
    return {};
  }
  Partials partials;
  partials.groups = static_cast<int>(groups);
  partials.sums = static_cast<float*>(queue.scratch());
  partials.scales = reinterpret_cast<float2*>(static_cast<uint8_t*>(queue.scratch()) + sums_bytes);
  return partials;
}

}  // namespace

absl::Status WindowAttention(const WindowAttentionParams& p, DeviceQueue& queue) {
  RETURN_IF_ERROR(ValidateForCuda(p));
  const int64_t pairs = int64_t{p.rows.max_seq_rows} * (p.heads / p.kv_heads);
  const int64_t per_sequence = (pairs + kTile - 1) / kTile;
  const int64_t tiles = per_sequence * p.kv_heads * p.rows.num_seqs;
  const Partials partials = ChooseForm(p, tiles, queue);
  const std::string what =
      absl::StrCat("WindowAttention[rows ", p.rows.num_rows, ", sequences ", p.rows.num_seqs,
                   ", heads ", p.heads, " of ", p.head_dim, ", groups ", partials.groups, "]");
  if (tiles > (1 << 30)) return absl::UnimplementedError(absl::StrCat(what, ": too many tiles"));
  Tiling tiling;
  tiling.per_sequence = static_cast<int>(per_sequence);
  tiling.tasks = static_cast<int>(tiles * std::max(partials.groups, 1));
  RETURN_IF_ERROR(Check(p.head_dim <= 64    ? LaunchForm<64>(p, tiling, partials, queue)
                        : p.head_dim <= 128 ? LaunchForm<128>(p, tiling, partials, queue)
                                            : LaunchForm<256>(p, tiling, partials, queue),
                        what));
  const int64_t warps = MergeWarps(p, partials) + int64_t{p.rows.num_rows} * p.kv_heads;
  const auto blocks = static_cast<unsigned>((warps + kFinishWarps - 1) / kFinishWarps);
  return Check(Launch(FinishKernel, blocks, 32 * kFinishWarps, 0, queue, p, partials), what,
               ", second kernel");
}

}  // namespace reprise::kernels::cuda
