// Where states go that the prefix cache has no room for.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_SPILL_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_SPILL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/hash.h"

namespace reprise::scheduler {

// The bytes of a state, shared and never changed.
using StateImage = std::shared_ptr<const std::vector<uint8_t>>;

// Names a state by what it has consumed: replicas that serve one model name it alike.
struct SpillKey {
  std::string tenant;     // of every key, so that tiers can keep tenants apart
  Sha256Digest digest{};  // over tenant, model, context, position and tokens

  bool operator==(const SpillKey&) const = default;
};

// A slower tier: host memory, a disk, a store that replicas share. Thread-safe. It may lose what it
// was given and has its own bounds and times; it must never give other bytes than were put.
class PrefixSpill {
 public:
  virtual ~PrefixSpill() = default;

  // Must not block; what cannot be taken is dropped.
  virtual void Put(const SpillKey& key, StateImage image) = 0;
  // `done` is called once, on any thread, maybe before Get returns: the image, NOT_FOUND, or what
  // went wrong. Must not block.
  virtual void Get(const SpillKey& key, std::function<void(absl::StatusOr<StateImage>)> done) = 0;
  // The state is of no use. Must not block.
  virtual void Erase(const SpillKey& key) = 0;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_SPILL_H_
