// Percentiles of any number of times in bounded memory.
#ifndef REPRISE_TOOLS_SIMULATE_DISTRIBUTION_H_
#define REPRISE_TOOLS_SIMULATE_DISTRIBUTION_H_

#include <cstdint>
#include <vector>

namespace reprise::simulate {

// Nanoseconds. Exact up to kExact values; from then on values lie in buckets, each 1/128 of its
// lower bound wide, and a percentile is a bucket's middle: off by at most 0.4%.
class Distribution {
 public:
  static constexpr int64_t kExact = 4096;

  // Negative values count as 0.
  void Add(int64_t nanoseconds);

  int64_t count() const { return count_; }
  // Seconds; 0 without values.
  double mean() const;
  double max() const { return static_cast<double>(max_) * 1e-9; }
  // The smallest value that at least `percent` of all do not exceed (nearest rank). percent in
  // (0, 100].
  double Percentile(double percent) const;

 private:
  static int Bucket(int64_t value);
  static double Middle(int bucket);
  void Fold();

  int64_t count_ = 0, max_ = 0;
  double sum_ = 0;
  mutable std::vector<int64_t> values_;  // sorted on demand
  mutable bool sorted_ = false;
  std::vector<int64_t> buckets_;
};

// Jain, Chiu and Hawe 1984: 1 = all alike, 1 / n = one has it all. 1 without values.
double JainIndex(const std::vector<double>& values);

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_DISTRIBUTION_H_
