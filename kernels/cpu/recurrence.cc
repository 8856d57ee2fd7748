#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/recurrence.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reprise::kernels::cpu::HWY_NAMESPACE {
namespace {

// Channels that one task takes through time, row by row: some cache lines side by side, for rows
// lie pages apart.
constexpr int64_t kTaskChannels = 128;

// Tasks per grab, so that a grab is worth waking a thread for.
int64_t Grain(const RaggedRows& rows) {
  const int64_t rows_per_seq = std::max<int64_t>(1, rows.num_rows / std::max(1, rows.num_seqs));
  return std::max<int64_t>(1, 4096 / (rows_per_seq * kTaskChannels));
}

// Runs fn(s, first channel, channels) for every sequence and group of channels.
template <class Fn>
void ForTasks(const RaggedRows& rows, int channels, ThreadPool& pool, const Fn& fn) {
  const int64_t groups = (channels + kTaskChannels - 1) / kTaskChannels;
  pool.Run(rows.num_seqs * groups, Grain(rows), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task % groups * kTaskChannels;
      fn(static_cast<int>(task / groups), channel, std::min(kTaskChannels, channels - channel));
    }
  });
}

void ZeroRows(float* out, int64_t stride, int64_t begin, int64_t end, int64_t count) {
  for (int64_t r = begin; r < end; ++r) std::memset(out + r * stride, 0, count * sizeof(float));
}

// Calls fn(tag, c) for whole vectors and then for single lanes, c rising to `count`.
template <class Fn>
HWY_INLINE void ForLanes(int64_t count, const Fn& fn) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = hn::Lanes(d);
  const hn::CappedTag<float, 1> d1;
  int64_t c = 0;
  for (; c + lanes <= count; c += lanes) fn(d, c);
  for (; c < count; ++c) fn(d1, c);
}

template <int kWidth>
void ConvTask(const CausalConv1dParams& p, int s, int64_t channel, int64_t count) {
  constexpr int kState = kWidth - 1;
  const int64_t start = p.rows.start_positions[s];
  const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
  float* state = kState == 0 ? nullptr : p.state + p.rows.slots[s] * p.state_slot_stride + channel;
  // Row j stands for position start - kState + j; the state counts only from position 0.
  HWY_ALIGN float past[kState + 1][kTaskChannels];
  for (int j = 0; j < kState; ++j) {
    if (start - kState + j >= 0) {
      std::memcpy(past[j], state + int64_t{j} * p.channels, count * sizeof(float));
    } else {
      std::memset(past[j], 0, count * sizeof(float));
    }
  }
  const auto input = [&](int64_t row) -> const float* {
    if (kState == 0 || row >= begin) return p.x + row * p.x_stride + channel;
    return past[row - begin + kState];
  };
  const float* weight = p.weight + channel;
  const float* bias = p.bias != nullptr ? p.bias + channel : nullptr;
  for (int64_t r = begin; r < end; ++r) {
    const float* inputs[kWidth];
    for (int j = 0; j < kWidth; ++j) inputs[j] = input(r - kState + j);
    float* out = p.out + r * p.out_stride + channel;
    ForLanes(count, [&](auto d, int64_t c) HWY_ATTR {
      auto sum = bias != nullptr ? hn::LoadU(d, bias + c) : hn::Zero(d);
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) {
        sum = hn::MulAdd(hn::LoadU(d, weight + int64_t{j} * p.channels + c),
                         hn::LoadU(d, inputs[j] + c), sum);
      }
      hn::StoreU(sum, d, out + c);
    });
  }
  for (int j = 0; j < kState; ++j) {
    std::memcpy(state + int64_t{j} * p.channels, input(end - kState + j), count * sizeof(float));
  }
}

template <int kWidth>
void ConvTyped(const CausalConv1dParams& p, ThreadPool& pool) {
  ForTasks(p.rows, p.channels, pool, [&](int s, int64_t channel, int64_t count) HWY_ATTR {
    const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
    if (begin == end) return;
    if (p.rows.slots[s] < 0) return ZeroRows(p.out + channel, p.out_stride, begin, end, count);
    ConvTask<kWidth>(p, s, channel, count);
  });
}

void CausalConv1dImpl(const CausalConv1dParams& p, ThreadPool& pool) {
  switch (p.width) {
    case 1:
      return ConvTyped<1>(p, pool);
    case 2:
      return ConvTyped<2>(p, pool);
    case 3:
      return ConvTyped<3>(p, pool);
    case 4:
      return ConvTyped<4>(p, pool);
    case 5:
      return ConvTyped<5>(p, pool);
    case 6:
      return ConvTyped<6>(p, pool);
    case 7:
      return ConvTyped<7>(p, pool);
    case 8:
      return ConvTyped<8>(p, pool);
  }
  HWY_ABORT("CausalConv1d: width %d", p.width);
}

// The state of a task's channels while its rows go by.
struct RgLruState {
  HWY_ALIGN float grid[kTaskChannels];
  HWY_ALIGN float local[kTaskChannels];
  HWY_ALIGN float product[kTaskChannels];
};

void RgLruTask(const RgLruParams& p, int s, int64_t channel, int64_t count) {
  const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
  float* slot = p.state + p.rows.slots[s] * p.state_slot_stride + channel;
  int64_t position = p.rows.start_positions[s];
  const size_t bytes = count * sizeof(float);
  RgLruState state;
  if (position > 0) {
    std::memcpy(state.grid, slot, bytes);
    std::memcpy(state.local, slot + p.width, bytes);
    std::memcpy(state.product, slot + 2 * int64_t{p.width}, bytes);
  } else {
    std::memset(&state, 0, sizeof(state));
  }
  for (int64_t r = begin; r < end; ++r, ++position) {
    const bool boundary = (position + 1) % kGridTokens == 0;
    const float* u = p.u + r * p.u_stride + channel;
    const float* input_gate = p.input_gate + r * p.gate_stride + channel;
    const float* recurrent_gate = p.recurrent_gate + r * p.gate_stride + channel;
    float* out_row = p.out + r * p.out_stride + channel;
    ForLanes(count, [&](auto d, int64_t c) HWY_ATTR {
      const auto zero = hn::Zero(d);
      const auto i = Sigmoid(d, hn::LoadU(d, input_gate + c));
      const auto input = hn::Mul(i, hn::LoadU(d, u + c));
      // Position 0: a = 0 and m = 1.
      auto a = zero, driven = input;
      if (position > 0) {
        const auto gate = Sigmoid(d, hn::LoadU(d, recurrent_gate + c));
        const auto log_a = hn::Mul(hn::LoadU(d, p.log_a_scale + channel + c), gate);
        a = hn::Exp(d, log_a);
        driven = hn::Mul(SqrtOneMinusSquare(d, log_a), input);
      }
      const auto local = hn::MulAdd(a, hn::LoadU(d, state.local + c), driven);
      const auto product = hn::Mul(hn::LoadU(d, state.product + c), a);
      const auto out = hn::MulAdd(product, hn::LoadU(d, state.grid + c), local);
      hn::StoreU(out, d, out_row + c);
      hn::StoreU(boundary ? zero : local, d, state.local + c);
      hn::StoreU(boundary ? hn::Set(d, 1.0f) : product, d, state.product + c);
      if (boundary) hn::StoreU(out, d, state.grid + c);
    });
  }
  std::memcpy(slot, state.grid, bytes);
  std::memcpy(slot + p.width, state.local, bytes);
  std::memcpy(slot + 2 * int64_t{p.width}, state.product, bytes);
}

void RgLruImpl(const RgLruParams& p, ThreadPool& pool) {
  ForTasks(p.rows, p.width, pool, [&](int s, int64_t channel, int64_t count) HWY_ATTR {
    const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
    if (begin == end) return;
    if (p.rows.slots[s] < 0) return ZeroRows(p.out + channel, p.out_stride, begin, end, count);
    RgLruTask(p, s, channel, count);
  });
}

}  // namespace
}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reprise::kernels::cpu {
namespace {

HWY_EXPORT(CausalConv1dImpl);
HWY_EXPORT(RgLruImpl);

}  // namespace

void CausalConv1d(const CausalConv1dParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(CausalConv1dImpl)(params, pool);
}

void RgLru(const RgLruParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(RgLruImpl)(params, pool);
}

}  // namespace reprise::kernels::cpu
#endif  // HWY_ONCE
