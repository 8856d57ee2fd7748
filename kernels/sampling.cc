#include "kernels/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::kernels {
namespace {

constexpr int kMaxTopLogprobs = 20;

absl::Status CheckRange(const char* field, float value, float low, float high, bool open_low) {
  const bool inside = (open_low ? value > low : value >= low) && value <= high;
  if (inside) return absl::OkStatus();  // NaN is never inside
  return absl::InvalidArgumentError(absl::StrCat(
      field, ": expected a number in ", open_low ? "(" : "[", low, ", ", high, "], found ", value));
}

// One round pair of Philox4x32 with its key schedule, Salmon et al. 2011, section 3.3.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMul0 = 0xD2511F53, kMul1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kMul0 * counter[0], p1 = kMul1 * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

struct Candidate {
  float logit;
  int32_t id;
};

// The order of every ranking: higher logit first, lower id first among equals.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Id of the highest logit, or an error when the row cannot be trusted.
absl::StatusOr<int32_t> CheckedArgmax(absl::Span<const float> logits) {
  int32_t best = -1;
  float best_logit = -std::numeric_limits<float>::infinity();
  bool sound = true;
  for (size_t i = 0; i < logits.size(); ++i) {
    sound &= logits[i] < std::numeric_limits<float>::infinity();  // false for NaN and +inf
    if (logits[i] > best_logit) {
      best_logit = logits[i];
      best = static_cast<int32_t>(i);
    }
  }
  if (!sound || best < 0) return absl::InternalError("logits: NaN, infinite or none finite");
  return best;
}

// ln sum exp(logits), in double and in order of ids.
double LogSumExp(absl::Span<const float> logits, float max_logit) {
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - max_logit);
  return max_logit + std::log(sum);
}

void FillLogprobs(absl::Span<const float> logits, float max_logit, int top, SampledToken& token) {
  const double normalizer = LogSumExp(logits, max_logit);
  token.logprob = static_cast<float>(logits[token.id] - normalizer);
  top = std::min<int>(top, static_cast<int>(logits.size()));
  if (top <= 0) return;
  // A heap of the best `top` so far, its worst on top.
  std::vector<Candidate> best;
  best.reserve(top);
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate{logits[i], static_cast<int32_t>(i)};
    if (static_cast<int>(best.size()) < top) {
      best.push_back(candidate);
      std::push_heap(best.begin(), best.end(), Before);
    } else if (Before(candidate, best.front())) {
      std::pop_heap(best.begin(), best.end(), Before);
      best.back() = candidate;
      std::push_heap(best.begin(), best.end(), Before);
    }
  }
  std::sort_heap(best.begin(), best.end(), Before);
  for (const Candidate& candidate : best) {
    token.top.push_back({candidate.id, static_cast<float>(candidate.logit - normalizer)});
  }
}

void ApplyBiasAndPenalties(const SampleRequest& request, absl::Span<float> logits) {
  const SamplingParams& params = *request.params;
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  for (const TokenCount& count : request.counts) {
    float& logit = logits[count.id];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count.in_answer > 0) {
      logit -= params.presence_penalty + params.frequency_penalty * count.in_answer;
    }
  }
}

// Keeps the first candidates, in rank order, that top_k, top_p and min_p leave; `weights` gets
// exp((logit - max) / temperature) of each. Ranks only as far as needed: a vocabulary is long and
// the kept set is usually short.
void Truncate(const SamplingParams& params, std::vector<Candidate>& candidates,
              std::vector<double>& weights) {
  const size_t vocab = candidates.size();
  const size_t top_k = params.top_k > 0 ? std::min<size_t>(params.top_k, vocab) : vocab;
  const double inverse_temperature = 1.0 / params.temperature;
  float max_logit = -std::numeric_limits<float>::infinity();
  for (const Candidate& c : candidates) max_logit = std::max(max_logit, c.logit);
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - max_logit) * inverse_temperature);
  };
  if (top_k < vocab) {
    std::nth_element(candidates.begin(), candidates.begin() + (top_k - 1), candidates.end(),
                     Before);
    candidates.resize(top_k);
  }
  double total = std::numeric_limits<double>::infinity();
  if (params.top_p < 1.0f) {
    // Summed in rank order of a fully determined set, so first put that set in a fixed order.
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
    total = 0.0;
    for (const Candidate& c : candidates) total += weight(c);
  }
  const double mass_wanted = params.top_p * total;
  size_t ranked = 0;
  double mass = 0.0;
  weights.clear();
  while (weights.size() < candidates.size()) {
    if (weights.size() == ranked) {
      ranked = std::min(candidates.size(), std::max<size_t>(256, ranked * 4));
      std::partial_sort(candidates.begin() + weights.size(), candidates.begin() + ranked,
                        candidates.end(), Before);
    }
    const double w = weight(candidates[weights.size()]);
    if (!weights.empty() && w < params.min_p) break;  // the first has weight 1
    weights.push_back(w);
    mass += w;
    if (mass >= mass_wanted) break;
  }
  candidates.resize(weights.size());
}

int32_t Draw(const SampleRequest& request, absl::Span<const float> logits) {
  const SamplingParams& params = *request.params;
  thread_local std::vector<Candidate> candidates;
  thread_local std::vector<double> weights;
  candidates.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates[i] = {logits[i], static_cast<int32_t>(i)};
  }
  if (params.top_k > 0 || params.top_p < 1.0f || params.min_p > 0.0f) {
    Truncate(params, candidates, weights);
  } else {
    float max_logit = -std::numeric_limits<float>::infinity();
    for (float logit : logits) max_logit = std::max(max_logit, logit);
    weights.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
      weights[i] = std::exp((static_cast<double>(logits[i]) - max_logit) / params.temperature);
    }
  }
  double total = 0.0;
  for (double w : weights) total += w;
  const double uniform =
      static_cast<double>(PhiloxDraw(params.seed, request.index, 0) >> 11) * 0x1.0p-53;
  const double target = uniform * total;
  double mass = 0.0;
  size_t last_possible = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0.0) continue;
    last_possible = i;
    mass += weights[i];
    if (mass > target) return candidates[i].id;
  }
  return candidates[last_possible].id;  // rounding left the target at the very end
}

}  // namespace

absl::Status ValidateSampling(const SamplingParams& params, int vocab_size) {
  RETURN_IF_ERROR(CheckRange("temperature", params.temperature, 0, 100, false));
  if (params.top_k < 0 || params.top_k > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k: expected 0..", vocab_size, ", found ", params.top_k));
  }
  RETURN_IF_ERROR(CheckRange("top_p", params.top_p, 0, 1, true));
  RETURN_IF_ERROR(CheckRange("min_p", params.min_p, 0, 1, false));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", params.repetition_penalty, 0, 10, true));
  RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty, -10, 10, false));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", params.frequency_penalty, -10, 10, false));
  std::vector<int32_t> ids;
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: expected token ids in 0..", vocab_size - 1, ", found ", id));
    }
    RETURN_IF_ERROR(CheckRange("logit_bias", bias, -1000, 1000, false));
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) {
    return absl::InvalidArgumentError("logit_bias: a token id occurs twice");
  }
  return absl::OkStatus();
}

absl::StatusOr<SampledToken> Sample(absl::Span<const float> logits, const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  ASSIGN_OR_RETURN(const int32_t raw_argmax, CheckedArgmax(logits));
  SampledToken token;
  token.id = raw_argmax;
  thread_local std::vector<float> adjusted;
  absl::Span<const float> effective = logits;
  if (!params.logit_bias.empty() || !request.counts.empty()) {
    adjusted.assign(logits.begin(), logits.end());
    ApplyBiasAndPenalties(request, absl::MakeSpan(adjusted));
    effective = adjusted;
    ASSIGN_OR_RETURN(token.id, CheckedArgmax(effective));
  }
  if (params.temperature > 0.0f) token.id = Draw(request, effective);
  if (request.want_logprob || request.top_logprobs > 0) {
    FillLogprobs(logits, logits[raw_argmax], std::min(request.top_logprobs, kMaxTopLogprobs),
                 token);
  }
  return token;
}

absl::StatusOr<SampledToken> Score(absl::Span<const float> logits, int32_t id, int top_logprobs) {
  if (id < 0 || id >= static_cast<int32_t>(logits.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("id: expected 0..", logits.size() - 1, ", found ", id));
  }
  ASSIGN_OR_RETURN(const int32_t argmax, CheckedArgmax(logits));
  SampledToken token;
  token.id = id;
  FillLogprobs(logits, logits[argmax], std::min(top_logprobs, kMaxTopLogprobs), token);
  return token;
}

uint64_t PhiloxDraw(uint64_t seed, uint64_t index, uint64_t stream) {
  const std::array<uint32_t, 4> block =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                  static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (static_cast<uint64_t>(block[1]) << 32) | block[0];
}

}  // namespace reprise::kernels
