#include "tools/simulate/distribution.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace reprise::simulate {
namespace {

constexpr int kSubBits = 7;
constexpr int64_t kSub = 1 << kSubBits;
constexpr int kBuckets = (64 - kSubBits) * kSub;

}  // namespace

int Distribution::Bucket(int64_t value) {
  if (value < kSub) return static_cast<int>(value);
  const int shift = std::bit_width(static_cast<uint64_t>(value)) - 1 - kSubBits;
  return static_cast<int>((shift + 1) * kSub + (value >> shift) - kSub);
}

double Distribution::Middle(int bucket) {
  if (bucket < kSub) return bucket;
  const int shift = bucket / kSub - 1;
  return std::ldexp(static_cast<double>(bucket % kSub + kSub) + (shift > 0 ? 0.5 : 0.0), shift);
}

void Distribution::Fold() {
  buckets_.resize(kBuckets);
  for (int64_t value : values_) ++buckets_[Bucket(value)];
  values_ = {};
}

void Distribution::Add(int64_t nanoseconds) {
  const int64_t value = std::max<int64_t>(nanoseconds, 0);
  ++count_;
  sum_ += static_cast<double>(value);
  max_ = std::max(max_, value);
  if (!buckets_.empty()) {
    ++buckets_[Bucket(value)];
    return;
  }
  values_.push_back(value);
  sorted_ = false;
  if (count_ > kExact) Fold();
}

double Distribution::mean() const {
  return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_) * 1e-9;
}

double Distribution::Percentile(double percent) const {
  if (count_ == 0) return 0.0;
  const int64_t rank = std::clamp<int64_t>(
      static_cast<int64_t>(std::ceil(percent / 100.0 * static_cast<double>(count_))), 1, count_);
  if (buckets_.empty()) {
    if (!sorted_) std::sort(values_.begin(), values_.end());
    sorted_ = true;
    return static_cast<double>(values_[rank - 1]) * 1e-9;
  }
  int64_t seen = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen >= rank) return std::min(Middle(bucket), static_cast<double>(max_)) * 1e-9;
  }
  return max();
}

double JainIndex(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (double value : values) {
    sum += value;
    squares += value * value;
  }
  return squares == 0 ? 1.0 : sum * sum / (static_cast<double>(values.size()) * squares);
}

}  // namespace reprise::simulate
