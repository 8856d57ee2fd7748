#include "tools/simulate/distribution.h"

#include <gtest/gtest.h>

#include <cmath>

namespace reprise::simulate {
namespace {

TEST(Distribution, FewValuesAreExact) {
  Distribution times;
  EXPECT_EQ(times.Percentile(50), 0);
  for (const int64_t value : {40, 10, 30, 20}) times.Add(value * 1'000'000);
  EXPECT_DOUBLE_EQ(times.Percentile(25), 0.010);
  EXPECT_DOUBLE_EQ(times.Percentile(50), 0.020);
  EXPECT_DOUBLE_EQ(times.Percentile(51), 0.030);
  EXPECT_DOUBLE_EQ(times.Percentile(100), 0.040);
  EXPECT_DOUBLE_EQ(times.mean(), 0.025);
  EXPECT_DOUBLE_EQ(times.max(), 0.040);
  times.Add(50'000'000);  // after a look
  EXPECT_DOUBLE_EQ(times.Percentile(100), 0.050);
}

TEST(Distribution, ManyValuesAreWithinFourPerMille) {
  Distribution times;
  constexpr int64_t kCount = 100'000;
  for (int64_t i = 1; i <= kCount; ++i) times.Add(i * i);  // 1 ns to 10 s
  for (const double percent : {1.0, 10.0, 50.0, 90.0, 99.0, 99.9}) {
    const double rank = percent / 100 * kCount;
    EXPECT_NEAR(times.Percentile(percent) / (rank * rank * 1e-9), 1, 0.004) << percent;
  }
  EXPECT_EQ(times.count(), kCount);
  EXPECT_DOUBLE_EQ(times.max(), 10.0);
  times.Add(-5);
  EXPECT_EQ(times.Percentile(0.0001), 0);
}

TEST(Distribution, HoldsTheLargestTimes) {
  Distribution times;
  for (int i = 0; i < 5000; ++i) times.Add(INT64_MAX);
  EXPECT_NEAR(times.Percentile(50) / (static_cast<double>(INT64_MAX) * 1e-9), 1, 0.004);
}

TEST(JainIndex, KnownValues) {
  EXPECT_DOUBLE_EQ(JainIndex({}), 1);
  EXPECT_DOUBLE_EQ(JainIndex({3, 3, 3}), 1);
  EXPECT_DOUBLE_EQ(JainIndex({1, 0, 0, 0}), 0.25);
  EXPECT_DOUBLE_EQ(JainIndex({1, 2}), 0.9);
}

}  // namespace
}  // namespace reprise::simulate
