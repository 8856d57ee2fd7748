// Where states go that the prefix cache has no room for.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_SPILL_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_SPILL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/bytes.h"
#include "base/hash.h"

namespace reprise::scheduler {

// The bytes of a state, shared and never changed.
using StateImage = std::shared_ptr<const Bytes>;

// A state by what it has consumed.
struct SpillPath {
  std::string tenant;
  std::string root;  // names model and context
  std::vector<int32_t> tokens;
};

// Over all of the path. Frozen: replicas that serve one model find each other's states by it.
Sha256Digest SpillDigest(const std::string& tenant, const std::string& root,
                         absl::Span<const int32_t> tokens);

// A slower tier: host memory, a store that replicas share. Thread-safe. It may lose what it was
// given and has its own bounds and times; it must never give other bytes than were put. No call may
// block; each `done` is called once, on any thread, maybe before the call returns.
class PrefixSpill {
 public:
  struct Found {
    int64_t tokens = 0;  // of the path that the image has consumed
    StateImage image;
  };

  virtual ~PrefixSpill() = default;

  // A state that the cache has no room for. What cannot be taken is dropped.
  virtual void Put(SpillPath path, StateImage image) = 0;
  // The image, NOT_FOUND, or what went wrong.
  virtual void Get(SpillPath path, std::function<void(absl::StatusOr<StateImage>)> done) = 0;
  // The state is of no use, here or to anybody.
  virtual void Erase(SpillPath path) = 0;

  // Whether other replicas find what this one shares. Constant.
  virtual bool shares() const { return false; }
  // A state that the cache keeps, for other replicas.
  virtual void Share(SpillPath /*path*/, StateImage /*image*/) {}
  // The longest state along the path, whoever left it, of more than `beyond` tokens; `known` (0 =
  // none) is a length whose state Put was given. NOT_FOUND, or what went wrong.
  virtual void Find(SpillPath path, int64_t beyond, int64_t known,
                    std::function<void(absl::StatusOr<Found>)> done);
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_SPILL_H_
