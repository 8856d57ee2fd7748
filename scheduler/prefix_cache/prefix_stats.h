// What the prefix cache counts, and its words for why nothing was reused.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_STATS_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_STATS_H_

#include <array>
#include <cstdint>

namespace reprise::scheduler {

// Why no longer prefix was reused. The names are part of the public contract.
enum class PrefixMiss : uint8_t {
  kNone,         // the longest that was ever kept
  kNoEntry,      // no state was kept along this prompt
  kEvicted,      // one was, and had to make room
  kExpired,      // one was, and nobody used it for too long
  kFingerprint,  // one is, of another model, layout or numerics
  kTenant,       // the tenant has no cache
  kDisabled,     // there is no cache, or the request did not want it
  kEveryRow,     // the request wants a score of every prompt token
};
inline constexpr int kNumPrefixMisses = 8;

// "" for kNone, else "no_entry", "evicted", ...
const char* PrefixMissName(PrefixMiss miss);

struct PrefixCacheStats {
  // Gauges. bytes: of images and of the paths that lead to them; path_bytes is part of it.
  int64_t entries = 0, bytes = 0, path_bytes = 0;
  // Counters. lookup_tokens: of the prompts that were looked up.
  int64_t lookup_tokens = 0;
  int64_t hits = 0, hit_tokens = 0;
  std::array<int64_t, kNumPrefixMisses> misses{};  // lookups that reused nothing, by reason
  int64_t inserts = 0, refusals = 0;               // a refused state found no room
  int64_t evictions = 0, expirations = 0;
  int64_t spilled = 0, spill_hits = 0, spill_misses = 0;

  PrefixCacheStats& operator+=(const PrefixCacheStats& other);
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_STATS_H_
