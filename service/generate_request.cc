#include "service/generate_request.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "models/tokenizer/utf8.h"
#include "service/errors.h"
#include "service/resource_names.h"
#include "service/turn_progress.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxModelName = 128;
constexpr size_t kMaxRequestId = 128;
constexpr int kMaxStopStrings = 16;
constexpr int32_t kMaxCheckpointTokens = 1'000'000;
constexpr size_t kMaxStopStringBytes = 256;
constexpr int kMaxStopTokens = 64;
constexpr int kMaxBiases = 1024;
constexpr float kMaxBias = 1000.0f;
constexpr int kMaxTopLogprobs = 20;
constexpr int64_t kMaxPromptLogprobEntries = 65536;
constexpr int kMaxCacheMarks = 8;
constexpr int kMaxChoices = scheduler::kMostForks + 1;
// Tokens, and alternatives to tokens, of answers that wait to be ranked.
constexpr int64_t kMaxHeldEntries = 262144;

// NaN is in no range.
void CheckRange(const char* field, float value, float min, float max, FieldViolations* violations) {
  if (value >= min && value <= max) return;
  violations->Add(field, absl::StrCat("must be between ", min, " and ", max, ", is ", value));
}

void CheckPositive(const char* field, float value, float max, FieldViolations* violations) {
  if (value > 0 && value <= max) return;
  violations->Add(field, absl::StrCat("must be above 0 and at most ", max, ", is ", value));
}

void CheckCount(const char* field, int count, int max, FieldViolations* violations) {
  if (count > max) {
    violations->Add(field, absl::StrCat("must have at most ", max, " entries, has ", count));
  }
}

void CheckDurability(const v1::GenerateRequest& request, const RequestLimits& limits,
                     FieldViolations* violations) {
  const bool checkpoints = request.durability() == v1::DURABILITY_EVERY_N_TOKENS;
  if (request.has_sync_replicas()) {
    if (request.sync_replicas() < 0 || request.sync_replicas() > limits.max_sync_replicas) {
      violations->Add("sync_replicas",
                      absl::StrCat("must be between 0 and ", limits.max_sync_replicas,
                                   " with this server's store, is ", request.sync_replicas()));
    } else if (request.durability() != v1::DURABILITY_SYNC && !checkpoints) {
      violations->Add("sync_replicas", "needs durability SYNC or EVERY_N_TOKENS");
    }
  }
  if (!checkpoints) {
    if (request.checkpoint_tokens() != 0) {
      violations->Add("checkpoint_tokens", "needs durability EVERY_N_TOKENS");
    }
    return;
  }
  if (request.checkpoint_tokens() < 0 || request.checkpoint_tokens() > kMaxCheckpointTokens) {
    violations->Add("checkpoint_tokens",
                    absl::StrCat("must be between 0 and ", kMaxCheckpointTokens, ", is ",
                                 request.checkpoint_tokens()));
  }
  if (request.session().empty()) {
    violations->Add("session", "must be set with durability EVERY_N_TOKENS");
  }
  if (request.request_id().empty()) {
    violations->Add("request_id",
                    "must be set with durability EVERY_N_TOKENS: a repeat is known "
                    "by it");
  }
  if (request.output().prompt_logprobs()) {
    violations->Add("output.prompt_logprobs", "must not be set with durability EVERY_N_TOKENS");
  }
  if (request.stop().max_tokens() > kMaxCheckpointedTokens) {
    violations->Add("stop.max_tokens", absl::StrCat("must be at most ", kMaxCheckpointedTokens,
                                                    " with durability EVERY_N_TOKENS"));
  }
}

void CheckChoices(const v1::GenerateRequest& request, const RequestLimits& limits,
                  FieldViolations* violations) {
  const int n = std::max(request.n(), 1);
  if (request.n() < 0 || request.n() > kMaxChoices) {
    violations->Add("n", absl::StrCat("must be between 0 and ", kMaxChoices, ", is ", request.n()));
    return;
  }
  if (request.best_of() != 0 && (request.best_of() < n || request.best_of() > kMaxChoices)) {
    violations->Add("best_of", absl::StrCat("must be 0, or between n (", n, ") and ", kMaxChoices,
                                            ", is ", request.best_of()));
    return;
  }
  const char* field = request.best_of() > n ? "best_of" : "n";
  const int choices = std::max(n, request.best_of());
  if (choices == 1) return;
  const v1::StopConditions& stop = request.stop();
  const int64_t tokens = stop.has_max_tokens() ? stop.max_tokens() : limits.default_max_tokens;
  if (tokens == 0) {
    violations->Add(field, "must not be above 1 when max_tokens is 0: there is nothing to choose");
  }
  if (request.durability() == v1::DURABILITY_EVERY_N_TOKENS) {
    violations->Add(field,
                    "must not be above 1 with durability EVERY_N_TOKENS: a checkpoint is of one "
                    "answer");
  }
  const int64_t entries = tokens * (1 + request.output().top_logprobs()) * request.best_of();
  if (entries > kMaxHeldEntries) {
    violations->Add("best_of",
                    absl::StrCat("best_of * max_tokens * (1 + top_logprobs) must be at most ",
                                 kMaxHeldEntries, ", is ", entries));
  }
}

void CheckKeepPartial(const v1::GenerateRequest& request, FieldViolations* violations) {
  if (!request.keep_partial()) return;
  if (request.session().empty()) violations->Add("keep_partial", "needs a session");
  if (request.request_id().empty()) {
    violations->Add("keep_partial", "needs a request_id: a repeat is known by it");
  }
  if (request.output().prompt_logprobs()) {
    violations->Add("keep_partial", "must not be set with output.prompt_logprobs");
  }
}

void CheckSampling(const v1::SamplingParams& sampling, FieldViolations* violations) {
  CheckRange("sampling.temperature", sampling.temperature(), 0, 100, violations);
  if (sampling.top_k() < 0) {
    violations->Add("sampling.top_k", absl::StrCat("must be >= 0, is ", sampling.top_k()));
  }
  if (sampling.has_top_p()) CheckPositive("sampling.top_p", sampling.top_p(), 1, violations);
  CheckRange("sampling.min_p", sampling.min_p(), 0, 1, violations);
  if (sampling.has_repetition_penalty()) {
    CheckPositive("sampling.repetition_penalty", sampling.repetition_penalty(), 10, violations);
  }
  CheckRange("sampling.presence_penalty", sampling.presence_penalty(), -10, 10, violations);
  CheckRange("sampling.frequency_penalty", sampling.frequency_penalty(), -10, 10, violations);
  CheckCount("sampling.logit_bias", sampling.logit_bias_size(), kMaxBiases, violations);
  for (const auto& [id, bias] : sampling.logit_bias()) {
    if (!(bias >= -kMaxBias && bias <= kMaxBias)) {
      violations->Add(absl::StrCat("sampling.logit_bias[", id, "]"),
                      absl::StrCat("must be between -1000 and 1000, is ", bias));
    }
  }
}

void CheckStop(const v1::StopConditions& stop, const RequestLimits& limits,
               FieldViolations* violations) {
  if (stop.has_max_tokens() && (stop.max_tokens() < 0 || stop.max_tokens() > limits.max_tokens)) {
    violations->Add("stop.max_tokens", absl::StrCat("must be between 0 and ", limits.max_tokens,
                                                    ", is ", stop.max_tokens()));
  }
  CheckCount("stop.stop_strings", stop.stop_strings_size(), kMaxStopStrings, violations);
  for (int i = 0; i < std::min(stop.stop_strings_size(), kMaxStopStrings); ++i) {
    const std::string& text = stop.stop_strings(i);
    if (text.empty() || text.size() > kMaxStopStringBytes || !models::IsValidUtf8(text)) {
      violations->Add(absl::StrCat("stop.stop_strings[", i, "]"),
                      absl::StrCat("must be 1 to ", kMaxStopStringBytes, " bytes of UTF-8"));
    }
  }
  CheckCount("stop.stop_tokens", stop.stop_tokens_size(), kMaxStopTokens, violations);
}

void CheckOutput(const v1::OutputOptions& output, FieldViolations* violations) {
  if (output.top_logprobs() < 0 || output.top_logprobs() > kMaxTopLogprobs) {
    violations->Add("output.top_logprobs", absl::StrCat("must be between 0 and ", kMaxTopLogprobs,
                                                        ", is ", output.top_logprobs()));
  }
}

void CheckMarks(const v1::GenerateRequest& request, FieldViolations* violations) {
  CheckCount("cache_marks", request.cache_marks_size(), kMaxCacheMarks, violations);
  const auto length = static_cast<int64_t>(request.has_tokens() ? request.tokens().ids_size()
                                                                : request.text().size());
  for (int i = 0; i < std::min(request.cache_marks_size(), kMaxCacheMarks); ++i) {
    const int64_t mark = request.cache_marks(i);
    if (mark < 1 || mark > length) {
      violations->Add(
          absl::StrCat("cache_marks[", i, "]"),
          absl::StrCat("must be between 1 and the prompt's length of ", length, ", is ", mark));
    }
  }
}

void CheckId(const std::string& field, int32_t id, int vocab_size, FieldViolations* violations) {
  if (id >= 0 && id < vocab_size) return;
  violations->Add(field,
                  absl::StrCat("must be a token id from 0 to ", vocab_size - 1, ", is ", id));
}

}  // namespace

absl::Status CheckFields(const v1::GenerateRequest& request, const RequestLimits& limits) {
  FieldViolations violations;
  if (request.model().size() > kMaxModelName) {
    violations.Add("model", absl::StrCat("must be at most ", kMaxModelName, " bytes"));
  }
  if (request.session().empty()) {
    if (request.session_version() != 0) {
      violations.Add("session_version", "must be 0 without a session");
    }
  } else if (!ParseSessionName(request.session(), "session").ok()) {
    violations.Add("session", "must be \"sessions/{id}\"");
  }
  if (request.request_id().size() > kMaxRequestId) {
    violations.Add("request_id", absl::StrCat("must be at most ", kMaxRequestId, " bytes"));
  }
  if (request.has_add_bos() && request.add_bos() && request.has_tokens()) {
    violations.Add("add_bos", "must not be set with tokens, which are used as they are");
  }
  if (!v1::Durability_IsValid(request.durability())) {
    violations.Add("durability", absl::StrCat("has no value ", request.durability()));
  }
  if (!v1::Priority_IsValid(request.priority())) {
    violations.Add("priority", absl::StrCat("has no value ", request.priority()));
  }
  CheckDurability(request, limits, &violations);
  CheckChoices(request, limits, &violations);
  CheckKeepPartial(request, &violations);
  CheckSampling(request.sampling(), &violations);
  CheckStop(request.stop(), limits, &violations);
  CheckOutput(request.output(), &violations);
  CheckMarks(request, &violations);
  return violations.ToStatus();
}

absl::Status CheckVocabulary(const v1::GenerateRequest& request, const ServedModel& model) {
  const int vocab_size = model.vocab_size();
  FieldViolations violations;
  if (request.sampling().top_k() > vocab_size) {
    violations.Add("sampling.top_k",
                   absl::StrCat("must be at most the vocabulary's size ", vocab_size));
  }
  for (const auto& [id, bias] : request.sampling().logit_bias()) {
    CheckId(absl::StrCat("sampling.logit_bias[", id, "]"), id, vocab_size, &violations);
  }
  for (int i = 0; i < request.stop().stop_tokens_size(); ++i) {
    CheckId(absl::StrCat("stop.stop_tokens[", i, "]"), request.stop().stop_tokens(i), vocab_size,
            &violations);
  }
  // The first wrong one says enough: there may be millions.
  for (int i = 0; i < request.tokens().ids_size() && violations.empty(); ++i) {
    CheckId(absl::StrCat("tokens.ids[", i, "]"), request.tokens().ids(i), vocab_size, &violations);
  }
  if (model.tokenizer == nullptr && request.stop().stop_strings_size() > 0) {
    violations.Add("stop.stop_strings", "the model has no tokenizer");
  }
  return violations.ToStatus();
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const v1::GenerateRequest& request,
                                                  const ServedModel& model,
                                                  const RequestLimits& limits, bool continues) {
  std::vector<int32_t> prompt;
  if (request.has_tokens()) {
    prompt.assign(request.tokens().ids().begin(), request.tokens().ids().end());
  } else if (request.has_text()) {
    if (model.tokenizer == nullptr) {
      return FieldError("text", "the model has no tokenizer: send token ids");
    }
    const std::string& text = request.text();
    if (const size_t bad = models::FindInvalidUtf8(text); bad != std::string::npos) {
      return MakeError(v1::ERROR_REASON_INVALID_UTF8, absl::StrCat("text: not UTF-8 at byte ", bad),
                       {{"field", "text"}, {"offset", absl::StrCat(bad)}});
    }
    models::EncodeOptions options;
    options.add_bos = request.has_add_bos() ? request.add_bos() : !continues && !text.empty();
    if (!text.empty() || options.add_bos) {
      ASSIGN_OR_RETURN(prompt, model.tokenizer->Encode(text, options));
    }
  }
  const auto tokens = static_cast<int64_t>(prompt.size());
  if (tokens > limits.max_prompt_tokens) {
    return MakeError(
        v1::ERROR_REASON_PROMPT_TOO_LONG,
        absl::StrCat("the prompt has ", tokens, " tokens; at most ", limits.max_prompt_tokens,
                     " are accepted"),
        {{"tokens", absl::StrCat(tokens)}, {"limit", absl::StrCat(limits.max_prompt_tokens)}});
  }
  if (request.output().prompt_logprobs() &&
      tokens * (1 + request.output().top_logprobs()) > kMaxPromptLogprobEntries) {
    return FieldError("output.prompt_logprobs",
                      absl::StrCat("prompt tokens * (1 + top_logprobs) must be at most ",
                                   kMaxPromptLogprobEntries));
  }
  if (prompt.empty() && !continues) {
    return MakeError(v1::ERROR_REASON_EMPTY_SEQUENCE,
                     "an empty prompt can only continue a session that has tokens");
  }
  return prompt;
}

absl::StatusOr<std::vector<int64_t>> CacheMarks(const v1::GenerateRequest& request,
                                                const ServedModel& model,
                                                const RequestLimits& limits, bool continues,
                                                const std::vector<int32_t>& prompt) {
  std::vector<int64_t> marks;
  for (int i = 0; i < request.cache_marks_size(); ++i) {
    int64_t mark = request.cache_marks(i);
    if (request.has_text()) {
      v1::GenerateRequest beginning;
      beginning.set_text(request.text().substr(0, static_cast<size_t>(mark)));
      if (request.has_add_bos()) beginning.set_add_bos(request.add_bos());
      const auto tokens = EncodePrompt(beginning, model, limits, continues);
      if (!tokens.ok()) {
        return FieldError(absl::StrCat("cache_marks[", i, "]"), "must not be within a character");
      }
      // The text after it may have joined its last tokens.
      mark = std::mismatch(tokens->begin(), tokens->end(), prompt.begin(), prompt.end()).first -
             tokens->begin();
    }
    if (mark > 0) marks.push_back(mark);
  }
  return marks;
}

bool WantsLogprobs(const v1::OutputOptions& output) {
  return output.logprobs() || output.top_logprobs() > 0;
}

kernels::SamplingParams ToSampling(const v1::SamplingParams& sampling, uint64_t seed) {
  kernels::SamplingParams params;
  params.temperature = sampling.temperature();
  params.top_k = sampling.top_k();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  params.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty()) params.repetition_penalty = sampling.repetition_penalty();
  params.presence_penalty = sampling.presence_penalty();
  params.frequency_penalty = sampling.frequency_penalty();
  params.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());
  // A map has no order of its own; the result must not depend on it.
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.seed = seed;
  return params;
}

scheduler::Priority ToPriority(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_LOW:
      return scheduler::Priority::kLow;
    case v1::PRIORITY_HIGH:
      return scheduler::Priority::kHigh;
    default:
      return scheduler::Priority::kNormal;
  }
}

std::vector<int32_t> StopTokens(const v1::StopConditions& stop, const ServedModel& model) {
  std::set<int32_t> ids(stop.stop_tokens().begin(), stop.stop_tokens().end());
  if (!stop.ignore_eos() && model.tokenizer != nullptr && model.tokenizer->eos_id().has_value()) {
    ids.insert(*model.tokenizer->eos_id());
  }
  return {ids.begin(), ids.end()};
}

}  // namespace reprise::service
