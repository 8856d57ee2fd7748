// Comparison of results that must be equal to the last bit.
#ifndef REPRISE_TESTS_TESTING_BITWISE_H_
#define REPRISE_TESTS_TESTING_BITWISE_H_

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace reprise::testing {

// "[2, 0, 17]": the coordinate of element `index` in a tensor of `shape`, outermost first. A flat
// index where the shape is empty.
inline std::string CoordinateOf(int64_t index, const std::vector<int64_t>& shape) {
  std::vector<int64_t> coordinate(shape.empty() ? 1 : shape.size(), index);
  for (size_t i = shape.size(); i-- > 1;) {
    coordinate[i] = index % shape[i];
    index /= shape[i];
    coordinate[i - 1] = index;
  }
  std::ostringstream text;
  for (size_t i = 0; i < coordinate.size(); ++i) text << (i == 0 ? "[" : ", ") << coordinate[i];
  text << "]";
  return text.str();
}

// Success where all bits are equal (so NaN equals itself and 0 is not -0); otherwise how many
// elements differ, the first coordinate that does and both values.
template <typename T>
::testing::AssertionResult BitwiseEqual(const T* actual, const T* expected, size_t count,
                                        const std::vector<int64_t>& shape = {}) {
  size_t different = 0, first = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::memcmp(actual + i, expected + i, sizeof(T)) == 0) continue;
    if (different++ == 0) first = i;
  }
  if (different == 0) return ::testing::AssertionSuccess();
  const auto bits = [](const T& value) {
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T) < 8 ? sizeof(T) : 8);
    return word;
  };
  ::testing::AssertionResult failure = ::testing::AssertionFailure();
  std::ostringstream text;
  text.precision(9);
  text << different << " of " << count << " elements differ, the first at "
       << CoordinateOf(static_cast<int64_t>(first), shape) << ": found " << +actual[first]
       << ", expected " << +expected[first] << std::hex << " (bits 0x" << bits(actual[first])
       << " and 0x" << bits(expected[first]) << ")";
  return failure << text.str();
}

template <typename T>
::testing::AssertionResult BitwiseEqual(const std::vector<T>& actual,
                                        const std::vector<T>& expected,
                                        const std::vector<int64_t>& shape = {}) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure()
           << actual.size() << " elements, expected " << expected.size();
  }
  return BitwiseEqual(actual.data(), expected.data(), actual.size(), shape);
}

// Fails the current test (fatally for the function that calls it) unless all bits are equal.
template <typename T>
void AssertBitwiseEqual(const std::vector<T>& actual, const std::vector<T>& expected,
                        const std::string& what = "", const std::vector<int64_t>& shape = {}) {
  ASSERT_TRUE(BitwiseEqual(actual, expected, shape)) << what;
}

}  // namespace reprise::testing

#endif  // REPRISE_TESTS_TESTING_BITWISE_H_
