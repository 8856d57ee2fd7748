// Choosing the next token from a row of logits.
#ifndef REPRISE_KERNELS_SAMPLING_H_
#define REPRISE_KERNELS_SAMPLING_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace reprise::kernels {

// How one sequence chooses its tokens. The default is greedy. Steps, in this order: logit_bias,
// penalties, temperature, top_k, top_p, min_p, one draw.
struct SamplingParams {
  float temperature = 0.0f;         // [0, 100]; 0 = greedy: highest logit, lowest id among equals
  int32_t top_k = 0;                // >= 0; 0 = all
  float top_p = 1.0f;               // (0, 1]; 1 = all
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // (0, 10]; Keskar et al. 2019, section 4.1
  float presence_penalty = 0.0f;    // [-10, 10]
  float frequency_penalty = 0.0f;   // [-10, 10]
  std::vector<std::pair<int32_t, float>> logit_bias;  // unique ids, values in [-1000, 1000]
  uint64_t seed = 0;
};

// INVALID_ARGUMENT that names the field, its legal range and the value found (NaN is never legal).
absl::Status ValidateSampling(const SamplingParams& params, int vocab_size);

// Whether a token occurred in the prompt, and how often in the answer.
struct TokenCount {
  int32_t id = 0;
  int32_t in_answer = 0;  // 0: in the prompt only
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;  // natural logarithm, of the model's own distribution
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0.0f;           // meaningful if logprobs were asked for
  std::vector<TokenLogprob> top;  // best first, lowest id first among equals
};

struct SampleRequest {
  const SamplingParams* params = nullptr;
  absl::Span<const TokenCount> counts;  // unique ids; may be empty when no penalty is set
  // The token's absolute index in its sequence: the draw is a pure function of (seed, index), so a
  // resumed sequence draws as the uninterrupted one (Philox4x32-10, Salmon et al. 2011).
  uint64_t index = 0;
  bool want_logprob = false;
  int top_logprobs = 0;  // 0..20; implies want_logprob
};

// Draws one token from `logits` [vocab], which are left as they were. The result depends on nothing
// else. INTERNAL when a logit is NaN or none is finite: the caller must not store the state.
absl::StatusOr<SampledToken> Sample(absl::Span<const float> logits, const SampleRequest& request);

// Log-probability of `id` and the top n under softmax(logits). INTERNAL as above.
absl::StatusOr<SampledToken> Score(absl::Span<const float> logits, int32_t id, int top_logprobs);

// One 64-bit draw of the counter-based generator: counter (index, stream), key seed.
uint64_t PhiloxDraw(uint64_t seed, uint64_t index, uint64_t stream);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_SAMPLING_H_
