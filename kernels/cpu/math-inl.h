// Transcendental functions of float32 lanes. Included once per SIMD target. Every lane goes through
// the same operations whatever the vector's width; none is fused unless written so.
#if defined(REPRISE_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REPRISE_KERNELS_CPU_MATH_INL_H_
#undef REPRISE_KERNELS_CPU_MATH_INL_H_
#else
#define REPRISE_KERNELS_CPU_MATH_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace reprise::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// e^x, infinity where it overflows. hn::Exp is good to 1 ulp but only up to 104.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SafeExp(D d, V x) {
  return hn::Exp(d, hn::Min(x, hn::Set(d, 104.0f)));
}

// 1 / (1 + e^-x): about 2 ulp also where the result is small.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, SafeExp(d, hn::Neg(x))));
}

// sqrt(1 - a^2) from log a <= 0, with full relative precision also near a = 1, where 1 - a^2 as
// written would lose all digits.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SqrtOneMinusSquare(D d, V log_a) {
  return hn::Sqrt(hn::Neg(hn::Expm1(d, hn::Add(log_a, log_a))));
}

}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // REPRISE_KERNELS_CPU_MATH_INL_H_
