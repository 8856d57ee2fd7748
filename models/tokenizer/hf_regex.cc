#include "models/tokenizer/hf_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

constexpr size_t kMaxPatternBytes = 32 << 10;
constexpr uint32_t kMaxNesting = 64;
constexpr size_t kJitStackStart = 32 << 10;
constexpr size_t kJitStackMax = 4 << 20;
constexpr uint32_t kHeapLimitKib = 32 << 10;

// A linear pattern takes a few steps per byte of a run of spaces; what needs many times that is
// backtracking out of control.
uint32_t MatchLimit(size_t text_bytes) {
  return static_cast<uint32_t>(200'000 + 8 * std::min<size_t>(text_bytes, 256u << 20));
}

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0) return Cat(code);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

absl::StatusOr<Pattern> Pattern::Regex(std::string_view oniguruma) {
  if (oniguruma.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError("regular expression is too long");
  }
  ASSIGN_OR_RETURN(const std::string translated, TranslatePattern(oniguruma));
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (context == nullptr) return absl::ResourceExhaustedError("out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  int error = 0;
  size_t offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE, &error,
                    &offset, context.get());
  if (code == nullptr) {
    return absl::InvalidArgumentError(Cat("regular expression: ", ErrorText(error)));
  }
  Pattern pattern;
  pattern.code_ = std::shared_ptr<const void>(
      code, [](void* pointer) { pcre2_code_free(static_cast<pcre2_code*>(pointer)); });
  // Without JIT (no executable memory) matching is slower and otherwise the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return pattern;
}

Pattern Pattern::Literal(std::string text) {
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::FromJson(const JsonRef& json) {
  RETURN_IF_ERROR(json.OnlyKeys({"Regex", "String"}));
  if (const auto literal = json.Find("String")) {
    ASSIGN_OR_RETURN(std::string text, literal->String());
    if (text.empty()) return literal->Invalid("must not be empty");
    return Literal(std::move(text));
  }
  ASSIGN_OR_RETURN(const JsonRef regex, json.Require("Regex"));
  ASSIGN_OR_RETURN(const std::string text, regex.String());
  absl::StatusOr<Pattern> pattern = Regex(text);
  if (!pattern.ok()) return Prefixed(pattern.status(), regex.path());
  return pattern;
}

absl::Status Pattern::Cut(std::string_view text, std::vector<Span>* spans) const {
  spans->clear();
  if (code_ != nullptr) return CutRegex(text, spans);
  size_t done = 0;
  while (true) {
    const size_t hit = text.find(literal_, done);
    if (hit == std::string_view::npos) break;
    if (hit > done) spans->push_back({done, hit, false});
    done = hit + literal_.size();
    spans->push_back({hit, done, true});
  }
  if (done < text.size()) spans->push_back({done, text.size(), false});
  return absl::OkStatus();
}

absl::Status Pattern::CutRegex(std::string_view text, std::vector<Span>* spans) const {
  const pcre2_code* code = static_cast<const pcre2_code*>(code_.get());
  const MatchContext context(pcre2_match_context_create(nullptr));
  const MatchData data(pcre2_match_data_create(1, nullptr));
  if (context == nullptr || data == nullptr) return absl::ResourceExhaustedError("out of memory");
  pcre2_set_match_limit(context.get(), MatchLimit(text.size()));
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  JitStack stack;    // only for what the default stack cannot hold
  size_t done = 0;   // end of the last span
  size_t start = 0;  // where the next search begins
  bool any = false;
  while (start <= text.size()) {
    int rc = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                         PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && stack == nullptr) {
      stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
      if (stack == nullptr) return absl::ResourceExhaustedError("out of memory");
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      continue;
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(
          Cat("regular expression on ", text.size(), " bytes: ", ErrorText(rc)));
    }
    const size_t* bounds = pcre2_get_ovector_pointer(data.get());
    const size_t begin = bounds[0], end = bounds[1];
    if (begin < done || end < begin) {
      return absl::InternalError("regular expression: match out of order");
    }
    if (begin == end && any && end == done) {
      // An empty match right behind the last one does not count.
      start = end < text.size() ? end + Utf8Length(text[end]) : text.size() + 1;
      continue;
    }
    if (begin > done) spans->push_back({done, begin, false});
    spans->push_back({begin, end, true});
    any = true;
    done = start = end;
  }
  if (done < text.size()) spans->push_back({done, text.size(), false});
  return absl::OkStatus();
}

}  // namespace reprise::models
