// Random numbers that are the same on every machine and with every library.
#ifndef REPRISE_TOOLS_SIMULATE_RANDOM_H_
#define REPRISE_TOOLS_SIMULATE_RANDOM_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace reprise::simulate {

// One step of splitmix64 (Steele et al. 2014), also a mixer of two words.
inline uint64_t Mix64(uint64_t word) {
  word += 0x9E3779B97F4A7C15ULL;
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL;
  return word ^ (word >> 31);
}
inline uint64_t Mix64(uint64_t a, uint64_t b) { return Mix64(Mix64(a) ^ b); }

// The standard library's distributions differ between implementations; these do not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix64(seed)) {}
  Random(uint64_t seed, uint64_t stream) : state_(Mix64(seed, stream)) {}

  uint64_t Next() { return Mix64(state_++); }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // [0, 1)
  // 0..count-1; count >= 1.
  uint64_t Below(uint64_t count) {
    return std::min<uint64_t>(static_cast<uint64_t>(Uniform() * static_cast<double>(count)),
                              count - 1);
  }
  bool Chance(double probability) { return Uniform() < probability; }
  double Exponential(double mean) { return -mean * std::log1p(-Uniform()); }
  double Normal() {  // Box and Muller 1958; the second value is not kept
    const double radius = std::sqrt(-2.0 * std::log1p(-Uniform()));
    return radius * std::cos(6.283185307179586 * Uniform());
  }
  double LogNormal(double median, double sigma) { return median * std::exp(sigma * Normal()); }
  // Rounded and clipped to low..high.
  int32_t LogNormalTokens(double median, double sigma, int32_t low, int32_t high) {
    const double value = std::round(LogNormal(median, sigma));
    return static_cast<int32_t>(std::clamp<double>(value, low, high));
  }

 private:
  uint64_t state_;
};

// 0..count-1, the k-th (from 1) with a probability proportional to 1 / k^exponent.
class Zipf {
 public:
  Zipf(int count, double exponent) {
    double sum = 0;
    for (int k = 1; k <= count; ++k) cumulative_.push_back(sum += std::pow(k, -exponent));
    for (double& value : cumulative_) value /= sum;
  }
  int Draw(Random& random) const {
    const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), random.Uniform());
    return static_cast<int>(std::min<size_t>(found - cumulative_.begin(), cumulative_.size() - 1));
  }

 private:
  std::vector<double> cumulative_;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_RANDOM_H_
