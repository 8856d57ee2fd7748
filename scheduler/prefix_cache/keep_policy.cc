#include "scheduler/prefix_cache/keep_policy.h"

#include <algorithm>

namespace reprise::scheduler {

std::vector<int64_t> PlanKeeps(const KeepInput& input, const KeepPolicy& policy) {
  std::vector<int64_t> keeps;
  const auto add = [&](int64_t length) {
    if (length > input.reused && length <= input.longest) keeps.push_back(length);
  };
  for (int64_t mark : input.marks) add(mark);
  const auto worth = [&](int64_t length) { return length - input.reused >= policy.min_tokens; };
  const int64_t branch = std::min(input.known, input.length - 1);
  if (worth(branch)) add(branch);
  if (input.length - input.reused > policy.long_prompt_tokens) {
    // A power of two: prompts of other lengths keep at the same places.
    int64_t stride = 1;
    while (stride < policy.long_prompt_tokens ||
           (input.length - 1) / stride - input.reused / stride > kMostLongKeeps) {
      stride *= 2;
    }
    for (int64_t at = (input.reused / stride + 1) * stride; at < input.length; at += stride) {
      if (worth(at)) add(at);
    }
  }
  if (worth(input.length)) add(input.length);
  std::sort(keeps.begin(), keeps.end());
  keeps.erase(std::unique(keeps.begin(), keeps.end()), keeps.end());
  return keeps;
}

}  // namespace reprise::scheduler
