// A GenerateRequest, checked field by field and translated into the scheduler's terms.
#ifndef REPRISE_SERVICE_GENERATE_REQUEST_H_
#define REPRISE_SERVICE_GENERATE_REQUEST_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/sampling.h"
#include "reprise/v1/generation.pb.h"
#include "scheduler/request.h"
#include "service/served_model.h"
#include "service/server_options.h"

namespace reprise::service {

// Everything that can be checked without a model; one status names every violation.
absl::Status CheckFields(const v1::GenerateRequest& request, const RequestLimits& limits);

// Token ids against the model's vocabulary.
absl::Status CheckVocabulary(const v1::GenerateRequest& request, const ServedModel& model);

// The prompt as tokens. `continues`: the session has tokens already. PROMPT_TOO_LONG,
// EMPTY_SEQUENCE, INVALID_UTF8, or INVALID_FIELD for text without a tokenizer.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const v1::GenerateRequest& request,
                                                  const ServedModel& model,
                                                  const RequestLimits& limits, bool continues);

// The marks of a request as numbers of `prompt`'s tokens, which EncodePrompt made of it. FieldError
// for a mark within a character.
absl::StatusOr<std::vector<int64_t>> CacheMarks(const v1::GenerateRequest& request,
                                                const ServedModel& model,
                                                const RequestLimits& limits, bool continues,
                                                const std::vector<int32_t>& prompt);

// Whether events carry log-probabilities.
bool WantsLogprobs(const v1::OutputOptions& output);

// Of a checked request.
kernels::SamplingParams ToSampling(const v1::SamplingParams& sampling, uint64_t seed);
scheduler::Priority ToPriority(v1::Priority priority);
std::vector<int32_t> StopTokens(const v1::StopConditions& stop, const ServedModel& model);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_GENERATE_REQUEST_H_
