#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reprise::kernels::cpu::HWY_NAMESPACE {
namespace {

// Floats of work that are worth another thread.
constexpr int64_t kGrainFloats = 16384;

// Partial sums of RmsNorm: part of the contract, one AVX-512 vector.
constexpr size_t kPartials = 16;

// Calls fn(tag, i) for whole vectors and then for single lanes, i rising to `count`.
template <class Fn>
HWY_INLINE void ForLanes(size_t count, const Fn& fn) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) fn(d, i);
  const hn::CappedTag<float, 1> d1;
  for (; i < count; ++i) fn(d1, i);
}

float SumOfSquares(const float* HWY_RESTRICT x, size_t dim) {
  const hn::CappedTag<float, kPartials> d;
  const size_t lanes = hn::Lanes(d);
  const hn::CappedTag<float, 1> d1;
  HWY_ALIGN float partial[kPartials] = {};
  const size_t whole = dim / kPartials * kPartials;
  // One vector of partials after the other: they are independent, and each is a long chain.
  for (size_t v = 0; v < kPartials; v += lanes) {
    auto sum = hn::Zero(d);
    for (size_t i = v; i < whole; i += kPartials) {
      const auto value = hn::LoadU(d, x + i);
      sum = hn::MulAdd(value, value, sum);
    }
    hn::Store(sum, d, partial + v);
  }
  for (size_t i = whole; i < dim; ++i) {
    const auto value = hn::LoadU(d1, x + i);
    hn::StoreU(hn::MulAdd(value, value, hn::LoadU(d1, partial + i - whole)), d1,
               partial + i - whole);
  }
  for (size_t half = kPartials / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

void RmsNormRow(const RmsNormParams& p, int64_t row) {
  const size_t dim = p.dim;
  const int64_t source = p.row_ids != nullptr ? p.row_ids[row] : row;
  float* HWY_RESTRICT x = p.x + source * p.dim;
  if (p.delta != nullptr) {
    const float* delta = p.delta + source * p.dim;
    ForLanes(dim, [&](auto d, size_t i) HWY_ATTR {
      hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, delta + i)), d, x + i);
    });
  }
  if (p.out == nullptr) return;
  float* HWY_RESTRICT out = p.out + row * p.dim;
  const float mean = SumOfSquares(x, dim) / static_cast<float>(p.dim);
  const float inverse = 1.0f / std::sqrt(mean + p.eps);
  ForLanes(dim, [&](auto d, size_t i) HWY_ATTR {
    const auto weight = hn::Add(hn::Set(d, p.weight_offset), hn::LoadU(d, p.weight + i));
    const auto normed = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse));
    hn::StoreU(hn::Mul(normed, weight), d, out + i);
  });
}

void RmsNormImpl(const RmsNormParams& p, ThreadPool& pool) {
  const int64_t grain = std::max<int64_t>(1, kGrainFloats / p.dim);
  pool.Run(p.num_rows, grain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) RmsNormRow(p, row);
  });
}

struct GeluTanh {
  // 0.5 (1 + tanh u) = sigmoid(2u): the same function without the cancellation for u < 0.
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    const V square = hn::Mul(x, x);
    const V inner = hn::MulAdd(hn::Mul(square, x), hn::Set(d, 0.044715f), x);
    return hn::Mul(x, Sigmoid(d, hn::Mul(inner, hn::Set(d, 1.5957691216057308f))));
  }
};

struct Gelu {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    return GeluErf(d, x);
  }
};

struct Silu {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    return hn::Mul(x, Sigmoid(d, x));
  }
};

struct Relu {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    return hn::Max(x, hn::Zero(d));
  }
};

// Columns of a piece of one row: a long row feeds several threads.
constexpr int64_t kPieceFloats = 4096;

template <class Act>
void GatedTyped(const GatedActivationParams& p, const Act& act, ThreadPool& pool) {
  const int64_t pieces = (p.dim + kPieceFloats - 1) / kPieceFloats;
  const int64_t grain = std::max<int64_t>(1, kPieceFloats / p.dim);
  pool.Run(p.num_rows * pieces, grain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / pieces, column = item % pieces * kPieceFloats;
      const float* gate = p.gate + row * p.gate_stride + column;
      const float* up = p.up + row * p.up_stride + column;
      float* out = p.out + row * p.out_stride + column;
      ForLanes(std::min(kPieceFloats, p.dim - column), [&](auto d, size_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(act(d, hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, out + i);
      });
    }
  });
}

void GatedActivationImpl(const GatedActivationParams& p, ThreadPool& pool) {
  switch (p.activation) {
    case Activation::kGeluTanh:
      return GatedTyped(p, GeluTanh(), pool);
    case Activation::kGelu:
      return GatedTyped(p, Gelu(), pool);
    case Activation::kSilu:
      return GatedTyped(p, Silu(), pool);
    case Activation::kRelu:
      return GatedTyped(p, Relu(), pool);
  }
  HWY_ABORT("GatedActivation: activation %d", static_cast<int>(p.activation));
}

void SoftcapImpl(const SoftcapParams& p, ThreadPool& pool) {
  const int64_t total = int64_t{p.num_rows} * p.dim;
  pool.Run(total, kGrainFloats / 4, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    float* x = p.x + begin;
    ForLanes(end - begin, [&](auto d, size_t i) HWY_ATTR {
      const auto cap = hn::Set(d, p.cap);
      hn::StoreU(hn::Mul(cap, hn::Tanh(d, hn::Div(hn::LoadU(d, x + i), cap))), d, x + i);
    });
  });
}

}  // namespace
}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reprise::kernels::cpu {
namespace {

HWY_EXPORT(RmsNormImpl);
HWY_EXPORT(GatedActivationImpl);
HWY_EXPORT(SoftcapImpl);

}  // namespace

void RmsNorm(const RmsNormParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(RmsNormImpl)(params, pool);
}

void GatedActivation(const GatedActivationParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(GatedActivationImpl)(params, pool);
}

void Softcap(const SoftcapParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(SoftcapImpl)(params, pool);
}

}  // namespace reprise::kernels::cpu
#endif  // HWY_ONCE
