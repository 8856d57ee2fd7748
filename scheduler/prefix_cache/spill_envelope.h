// A state as it lies in a shared store.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_SPILL_ENVELOPE_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_SPILL_ENVELOPE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "scheduler/prefix_cache/prefix_spill.h"

namespace reprise::scheduler {

// Magic and version (8 bytes), the path's digest (32), the image's length (8, little-endian), the
// image, and XXH3 over all of that (8). The digest binds it to tenant, weights, layout, numerics
// and tokens. Frozen.
std::string SealImage(const Sha256Digest& digest, const StateImage& image);
// DATA_LOSS unless every byte is what SealImage wrote for that digest.
absl::StatusOr<StateImage> OpenImage(const Sha256Digest& digest, std::string_view sealed);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_SPILL_ENVELOPE_H_
