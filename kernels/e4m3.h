// e4m3fn ("fp8"): floats of 8 bits, sign, 4 of exponent, 3 of mantissa (OCP 8-bit floating point
// specification). Normal numbers are 2^-6 to 448, subnormal ones multiples of 2^-9; there are no
// infinities. On the host and on CUDA, so that both round weights to the same bits.
#ifndef REPRISE_KERNELS_E4M3_H_
#define REPRISE_KERNELS_E4M3_H_

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define REPRISE_E4M3_FUNCTION __host__ __device__ inline
#else
#define REPRISE_E4M3_FUNCTION inline
#endif

namespace reprise::kernels {

inline constexpr float kE4m3Max = 448.0f;

// The bits of the nearest value, ties to even; what lies beyond becomes +-448, NaN stays NaN.
REPRISE_E4M3_FUNCTION uint8_t ToE4m3(float value) {
  constexpr uint32_t kLargest = 0x7e, kNan = 0x7f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 24 & 0x80;
  bits &= 0x7fffffff;
  uint32_t magnitude;
  if (bits > 0x7f800000) {
    magnitude = kNan;
  } else if (bits < 0x3c800000) {  // below 2^-6: the last bit of a float at 2^14 is worth 2^-9
    float sum;
    std::memcpy(&sum, &bits, sizeof(sum));
    sum += 16384.0f;
    std::memcpy(&magnitude, &sum, sizeof(magnitude));
    magnitude &= 0xf;
  } else {
    bits += 0x7ffff + (bits >> 20 & 1);
    magnitude = (bits >> 20) - ((127 - 7) << 3);
    if (magnitude > kLargest) magnitude = kLargest;
  }
  return static_cast<uint8_t>(sign | magnitude);
}

// What values of an output are divided by, given the largest magnitude among them. Never 0.
REPRISE_E4M3_FUNCTION float E4m3Scale(float largest) {
  const float scale = largest / kE4m3Max;
  return scale > 0.0f ? scale : 1.0f;
}

}  // namespace reprise::kernels

#undef REPRISE_E4M3_FUNCTION
#endif  // REPRISE_KERNELS_E4M3_H_
