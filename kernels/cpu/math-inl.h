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

// x Phi(x) with Phi the normal distribution, 3 ulp also in the left tail. Phi(-a) for a >= 0 is
// exp(-a^2 / 2) P(t) / (1 + 1.25 a) with t = (a - 3) / (a + 3), where P is a polynomial fitted to
// within 4e-8 over 0 <= a <= 14.5; beyond, Phi(-a) is below the range of float32.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluErf(D d, V x) {
  constexpr float kP[] = {-9.737977961776778e-05f,  -0.0005915477522648871f,
                          -0.00023841953952796757f, 0.003995093051344156f,
                          0.0006814324297010899f,   -0.029946940019726753f,
                          0.06801412999629974f,     -0.051346126943826675f,
                          -0.06905802339315414f,    0.5771912336349487f};
  const V one = hn::Set(d, 1.0f), half = hn::Set(d, 0.5f), three = hn::Set(d, 3.0f);
  const V a = hn::Min(hn::Abs(x), hn::Set(d, 14.5f));
  const V t = hn::Div(hn::Sub(a, three), hn::Add(a, three));
  V p = hn::Set(d, kP[0]);
  for (size_t i = 1; i < sizeof(kP) / sizeof(kP[0]); ++i) p = hn::MulAdd(p, t, hn::Set(d, kP[i]));
  // What rounding took off a^2 is put back to first order: exp would magnify it.
  const V square = hn::Mul(a, a);
  const V lost = hn::MulSub(a, a, square);
  const V e = hn::Exp(d, hn::Neg(hn::Mul(half, square)));
  const V corrected = hn::NegMulAdd(hn::Mul(half, lost), e, e);
  const V tail = hn::Mul(corrected, hn::Div(p, hn::MulAdd(a, hn::Set(d, 1.25f), one)));
  return hn::Mul(x, hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail)));
}

}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // REPRISE_KERNELS_CPU_MATH_INL_H_
