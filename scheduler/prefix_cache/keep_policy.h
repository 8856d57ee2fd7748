// Where along a prompt states are kept for the prefix cache.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_KEEP_POLICY_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_KEEP_POLICY_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace reprise::scheduler {

struct KeepPolicy {
  // A state is kept by itself only if it saves at least this many tokens; marks are always kept.
  // >= 1.
  int64_t min_tokens = 32;
  // A prompt with more than this many tokens to compute keeps up to kMostLongKeeps states on its
  // way, at multiples of a power of two that is at least this. >= 1.
  int64_t long_prompt_tokens = 4096;
};
inline constexpr int kMostLongKeeps = 4;

// A prompt about to be computed. Lengths count from the beginning of the path.
struct KeepInput {
  int64_t reused = 0;   // tokens that it starts with
  int64_t known = 0;    // that it has in common with an earlier prompt
  int64_t length = 0;   // of the whole prompt
  int64_t longest = 0;  // beyond this no state comes by before the prompt has ended
  absl::Span<const int64_t> marks;
};

// Ascending, each in reused + 1 .. longest; a chunk has to end at each. They are the caller's
// marks, the point where the prompt parts from an earlier one (or the last token but one of a
// prompt that was seen before, since the last one has to be computed), steps along a long prompt,
// and its end.
std::vector<int64_t> PlanKeeps(const KeepInput& input, const KeepPolicy& policy);

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_KEEP_POLICY_H_
