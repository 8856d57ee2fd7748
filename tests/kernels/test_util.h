// Inputs, tolerances and SIMD targets for the tests of kernels.
#ifndef REPRISE_TESTS_KERNELS_TEST_UTIL_H_
#define REPRISE_TESTS_KERNELS_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "kernels/kernels.h"
#include "tests/testing/bitwise.h"

namespace reprise::kernels {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A number in [-1, 1) that depends on its arguments only, so that a token's inputs are the same in
// every step, batch and slot.
inline float Pseudo(uint64_t stream, uint64_t a, uint64_t b = 0) {
  uint64_t z = stream * 0x9e3779b97f4a7c15u + a * 0xbf58476d1ce4e5b9u + b * 0x94d049bb133111ebu;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<float>(static_cast<int64_t>(z) >> 40) / 8388608.0f;
}

inline std::vector<float> PseudoVector(uint64_t stream, size_t count, float scale = 1.0f) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = scale * Pseudo(stream, i);
  return values;
}

inline std::vector<double> Doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// |actual - expected| <= tolerance * (floor + |expected|) everywhere; NaN fails.
inline ::testing::AssertionResult Near(const std::vector<float>& actual,
                                       const std::vector<double>& expected, double tolerance,
                                       double floor = 1.0) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " values, not " << expected.size();
  }
  size_t worst = 0;
  double worst_error = -1.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double size = floor + std::fabs(expected[i]);
    double error = std::fabs(actual[i] - expected[i]) / (size > 0.0 ? size : 1e-300);
    if (std::isnan(error)) error = INFINITY;
    if (error > worst_error) {
      worst_error = error;
      worst = i;
    }
  }
  if (worst_error <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "element " << worst << ": found " << actual[worst] << ", expected " << expected[worst]
         << ", error " << worst_error << " above " << tolerance;
}

inline std::unique_ptr<ThreadPool> MakePool(int threads) {
  return ThreadPool::Create(threads).value();
}

// Restricts run-time dispatch to one SIMD target while it lives.
class ScopedTarget {
 public:
  explicit ScopedTarget(int64_t target) { hwy::SetSupportedTargetsForTest(target); }
  ~ScopedTarget() { hwy::SetSupportedTargetsForTest(0); }
  ScopedTarget(const ScopedTarget&) = delete;
  ScopedTarget& operator=(const ScopedTarget&) = delete;
};

// The targets of this machine with fused multiply-adds: results must not differ between them.
inline std::vector<int64_t> FusedTargets() {
  std::vector<int64_t> targets;
  for (const int64_t target : {HWY_AVX3, HWY_AVX2}) {
    if ((hwy::SupportedTargets() & target) != 0) targets.push_back(target);
  }
  return targets;
}

// All targets that are compiled in and run here.
inline std::vector<int64_t> AllTargets() {
  std::vector<int64_t> targets = FusedTargets();
  for (const int64_t target : {HWY_SSE4, HWY_SSSE3}) {
    if ((hwy::SupportedTargets() & target) != 0) targets.push_back(target);
  }
  targets.push_back(HWY_SCALAR);
  return targets;
}

}  // namespace reprise::kernels

#endif  // REPRISE_TESTS_KERNELS_TEST_UTIL_H_
