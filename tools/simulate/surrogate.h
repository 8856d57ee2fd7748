// How long turns take on replicas that run no scheduler.
#ifndef REPRISE_TOOLS_SIMULATE_SURROGATE_H_
#define REPRISE_TOOLS_SIMULATE_SURROGATE_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace reprise::simulate {

// Learns, from turns that a scheduler served, how much longer than alone they took to the first
// token and from there to the last, by the number of turns that were under way at their replica.
// Nothing measured yet near a number: as alone.
class Surrogate {
 public:
  struct Slowdown {
    double prefill = 1, decode = 1;
  };

  Surrogate() : buckets_(kBuckets) {}

  void Learn(int under_way, double prefill, double decode) {
    Sums& sums = buckets_[Bucket(under_way)];
    sums.prefill += prefill;
    sums.decode += decode;
    ++sums.count;
  }

  // Of the nearest bucket that knows; of two as near, the busier one.
  Slowdown Predict(int under_way) const {
    const int wanted = Bucket(under_way);
    for (int distance = 0; distance < kBuckets; ++distance) {
      for (const int bucket : {wanted + distance, wanted - distance}) {
        if (bucket < 0 || bucket >= kBuckets || buckets_[bucket].count == 0) continue;
        const Sums& sums = buckets_[bucket];
        return {sums.prefill / sums.count, sums.decode / sums.count};
      }
    }
    return {};
  }

 private:
  struct Sums {
    double prefill = 0, decode = 0, count = 0;
  };
  static constexpr int kFine = 64;  // each number has a bucket up to here, then eight an octave
  static constexpr int kBuckets = kFine + 8 * 20;
  static int Bucket(int n) {
    if (n < kFine) return std::max(n, 0);
    const int octave = std::bit_width(static_cast<unsigned>(n)) - 1;  // >= 6
    return std::min(kFine + 8 * (octave - 6) + ((n >> (octave - 3)) & 7), kBuckets - 1);
  }

  std::vector<Sums> buckets_;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_SURROGATE_H_
