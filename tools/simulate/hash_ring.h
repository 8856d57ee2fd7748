// The front: which replica serves a key.
#ifndef REPRISE_TOOLS_SIMULATE_HASH_RING_H_
#define REPRISE_TOOLS_SIMULATE_HASH_RING_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace reprise::simulate {

// Consistent hashing with virtual nodes (Karger et al. 1997): a replica that comes or goes moves
// only the keys of its own arcs. With bounded loads (Mirrokni et al. 2016) a key whose replica is
// full goes on to the next one on the ring that is not.
class HashRing {
 public:
  HashRing(int replicas, int virtual_nodes, uint64_t seed);

  void Add(int replica);
  void Remove(int replica);
  bool Has(int replica) const { return present_[replica]; }
  int size() const { return size_; }  // replicas present

  // -1 on an empty ring.
  int Route(uint64_t key) const;
  // `loads` by replica, `total` their sum over those present. No replica is chosen that holds
  // ceil(bound * (total + 1) / size) or more; bound >= 1, so that there always is one.
  int RouteBounded(uint64_t key, absl::Span<const int32_t> loads, int64_t total,
                   double bound) const;

 private:
  struct Point {
    uint64_t hash;
    int32_t replica;
  };
  size_t First(uint64_t key) const;

  std::vector<Point> points_;  // all replicas', sorted
  std::vector<bool> present_;
  int size_;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_HASH_RING_H_
