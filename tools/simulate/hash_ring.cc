#include "tools/simulate/hash_ring.h"

#include <algorithm>
#include <cmath>

#include "tools/simulate/random.h"

namespace reprise::simulate {

HashRing::HashRing(int replicas, int virtual_nodes, uint64_t seed)
    : present_(replicas, true), size_(replicas) {
  // Keys are hashes of small numbers and the seed too, and must not be the same ones.
  const uint64_t salt = Mix64(~seed);
  points_.reserve(static_cast<size_t>(replicas) * virtual_nodes);
  for (int replica = 0; replica < replicas; ++replica) {
    for (int node = 0; node < virtual_nodes; ++node) {
      points_.push_back({Mix64(Mix64(salt, replica), node), replica});
    }
  }
  std::sort(points_.begin(), points_.end(), [](const Point& a, const Point& b) {
    return a.hash != b.hash ? a.hash < b.hash : a.replica < b.replica;
  });
}

void HashRing::Add(int replica) {
  size_ += !present_[replica];
  present_[replica] = true;
}

void HashRing::Remove(int replica) {
  size_ -= present_[replica];
  present_[replica] = false;
}

size_t HashRing::First(uint64_t key) const {
  const auto found =
      std::lower_bound(points_.begin(), points_.end(), key,
                       [](const Point& point, uint64_t wanted) { return point.hash < wanted; });
  return found == points_.end() ? 0 : found - points_.begin();
}

int HashRing::Route(uint64_t key) const {
  if (size_ == 0) return -1;
  for (size_t i = First(key);; i = i + 1 == points_.size() ? 0 : i + 1) {
    if (present_[points_[i].replica]) return points_[i].replica;
  }
}

int HashRing::RouteBounded(uint64_t key, absl::Span<const int32_t> loads, int64_t total,
                           double bound) const {
  if (size_ == 0) return -1;
  const double capacity = std::ceil(bound * static_cast<double>(total + 1) / size_);
  size_t i = First(key);
  for (size_t tried = 0; tried < points_.size(); ++tried) {
    const int replica = points_[i].replica;
    if (present_[replica] && loads[replica] < capacity) return replica;
    i = i + 1 == points_.size() ? 0 : i + 1;
  }
  return Route(key);
}

}  // namespace reprise::simulate
