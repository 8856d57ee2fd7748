// The register-blocked product under MatMul and WindowAttention. Included once per SIMD target.
#if defined(REPRISE_KERNELS_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REPRISE_KERNELS_CPU_GEMM_INL_H_
#undef REPRISE_KERNELS_CPU_GEMM_INL_H_
#else
#define REPRISE_KERNELS_CPU_GEMM_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace reprise::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows of one call of the micro-kernel. With 4 vectors of outputs, 6 rows take
// 24 of AVX-512's 32 registers; with 2 vectors, 12 of AVX2's 16.
inline constexpr size_t kMicroRows = 6;

template <class D>
HWY_INLINE hn::Vec<D> LoadWide(D d, const float* HWY_RESTRICT from) {
  return hn::LoadU(d, from);
}
template <class D, class T>
HWY_INLINE hn::Vec<D> LoadWide(D d, const T* HWY_RESTRICT from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<T, D>(), from));
}
// The bits of a finite kE4M3 value.
struct E4m3 {
  uint8_t bits;
};
// Exact: exponent and mantissa move to their places in a float, which is then too small by the
// difference of the biases; so also with subnormal values.
template <class D>
HWY_INLINE hn::Vec<D> LoadWide(D d, const E4m3* HWY_RESTRICT from) {
  const hn::Rebind<uint32_t, D> d32;
  const auto bits = hn::PromoteTo(
      d32, hn::LoadU(hn::Rebind<uint8_t, D>(), reinterpret_cast<const uint8_t*>(from)));
  const auto sign = hn::ShiftLeft<24>(hn::And(bits, hn::Set(d32, 0x80)));
  const auto magnitude = hn::ShiftLeft<20>(hn::And(bits, hn::Set(d32, 0x7f)));
  return hn::Mul(hn::BitCast(d, hn::Or(sign, magnitude)), hn::Set(d, 0x1p120f));
}

// What a product does on the side for the one that follows it. Nothing of it changes a result.
struct NoSideWork {
  static constexpr bool kFetch = false;
  static constexpr bool kWiden = false;
};
// Fetches `bytes` from `next` on, bit by bit, so that memory is not idle during the arithmetic: the
// operand of the next product. Two cache lines per step of the micro-kernel at most.
struct Fetch {
  static constexpr bool kFetch = true;
  static constexpr bool kWiden = false;
  static constexpr size_t kLine = 64;
  const void* next = nullptr;
  size_t bytes = 0;
};
// Also keeps the weights that it has widened, [k, ldb] float32.
struct FetchAndWiden : Fetch {
  static constexpr bool kWiden = true;
  float* wide = nullptr;
};

// acc[r, j] = (first ? 0 : acc[r, j]) + sum_{i < k} a[r][i] * b[i * ldb + j] for r < kRows and
// j < kVecs * Lanes(d), one fused multiply-add after the other in the order of i. The bits of an
// output depend neither on kRows nor on kVecs nor on D.
template <size_t kRows, size_t kVecs, class D, class TB, class Side>
HWY_INLINE void MicroKernel(D d, size_t k, const float* const* HWY_RESTRICT a,
                            const TB* HWY_RESTRICT b, size_t ldb, float* HWY_RESTRICT acc,
                            size_t ldacc, bool first, const Side& side) {
  const size_t lanes = hn::Lanes(d);
  hn::Vec<D> sum[kRows][kVecs];
  const float* HWY_RESTRICT row[kRows];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
    row[r] = a[r];
#pragma GCC unroll 8
    for (size_t v = 0; v < kVecs; ++v) {
      sum[r][v] = first ? hn::Zero(d) : hn::LoadU(d, acc + r * ldacc + v * lanes);
    }
  }
  [[maybe_unused]] const char* next = nullptr;
  [[maybe_unused]] float* HWY_RESTRICT wide = nullptr;
  [[maybe_unused]] size_t fetch_step = 0;
  if constexpr (Side::kFetch) {
    next = static_cast<const char*>(side.next);
    fetch_step = std::min((side.bytes + k - 1) / k, 2 * Fetch::kLine);
  }
  if constexpr (Side::kWiden) wide = side.wide;
  for (size_t i = 0; i < k; ++i) {
    hn::Vec<D> w[kVecs];
#pragma GCC unroll 8
    for (size_t v = 0; v < kVecs; ++v) w[v] = LoadWide(d, b + v * lanes);
    b += ldb;
    if constexpr (Side::kWiden) {
#pragma GCC unroll 8
      for (size_t v = 0; v < kVecs; ++v) hn::StoreU(w[v], d, wide + v * lanes);
      wide += ldb;
    }
    if constexpr (Side::kFetch) {
      __builtin_prefetch(next, 0, 3);
      __builtin_prefetch(next + Fetch::kLine, 0, 3);
      next += fetch_step;
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const hn::Vec<D> x = hn::Set(d, row[r][i]);
#pragma GCC unroll 8
      for (size_t v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (size_t v = 0; v < kVecs; ++v) hn::StoreU(sum[r][v], d, acc + r * ldacc + v * lanes);
  }
}

// The share of `side` for strip `s` of `strips`, which starts at column j.
template <class Side>
HWY_INLINE Side SideOfStrip(Side side, size_t s, size_t strips, size_t j) {
  if constexpr (Side::kFetch) {
    const size_t share = s < strips ? side.bytes / strips : 0;
    side.next = static_cast<const char*>(side.next) + s * share;
    side.bytes = share;
  }
  if constexpr (Side::kWiden) side.wide += j;
  return side;
}

template <size_t kRows, class TB, class Side>
HWY_NOINLINE void ProductRows(size_t k, const float* const* a, const TB* b, size_t ldb,
                              size_t width, float* acc, size_t ldacc, bool first,
                              const Side& side) {
  const hn::ScalableTag<float> d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  // Vectors per strip: as many as the registers hold; a single row takes more of them, so that
  // the latency of a multiply-add is hidden.
  constexpr size_t kRegs = kLanes == 16 ? 24 : 12;
  constexpr size_t kFit = kRegs / kRows >= 8 ? 8 : kRegs / kRows >= 4 ? 4 : 2;
  constexpr size_t kVecs = kLanes * kFit > 64 ? 64 / kLanes : kFit;
  constexpr size_t kStrip = kVecs * kLanes;
  const size_t strips = width / kStrip;
  for (size_t s = 0; s < strips; ++s) {
    MicroKernel<kRows, kVecs>(d, k, a, b + s * kStrip, ldb, acc + s * kStrip, ldacc, first,
                              SideOfStrip(side, s, strips, s * kStrip));
  }
  if constexpr (kVecs > 1) {
    const size_t vectors = width / kLanes;
    for (size_t v = strips * kVecs; v < vectors; ++v) {
      MicroKernel<kRows, 1>(d, k, a, b + v * kLanes, ldb, acc + v * kLanes, ldacc, first,
                            SideOfStrip(side, strips, strips, v * kLanes));
    }
  }
  if constexpr (kLanes > 1) {
    const hn::CappedTag<float, 1> d1;
    for (size_t j = width / kLanes * kLanes; j < width; ++j) {
      MicroKernel<kRows, 1>(d1, k, a, b + j, ldb, acc + j, ldacc, first,
                            SideOfStrip(side, strips, strips, j));
    }
  }
}

// The same for any width and `rows` = 1..kMicroRows.
template <class TB, class Side = NoSideWork>
HWY_INLINE void Product(size_t rows, size_t k, const float* const* a, const TB* b, size_t ldb,
                        size_t width, float* acc, size_t ldacc, bool first,
                        const Side& side = Side()) {
  switch (rows) {
    case 1:
      return ProductRows<1>(k, a, b, ldb, width, acc, ldacc, first, side);
    case 2:
      return ProductRows<2>(k, a, b, ldb, width, acc, ldacc, first, side);
    case 3:
      return ProductRows<3>(k, a, b, ldb, width, acc, ldacc, first, side);
    case 4:
      return ProductRows<4>(k, a, b, ldb, width, acc, ldacc, first, side);
    case 5:
      return ProductRows<5>(k, a, b, ldb, width, acc, ldacc, first, side);
    case 6:
      return ProductRows<6>(k, a, b, ldb, width, acc, ldacc, first, side);
  }
  HWY_ABORT("Product: %d rows", static_cast<int>(rows));
}

}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // REPRISE_KERNELS_CPU_GEMM_INL_H_
