#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reprise::kernels::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrid = kGridTokens;

// (row, head) pairs that go through the ring together, so that a block of keys and values is
// fetched once into the second-level cache for all of them.
constexpr int64_t kTaskItems = 48;

// The rows of one sequence within one grid block.
struct Piece {
  int64_t slot = 0;
  int64_t position = 0;  // of the first row
  int64_t row = 0;       // the first row of the step
  int64_t rows = 0;
};

// Piece number `round` of sequence s; no rows when the sequence has fewer pieces or is padding.
Piece PieceOf(const RaggedRows& rows, int s, int64_t round) {
  Piece piece;
  piece.slot = rows.slots[s];
  const int64_t start = rows.start_positions[s];
  const int64_t end = start + rows.seq_offsets[s + 1] - rows.seq_offsets[s];
  piece.position = round == 0 ? start : (start / kGrid + round) * kGrid;
  piece.row = rows.seq_offsets[s] + piece.position - start;
  piece.rows = std::min(end, (piece.position / kGrid + 1) * kGrid) - piece.position;
  if (piece.rows < 0 || piece.slot < 0) piece.rows = 0;
  return piece;
}

int64_t Rounds(const RaggedRows& rows) {
  int64_t rounds = 0;
  for (int s = 0; s < rows.num_seqs; ++s) {
    const int64_t count = rows.seq_offsets[s + 1] - rows.seq_offsets[s];
    if (count == 0 || rows.slots[s] < 0) continue;
    const int64_t start = rows.start_positions[s];
    rounds = std::max(rounds, (start + count - 1) / kGrid - start / kGrid + 1);
  }
  return rounds;
}

float* KeyBlock(const WindowAttentionParams& p, int64_t slot, int64_t block, int64_t kv_head) {
  const int64_t index = block % p.ring_blocks * p.kv_heads + kv_head;
  return p.k_ring + slot * p.k_slot_stride + index * p.head_dim * kGrid;
}

float* ValueBlock(const WindowAttentionParams& p, int64_t slot, int64_t block, int64_t kv_head) {
  const int64_t index = block % p.ring_blocks * p.kv_heads + kv_head;
  return p.v_ring + slot * p.v_slot_stride + index * p.head_dim * kGrid;
}

void WritePiece(const WindowAttentionParams& p, const Piece& piece, int64_t kv_head) {
  const int64_t dim = p.head_dim, at = piece.position % kGrid;
  float* keys = KeyBlock(p, piece.slot, piece.position / kGrid, kv_head) + at;
  float* values = ValueBlock(p, piece.slot, piece.position / kGrid, kv_head) + at * dim;
  for (int64_t r = 0; r < piece.rows; ++r) {
    std::memcpy(values + r * dim, p.v + (piece.row + r) * p.v_stride + kv_head * dim,
                dim * sizeof(float));
  }
  // 16 dimensions at a time: their lines of the block stay in the first-level cache.
  for (int64_t d0 = 0; d0 < dim; d0 += 16) {
    const int64_t d1 = std::min(d0 + 16, dim);
    for (int64_t r = 0; r < piece.rows; ++r) {
      const float* key = p.k + (piece.row + r) * p.k_stride + kv_head * dim;
      for (int64_t d = d0; d < d1; ++d) keys[d * kGrid + r] = key[d];
    }
  }
}

constexpr auto kOnesArray = [] {
  std::array<float, kGridTokens> ones{};
  for (float& one : ones) one = 1.0f;
  return ones;
}();
constexpr const float* kOnes = kOnesArray.data();

// The running state of online softmax of the items of a task.
struct Running {
  float* max;     // [items]
  float* sum;     // [items]
  float* output;  // [items, head_dim]
};

// Visible positions of one item within a block: [low, high).
struct Span {
  int64_t low = 0;
  int64_t high = 0;
};

Span Visible(int64_t position, int64_t window, int64_t block) {
  const int64_t first = std::max<int64_t>(0, position - window) - block * kGrid;
  const int64_t last = position - block * kGrid;
  return {std::clamp<int64_t>(first, 0, kGrid), std::clamp<int64_t>(last + 1, 0, kGrid)};
}

// scores[span] = exp(scale * scores - max) and the maximum. Other lanes hold rubbish afterwards:
// they may come from keys outside the window and are read by nobody.
float Exponentials(float scale, Span span, float* HWY_RESTRICT scores) {
  const hn::CappedTag<float, kGridTokens> d;
  const hn::RebindToSigned<decltype(d)> di;
  const int64_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  const auto low = hn::Set(di, static_cast<int32_t>(span.low));
  const auto high = hn::Set(di, static_cast<int32_t>(span.high));
  const auto minus_infinity = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto top = minus_infinity;
  for (int64_t j = 0; j < kGrid; j += lanes) {
    const auto value = hn::Mul(hn::LoadU(d, scores + j), factor);
    const auto index = hn::Iota(di, static_cast<int32_t>(j));
    const auto visible = hn::RebindMask(d, hn::AndNot(hn::Lt(index, low), hn::Lt(index, high)));
    top = hn::Max(top, hn::IfThenElse(visible, value, minus_infinity));
    hn::StoreU(value, d, scores + j);
  }
  const auto max = hn::MaxOfLanes(d, top);
  for (int64_t j = 0; j < kGrid; j += lanes) {
    hn::StoreU(hn::Exp(d, hn::Sub(hn::LoadU(d, scores + j), max)), d, scores + j);
  }
  return hn::GetLane(max);
}

// out = output * new_factor + out * old_factor for the `dim` floats of one item.
void Rescale(const float* HWY_RESTRICT output, int64_t dim, float old_factor, float new_factor,
             float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = hn::Lanes(d);
  const hn::CappedTag<float, 1> d1;
  const auto rescale = [&](auto tag, int64_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(tag, output + i), hn::Set(tag, new_factor));
    const auto old = hn::LoadU(tag, out + i);
    hn::StoreU(hn::MulAdd(old, hn::Set(tag, old_factor), scaled), tag, out + i);
  };
  int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) rescale(d, i);
  for (; i < dim; ++i) rescale(d1, i);
}

// Adds the (max, sum, output) of a block to the running one of each item. An item's first block is
// taken as it is.
void Merge(size_t items, const bool* first, const float* max, const float* sum,
           const float* outputs, size_t dim, Running running) {
  constexpr size_t kHalf = 8;
  static_assert(kMicroRows <= kHalf);
  // The factors of all items, old and new, in one go.
  HWY_ALIGN float factors[2 * kHalf] = {};
  float tops[kMicroRows];
  for (size_t i = 0; i < items; ++i) {
    tops[i] = first[i] ? max[i] : std::max(running.max[i], max[i]);
    factors[i] = first[i] ? 0.0f : running.max[i] - tops[i];
    factors[kHalf + i] = max[i] - tops[i];
  }
  const hn::CappedTag<float, 2 * kHalf> d;
  for (size_t i = 0; i < 2 * kHalf; i += hn::Lanes(d)) {
    hn::Store(hn::Exp(d, hn::Load(d, factors + i)), d, factors + i);
  }
  for (size_t i = 0; i < items; ++i) {
    running.max[i] = tops[i];
    if (first[i]) {
      running.sum[i] = sum[i];
      std::memcpy(running.output + i * dim, outputs + i * dim, dim * sizeof(float));
      continue;
    }
    Rescale(sum + i, 1, factors[i], factors[kHalf + i], running.sum + i);
    Rescale(outputs + i * dim, dim, factors[i], factors[kHalf + i], running.output + i * dim);
  }
}

// Up to kMicroRows items against one block. Their rows ascend, so those that see the block come
// first.
void AttendBlock(const WindowAttentionParams& p, const float* keys, const float* values,
                 Fetch fetch_values, Fetch fetch_next, size_t items, const float* const* q,
                 const Span* spans, const bool* first, float* HWY_RESTRICT scores,
                 float* HWY_RESTRICT outputs, Running running) {
  const size_t dim = p.head_dim;
  Product(items, dim, q, keys, kGrid, kGrid, scores, kGrid, /*first=*/true, fetch_values);
  float max[kMicroRows], sum[kMicroRows];
  Span common{0, kGrid};
  for (size_t i = 0; i < items; ++i) {
    max[i] = Exponentials(p.scale, spans[i], scores + i * kGrid);
    common.low = std::max(common.low, spans[i].low);
    common.high = std::min(common.high, spans[i].high);
  }
  common.high = std::max(common.low, common.high);
  // Weighted values in order of position: what only some items see before and after the positions
  // that all see, item by item.
  const auto add = [&](size_t item, size_t count, int64_t low, int64_t high) HWY_ATTR {
    if (low >= high) return;
    const float* weights[kMicroRows];
    for (size_t i = 0; i < count; ++i) weights[i] = scores + (item + i) * kGrid + low;
    const bool start = low == spans[item].low;
    if (count == items) {
      Product(count, high - low, weights, values + low * dim, dim, dim, outputs + item * dim, dim,
              start, fetch_next);
    } else {
      Product(count, high - low, weights, values + low * dim, dim, dim, outputs + item * dim, dim,
              start);
    }
    // The sum of the weights is one more output, whose values are all 1.
    Product(count, high - low, weights, kOnes, 1, 1, sum + item, 1, start);
  };
  for (size_t i = 0; i < items; ++i) {
    add(i, 1, spans[i].low, std::min(common.low, spans[i].high));
  }
  if (common.low < common.high) {
    // Items that start here and items that go on cannot share a call.
    size_t i = 0;
    while (i < items) {
      size_t end = i + 1;
      const bool starts = spans[i].low == common.low;
      while (end < items && (spans[end].low == common.low) == starts) ++end;
      add(i, end - i, common.low, common.high);
      i = end;
    }
  }
  for (size_t i = 0; i < items; ++i) {
    add(i, 1, std::max(common.high, spans[i].low), spans[i].high);
  }
  Merge(items, first, max, sum, outputs, dim, running);
}

// Items [begin, end) of a piece and kv head; item = row * group + head of the group.
void AttendItems(const WindowAttentionParams& p, const Piece& piece, int64_t kv_head, int64_t begin,
                 int64_t end) {
  const int64_t dim = p.head_dim, group = p.heads / p.kv_heads, items = end - begin;
  float* scratch = ThreadScratch(kTaskItems * (dim + 2) + kMicroRows * (dim + kGrid));
  const Running all{scratch, scratch + kTaskItems, scratch + 2 * kTaskItems};
  float* scores = all.output + kTaskItems * dim;
  float* outputs = scores + kMicroRows * kGrid;
  const auto position = [&](int64_t item) { return piece.position + (begin + item) / group; };
  const auto offset = [&](int64_t item, int64_t stride) {
    return (piece.row + (begin + item) / group) * stride +
           (kv_head * group + (begin + item) % group) * dim;
  };
  const int64_t first_block = std::max<int64_t>(0, position(0) - p.window) / kGrid;
  for (int64_t block = first_block; block <= piece.position / kGrid; ++block) {
    const float* keys = KeyBlock(p, piece.slot, block, kv_head);
    const float* values = ValueBlock(p, piece.slot, block, kv_head);
    const int64_t groups = (items + kMicroRows - 1) / kMicroRows;
    const int64_t micro = (items + groups - 1) / groups;
    // Each group fetches its share of the values, and then of the keys of the next block.
    const auto share = [&](const float* from, int64_t group_index) {
      const int64_t bytes = dim * kGrid * static_cast<int64_t>(sizeof(float)) / groups;
      return Fetch{reinterpret_cast<const char*>(from) + group_index * bytes,
                   static_cast<size_t>(bytes)};
    };
    const bool last = block == piece.position / kGrid;
    const float* next = last ? keys : KeyBlock(p, piece.slot, block + 1, kv_head);
    for (int64_t i0 = 0; i0 < items; i0 += micro) {
      const float* q[kMicroRows];
      Span spans[kMicroRows];
      bool first[kMicroRows];
      size_t count = 0;
      for (int64_t i = i0; i < std::min(i0 + micro, items); ++i) {
        const Span span = Visible(position(i), p.window, block);
        if (span.low >= span.high) break;
        q[count] = p.q + offset(i, p.q_stride);
        spans[count] = span;
        first[count] = block == std::max<int64_t>(0, position(i) - p.window) / kGrid;
        ++count;
      }
      if (count == 0) continue;
      Fetch fetch_next = share(next, i0 / micro);
      if (last) fetch_next.bytes = 0;
      AttendBlock(p, keys, values, share(values, i0 / micro), fetch_next, count, q, spans, first,
                  scores, outputs, {all.max + i0, all.sum + i0, all.output + i0 * dim});
    }
  }
  const hn::ScalableTag<float> d;
  const int64_t lanes = hn::Lanes(d);
  const hn::CappedTag<float, 1> d1;
  for (int64_t i = 0; i < items; ++i) {
    const float* from = all.output + i * dim;
    float* to = p.out + offset(i, p.out_stride);
    int64_t j = 0;
    for (; j + lanes <= dim; j += lanes) {
      hn::StoreU(hn::Div(hn::LoadU(d, from + j), hn::Set(d, all.sum[i])), d, to + j);
    }
    for (; j < dim; ++j) {
      hn::StoreU(hn::Div(hn::LoadU(d1, from + j), hn::Set(d1, all.sum[i])), d1, to + j);
    }
  }
}

void WindowAttentionImpl(const WindowAttentionParams& p, ThreadPool& pool) {
  const RaggedRows& rows = p.rows;
  const int64_t group = p.heads / p.kv_heads;
  for (int s = 0; s < rows.num_seqs; ++s) {
    if (rows.slots[s] >= 0) continue;
    for (int64_t r = rows.seq_offsets[s]; r < rows.seq_offsets[s + 1]; ++r) {
      std::memset(p.out + r * p.out_stride, 0, sizeof(float) * p.heads * p.head_dim);
    }
  }
  const int64_t rounds = Rounds(rows);
  for (int64_t round = 0; round < rounds; ++round) {
    int64_t longest = 0, total = 0;
    for (int s = 0; s < rows.num_seqs; ++s) {
      const int64_t count = PieceOf(rows, s, round).rows;
      longest = std::max(longest, count);
      total += count;
    }
    if (total == 0) continue;
    const int64_t pairs = int64_t{rows.num_seqs} * p.kv_heads;
    const int64_t write_grain = std::max<int64_t>(1, 32768 / (longest * p.head_dim));
    pool.Run(pairs, write_grain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
      for (int64_t i = begin; i < end; ++i) {
        const Piece piece = PieceOf(rows, i / p.kv_heads, round);
        if (piece.rows > 0) WritePiece(p, piece, i % p.kv_heads);
      }
    });
    // Two tasks per thread or more, but not so small that blocks are fetched in vain.
    const int64_t wanted = total * p.heads / (2 * pool.size());
    const int64_t task_items =
        std::clamp<int64_t>(wanted, static_cast<int64_t>(kMicroRows), kTaskItems);
    const int64_t tasks = (longest * group + task_items - 1) / task_items;
    pool.Run(pairs * tasks, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t pair = i / tasks, task = i % tasks;
        const Piece piece = PieceOf(rows, pair / p.kv_heads, round);
        const int64_t items = piece.rows * group;
        const int64_t per_task = (items + tasks - 1) / tasks;
        const int64_t low = task * per_task, high = std::min(low + per_task, items);
        if (low < high) AttendItems(p, piece, pair % p.kv_heads, low, high);
      }
    });
  }
}

void RopeImpl(const RopeParams& p, ThreadPool& pool) {
  const int64_t half = p.rotary_dims / 2;
  const int64_t grain = std::max<int64_t>(1, 8192 / (int64_t{p.heads} * p.head_dim));
  pool.Run(p.num_rows, grain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    const hn::ScalableTag<float> d;
    const int64_t lanes = hn::Lanes(d);
    const hn::CappedTag<float, 1> d1;
    for (int64_t r = begin; r < end; ++r) {
      const float* cos = p.cos + r * half;
      const float* sin = p.sin + r * half;
      for (int64_t h = 0; h < p.heads; ++h) {
        float* x = p.x + r * p.x_stride + h * p.head_dim;
        const auto rotate = [&](auto tag, int64_t i) HWY_ATTR {
          const auto a = hn::LoadU(tag, x + i), b = hn::LoadU(tag, x + half + i);
          const auto c = hn::LoadU(tag, cos + i), s = hn::LoadU(tag, sin + i);
          hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), tag, x + i);
          hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), tag, x + half + i);
        };
        int64_t i = 0;
        for (; i + lanes <= half; i += lanes) rotate(d, i);
        for (; i < half; ++i) rotate(d1, i);
      }
    }
  });
}

}  // namespace
}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reprise::kernels::cpu {
namespace {

HWY_EXPORT(WindowAttentionImpl);
HWY_EXPORT(RopeImpl);

}  // namespace

void WindowAttention(const WindowAttentionParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(WindowAttentionImpl)(params, pool);
}

void Rope(const RopeParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(RopeImpl)(params, pool);
}

void RopeTable(const RopeTableParams& p, ThreadPool& pool) {
  const int64_t half = p.rotary_dims / 2;
  pool.Run(p.rows.num_seqs, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t row = p.rows.seq_offsets[s];
      const int64_t count = p.rows.seq_offsets[s + 1] - row;
      for (int64_t i = 0; i < half; ++i) {
        // As the reference implementations: theta^(2i/d) and its inverse rounded to float32.
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(p.rotary_dims);
        const float inverse = 1.0f / static_cast<float>(std::pow(double{p.theta}, exponent));
        for (int64_t r = 0; r < count; ++r) {
          float cos = 0.0f, sin = 0.0f;  // padding rows give zeros
          if (p.rows.slots[s] >= 0) {
            const float angle = static_cast<float>(p.rows.start_positions[s] + r) * inverse;
            cos = static_cast<float>(std::cos(double{angle}));
            sin = static_cast<float>(std::sin(double{angle}));
          }
          p.cos[(row + r) * half + i] = cos;
          p.sin[(row + r) * half + i] = sin;
        }
      }
    }
  });
}

}  // namespace reprise::kernels::cpu
#endif  // HWY_ONCE
