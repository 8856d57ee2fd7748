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

// Channels that one task takes through time: a few vectors side by side, whole cache lines.
constexpr int64_t kTaskChannels = 64;

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

template <int kWidth, class D>
HWY_INLINE void ConvLanes(D d, const CausalConv1dParams& p, int s, int64_t channel) {
  constexpr int kState = kWidth - 1;
  const int64_t start = p.rows.start_positions[s];
  const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
  float* state = kState == 0 ? nullptr : p.state + p.rows.slots[s] * p.state_slot_stride + channel;
  hn::Vec<D> weight[kWidth];
  hn::Vec<D> past[kWidth];  // the last kState inputs, oldest first, and then the current one
  for (int j = 0; j < kWidth; ++j) {
    weight[j] = hn::LoadU(d, p.weight + int64_t{j} * p.channels + channel);
    past[j] = hn::Zero(d);
    // Entry j stands for position start - kState + j; the state counts only from position 0.
    if (j < kState && start - kState + j >= 0) {
      past[j] = hn::LoadU(d, state + int64_t{j} * p.channels);
    }
  }
  const auto bias = p.bias != nullptr ? hn::LoadU(d, p.bias + channel) : hn::Zero(d);
  for (int64_t r = begin; r < end; ++r) {
    past[kState] = hn::LoadU(d, p.x + r * p.x_stride + channel);
    auto sum = bias;
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) sum = hn::MulAdd(weight[j], past[j], sum);
    hn::StoreU(sum, d, p.out + r * p.out_stride + channel);
#pragma GCC unroll 8
    for (int j = 0; j < kState; ++j) past[j] = past[j + 1];
  }
  for (int j = 0; j < kState; ++j) hn::StoreU(past[j], d, state + int64_t{j} * p.channels);
}

template <int kWidth>
void ConvTyped(const CausalConv1dParams& p, ThreadPool& pool) {
  ForTasks(p.rows, p.channels, pool, [&](int s, int64_t channel, int64_t count) HWY_ATTR {
    const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
    if (begin == end) return;
    if (p.rows.slots[s] < 0) return ZeroRows(p.out + channel, p.out_stride, begin, end, count);
    const hn::ScalableTag<float> d;
    const int64_t lanes = hn::Lanes(d);
    const hn::CappedTag<float, 1> d1;
    int64_t c = 0;
    for (; c + lanes <= count; c += lanes) ConvLanes<kWidth>(d, p, s, channel + c);
    for (; c < count; ++c) ConvLanes<kWidth>(d1, p, s, channel + c);
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

template <class D>
HWY_INLINE void RgLruLanes(D d, const RgLruParams& p, int s, int64_t channel) {
  const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
  float* state = p.state + p.rows.slots[s] * p.state_slot_stride + channel;
  const auto zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  const auto log_a_scale = hn::LoadU(d, p.log_a_scale + channel);
  auto grid = zero, local = zero, product = one;
  int64_t position = p.rows.start_positions[s];
  if (position > 0) {
    grid = hn::LoadU(d, state);
    local = hn::LoadU(d, state + p.width);
    product = hn::LoadU(d, state + 2 * int64_t{p.width});
  }
  for (int64_t r = begin; r < end; ++r, ++position) {
    const auto i = Sigmoid(d, hn::LoadU(d, p.input_gate + r * p.gate_stride + channel));
    const auto input = hn::Mul(i, hn::LoadU(d, p.u + r * p.u_stride + channel));
    if (position == 0) {
      // a = 0 and m = 1: nothing comes before. Adding 0 makes a zero positive, as fma(0, 0, x) is.
      local = hn::Add(input, zero);
      product = zero;
    } else {
      const auto gate = Sigmoid(d, hn::LoadU(d, p.recurrent_gate + r * p.gate_stride + channel));
      const auto log_a = hn::Mul(log_a_scale, gate);
      const auto a = hn::Exp(d, log_a);
      local = hn::MulAdd(a, local, hn::Mul(SqrtOneMinusSquare(d, log_a), input));
      product = hn::Mul(product, a);
    }
    const auto out = hn::MulAdd(product, grid, local);
    hn::StoreU(out, d, p.out + r * p.out_stride + channel);
    if ((position + 1) % kGridTokens == 0) {
      grid = out;
      local = zero;
      product = one;
    }
  }
  hn::StoreU(grid, d, state);
  hn::StoreU(local, d, state + p.width);
  hn::StoreU(product, d, state + 2 * int64_t{p.width});
}

void RgLruImpl(const RgLruParams& p, ThreadPool& pool) {
  ForTasks(p.rows, p.width, pool, [&](int s, int64_t channel, int64_t count) HWY_ATTR {
    const int64_t begin = p.rows.seq_offsets[s], end = p.rows.seq_offsets[s + 1];
    if (begin == end) return;
    if (p.rows.slots[s] < 0) return ZeroRows(p.out + channel, p.out_stride, begin, end, count);
    const hn::ScalableTag<float> d;
    const int64_t lanes = hn::Lanes(d);
    const hn::CappedTag<float, 1> d1;
    int64_t c = 0;
    for (; c + lanes <= count; c += lanes) RgLruLanes(d, p, s, channel + c);
    for (; c < count; ++c) RgLruLanes(d1, p, s, channel + c);
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
