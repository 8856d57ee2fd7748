#include "scheduler/prefix_cache/prefix_stats.h"

namespace reprise::scheduler {

const char* PrefixMissName(PrefixMiss miss) {
  switch (miss) {
    case PrefixMiss::kNone:
      return "";
    case PrefixMiss::kNoEntry:
      return "no_entry";
    case PrefixMiss::kEvicted:
      return "evicted";
    case PrefixMiss::kExpired:
      return "expired";
    case PrefixMiss::kFingerprint:
      return "fingerprint";
    case PrefixMiss::kTenant:
      return "tenant";
    case PrefixMiss::kDisabled:
      return "disabled";
    case PrefixMiss::kEveryRow:
      return "prompt_logprobs";
  }
  return "unknown";
}

PrefixCacheStats& PrefixCacheStats::operator+=(const PrefixCacheStats& other) {
  entries += other.entries;
  bytes += other.bytes;
  path_bytes += other.path_bytes;
  lookup_tokens += other.lookup_tokens;
  hits += other.hits;
  hit_tokens += other.hit_tokens;
  for (int i = 0; i < kNumPrefixMisses; ++i) misses[i] += other.misses[i];
  inserts += other.inserts;
  refusals += other.refusals;
  evictions += other.evictions;
  expirations += other.expirations;
  spilled += other.spilled;
  spill_hits += other.spill_hits;
  spill_misses += other.spill_misses;
  return *this;
}

}  // namespace reprise::scheduler
