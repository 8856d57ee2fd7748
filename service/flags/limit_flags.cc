#include <limits>

#include "absl/strings/str_cat.h"
#include "service/flags/setters.h"
#include "service/flags/tables.h"

namespace reprise::service {

std::vector<FlagSpec> LimitFlags() {
  using O = ServerOptions;
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  return {
      {"max-prompt-tokens", "1048576", "an integer from 1 to 2147483647",
       "longest prompt of one request", false,
       Integer(&O::limits, &RequestLimits::max_prompt_tokens, 1, kMaxInt32)},
      {"max-tokens", "65536", "an integer from 1 to 2147483647", "most tokens of one answer", false,
       Integer(&O::limits, &RequestLimits::max_tokens, 1, kMaxInt32)},
      {"default-max-tokens", "1024", "an integer from 1 to --max-tokens",
       "tokens of an answer whose request does not say", false,
       Integer(&O::limits, &RequestLimits::default_max_tokens, 1, kMaxInt32)},
      {"session-ttl", "0", "seconds from 0 to 3153600000",
       "how long a session lives unused if its creator does not say; 0 = for ever", false,
       Seconds(&O::limits, &RequestLimits::default_session_ttl, 3153600000.0, true)},
      {"max-unwritten-tokens", "64", "an integer from 1 to 65536",
       "tokens that wait for a slow reader before its sequence pauses", false,
       Integer(&O::limits, &RequestLimits::max_unwritten_tokens, 1, 65536)},
      {"stall-seconds", "300", "a number from 0 to 86400, 0 = for ever",
       "how long a sequence waits for a client that does not read before it is cancelled", false,
       Seconds(&O::limits, &RequestLimits::stall, 86400, true)},
  };
}

absl::Status CheckLimits(const RequestLimits& limits) {
  if (limits.default_max_tokens > limits.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--default-max-tokens: ", limits.default_max_tokens,
                     " is not allowed; allowed: at most --max-tokens (", limits.max_tokens, ")"));
  }
  return absl::OkStatus();
}

}  // namespace reprise::service
