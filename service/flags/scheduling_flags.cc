#include <algorithm>
#include <cctype>
#include <limits>

#include "absl/strings/str_cat.h"
#include "service/flags/setters.h"
#include "service/flags/tables.h"

namespace reprise::service {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
constexpr size_t kMaxTenantName = 128;

// NAME=WEIGHT. The last '=' divides: names may have one.
absl::Status SetTenantWeight(const std::string& text, ServerOptions* options) {
  const size_t equals = text.rfind('=');
  double weight;
  if (equals == std::string::npos || equals == 0 || equals > kMaxTenantName ||
      !absl::SimpleAtod(text.substr(equals + 1), &weight) || !(weight >= 0.001 && weight <= 1000)) {
    return NotAllowed();
  }
  const std::string name = text.substr(0, equals);
  const bool printable = std::all_of(
      name.begin(), name.end(), [](char c) { return std::isgraph(static_cast<unsigned char>(c)); });
  if (!printable || !options->compute.tenant_weights.emplace(name, weight).second) {
    return NotAllowed();
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<FlagSpec> SchedulingFlags() {
  using O = ServerOptions;
  using C = ComputeSettings;
  return {
      {"max-queued", "1024", "an integer from 1 to 1000000",
       "requests that may wait for a slot, per model; more are refused", false,
       Integer(&O::compute, &C::max_queued, 1, 1000000)},
      {"max-queued-per-tenant", "auto", "auto or an integer from 1 to 1000000",
       "of these, requests of one tenant; auto is all of them", false,
       IntegerOrAuto(&O::compute, &C::max_queued_per_tenant, 1000000)},
      {"tenant-weight", "", "NAME=WEIGHT, a weight from 0.001 to 1000, each name once",
       "a tenant's share of slots and prompt rows relative to others'; who is not named has 1; a "
       "weight in --tenants-file goes before it",
       true, SetTenantWeight},
      {"max-wait-seconds", "10", "a number from 0 to 3600",
       "who has waited this long for a slot is overdue, and goes before higher priorities for a "
       "quarter of the slots' time",
       false, SecondsFrom(&O::compute, &C::max_wait, 0, 3600)},
      {"time-slice-seconds", "1", "a number from 0 to 3600",
       "how long a sequence has its slot before one of another tenant may take it", false,
       SecondsFrom(&O::compute, &C::time_slice, 0, 3600)},
      {"max-request-bytes", "4294967296", "an integer >= 1",
       "host memory that all requests of a model together may come to need; more are refused",
       false, Integer(&O::compute, &C::max_request_bytes, 1, kMaxInt64)},
      {"max-parked-bytes", "1073741824", "an integer >= 0",
       "host memory for states of sequences that gave up their slot, per model; 0 = none gives it "
       "up",
       false, Integer(&O::compute, &C::max_parked_bytes, 0, kMaxInt64)},
      {"step-logit-rows", "auto", "auto or an integer from 1 to 65536, at most --step-tokens",
       "rows of one step whose logits are kept, 4 bytes a token of the vocabulary each; auto is "
       "--slots, at least 64",
       false, IntegerOrAuto(&O::compute, &C::step_logit_rows, 65536)},
      {"prefix-cache-bytes", "268435456", "an integer >= 0",
       "states of prompts that are kept for later ones that begin alike, per model; 0 = none",
       false, Integer(&O::compute, &C::prefix_cache_bytes, 0, kMaxInt64)},
      {"prefix-cache-tenant-bytes", "auto", "auto or an integer >= 0",
       "of these, states of one tenant; 0 = none, auto is all of them", false,
       BytesOrAuto(&O::compute, &C::prefix_cache_tenant_bytes)},
      {"prefix-cache-ttl-seconds", "3600", "a number from 0.001 to 31536000",
       "how long a state of a prompt is kept that nobody uses", false,
       SecondsFrom(&O::compute, &C::prefix_cache_ttl, 0.001, 31536000)},
  };
}

}  // namespace reprise::service
