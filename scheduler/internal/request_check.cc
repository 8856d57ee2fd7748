#include "scheduler/internal/request_check.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace reprise::scheduler {
namespace {

absl::Status CheckTokens(const char* field, absl::Span<const int32_t> tokens, int vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(field, "[", i, "]: expected a token id in 0..",
                                                     vocab_size - 1, ", found ", tokens[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMarks(const Request& request) {
  if (request.cache_marks.size() > kMostCacheMarks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cache_marks: expected at most ", kMostCacheMarks, ", found ", request.cache_marks.size()));
  }
  const auto size = static_cast<int64_t>(request.prompt.size());
  for (size_t i = 0; i < request.cache_marks.size(); ++i) {
    const int64_t mark = request.cache_marks[i];
    if (mark < 1 || mark > size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "cache_marks[", i, "]: expected a number of prompt tokens, 1..", size, ", found ", mark));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckForks(const Request& request, int vocab_size) {
  if (request.forks.empty()) return absl::OkStatus();
  if (request.forks.size() > kMostForks) {
    return absl::InvalidArgumentError(
        absl::StrCat("forks: expected at most ", kMostForks, ", found ", request.forks.size()));
  }
  if (request.max_tokens == 0) {
    return absl::InvalidArgumentError("forks: without tokens to generate they are all the same");
  }
  for (size_t i = 0; i < request.forks.size(); ++i) {
    const Fork& fork = request.forks[i];
    if (fork.observer == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("forks[", i, "].observer: missing"));
    }
    RETURN_IF_ERROR(Prefixed(kernels::ValidateSampling(fork.sampling, vocab_size),
                             absl::StrCat("forks[", i, "].sampling")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const Request& request, const models::HybridModel& model) {
  const int vocab_size = model.info().vocab_size;
  if (request.observer == nullptr) return absl::InvalidArgumentError("observer: missing");
  RETURN_IF_ERROR(CheckTokens("prompt", request.prompt, vocab_size));
  RETURN_IF_ERROR(Prefixed(kernels::ValidateSampling(request.sampling, vocab_size), "sampling"));
  if (request.priority > Priority::kHigh) {
    return absl::InvalidArgumentError("priority: not one of the classes");
  }
  if (request.max_tokens < 0) return absl::InvalidArgumentError("max_tokens: negative");
  RETURN_IF_ERROR(CheckTokens("earlier_prompt", request.earlier_prompt, vocab_size));
  RETURN_IF_ERROR(CheckTokens("earlier_answer", request.earlier_answer, vocab_size));
  if (request.checkpoint_every_tokens < 0) {
    return absl::InvalidArgumentError("checkpoint_every_tokens: negative");
  }
  RETURN_IF_ERROR(CheckMarks(request));
  RETURN_IF_ERROR(CheckForks(request, vocab_size));
  if (request.state_source != nullptr) {
    if (!request.state.has_value()) return absl::OkStatus();  // validated when it is there
    return absl::InvalidArgumentError("state: given twice, now and from state_source");
  }
  return CheckStart(request, request.state.has_value() ? &*request.state : nullptr, model);
}

absl::Status CheckStart(const Request& request, const SequenceState* state,
                        const models::HybridModel& model) {
  bool has_pending = false;
  if (state != nullptr) {
    const size_t expected = state->position == 0 ? 0 : model.state_layout().bytes();
    if (state->position < 0) return absl::InvalidArgumentError("state.position: negative");
    if (state->image.size() != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat("state.image: expected ", expected, " bytes, found ", state->image.size()));
    }
    if (state->pending.has_value()) {
      has_pending = true;
      RETURN_IF_ERROR(CheckTokens("state.pending", {&*state->pending, 1}, model.info().vocab_size));
    } else if (state->position > 0) {
      return absl::InvalidArgumentError("state.pending: missing although tokens were consumed");
    }
  }
  if (request.prompt.empty() && !has_pending) {
    return absl::InvalidArgumentError("prompt: empty, and there is nothing to continue from");
  }
  return absl::OkStatus();
}

}  // namespace reprise::scheduler
