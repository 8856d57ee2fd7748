#include "models/tokenizer/hf_normalizer.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/hf_regex.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/unicode.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

using Step = std::unique_ptr<NormalizerStep>;

// No form of Unicode makes a text longer than 18 times; the rest is for what steps insert.
// Positions in a word are 32-bit numbers.
size_t GrowthLimit(size_t bytes) { return std::min<size_t>(64 * bytes + (64 << 10), 1 << 30); }

absl::Status CheckGrowth(size_t bytes, size_t limit) {
  if (bytes <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      Cat("normalization makes the text longer than ", limit, " bytes"));
}

class UnicodeStep : public NormalizerStep {
 public:
  explicit UnicodeStep(UnicodeForm form) : form_(form) {}
  absl::Status Apply(size_t, std::string* text) const override {
    return NormalizeUnicode(form_, text);
  }

 private:
  UnicodeForm form_;
};

class LowercaseStep : public NormalizerStep {
 public:
  absl::Status Apply(size_t, std::string* text) const override {
    LowercaseUnicode(text);
    return absl::OkStatus();
  }
};

class StripStep : public NormalizerStep {
 public:
  StripStep(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(size_t, std::string* text) const override {
    if (right_) text->resize(text->size() - TrailingWhitespace(*text));
    if (left_) text->erase(0, LeadingWhitespace(*text));
    return absl::OkStatus();
  }

 private:
  bool left_, right_;
};

class StripAccentsStep : public NormalizerStep {
 public:
  absl::Status Apply(size_t, std::string* text) const override {
    std::string out;
    for (size_t offset = 0; offset < text->size();) {
      const char32_t c = NextCodePoint(*text, &offset);
      if (!IsMark(c)) AppendUtf8(c, &out);
    }
    *text = std::move(out);
    return absl::OkStatus();
  }
};

class PrependStep : public NormalizerStep {
 public:
  explicit PrependStep(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::Status Apply(size_t, std::string* text) const override {
    if (!text->empty()) text->insert(0, prefix_);
    return absl::OkStatus();
  }

 private:
  std::string prefix_;
};

class ReplaceStep : public NormalizerStep {
 public:
  ReplaceStep(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  absl::Status Apply(size_t limit, std::string* text) const override {
    std::vector<Span> spans;
    RETURN_IF_ERROR(pattern_.Cut(*text, &spans));
    std::string out;
    out.reserve(text->size());
    for (const Span& span : spans) {
      if (span.match) {
        out += content_;
      } else {
        out.append(*text, span.begin, span.end - span.begin);
      }
      RETURN_IF_ERROR(CheckGrowth(out.size(), limit));
    }
    *text = std::move(out);
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

absl::Status AddSteps(const JsonRef& json, int depth, std::vector<Step>* steps);

absl::Status AddSequence(const JsonRef& json, int depth, std::vector<Step>* steps) {
  RETURN_IF_ERROR(json.OnlyKeys({"type", "normalizers"}));
  if (depth > 8) return json.Unimplemented("so deep a nesting");
  ASSIGN_OR_RETURN(const JsonRef list, json.Require("normalizers"));
  ASSIGN_OR_RETURN(const std::vector<JsonRef> items, list.Items());
  for (const JsonRef& item : items) RETURN_IF_ERROR(AddSteps(item, depth + 1, steps));
  return absl::OkStatus();
}

absl::Status AddSteps(const JsonRef& json, int depth, std::vector<Step>* steps) {
  ASSIGN_OR_RETURN(const std::string type, json.String("type"));
  if (type == "Sequence") return AddSequence(json, depth, steps);
  if (type == "Strip") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "strip_left", "strip_right"}));
    ASSIGN_OR_RETURN(const bool left, json.BoolOr("strip_left", true));
    ASSIGN_OR_RETURN(const bool right, json.BoolOr("strip_right", true));
    steps->push_back(std::make_unique<StripStep>(left, right));
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "prepend"}));
    ASSIGN_OR_RETURN(std::string prefix, json.String("prepend"));
    steps->push_back(std::make_unique<PrependStep>(std::move(prefix)));
    return absl::OkStatus();
  }
  if (type == "Replace") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "pattern", "content"}));
    ASSIGN_OR_RETURN(const JsonRef pattern_json, json.Require("pattern"));
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(pattern_json));
    ASSIGN_OR_RETURN(std::string content, json.String("content"));
    steps->push_back(std::make_unique<ReplaceStep>(std::move(pattern), std::move(content)));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(json.OnlyKeys({"type"}));
  if (type == "NFC") {
    steps->push_back(std::make_unique<UnicodeStep>(UnicodeForm::kNfc));
  } else if (type == "NFD") {
    steps->push_back(std::make_unique<UnicodeStep>(UnicodeForm::kNfd));
  } else if (type == "NFKC") {
    steps->push_back(std::make_unique<UnicodeStep>(UnicodeForm::kNfkc));
  } else if (type == "NFKD") {
    steps->push_back(std::make_unique<UnicodeStep>(UnicodeForm::kNfkd));
  } else if (type == "Lowercase") {
    steps->push_back(std::make_unique<LowercaseStep>());
  } else if (type == "StripAccents") {
    steps->push_back(std::make_unique<StripAccentsStep>());
  } else {
    return json.Unimplemented(Cat("normalizer '", type, "'"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::FromJson(const std::optional<JsonRef>& json) {
  Normalizer normalizer;
  if (json) RETURN_IF_ERROR(AddSteps(*json, 0, &normalizer.steps_));
  return normalizer;
}

absl::Status Normalizer::Apply(std::string* text) const {
  const size_t limit = GrowthLimit(text->size());
  for (const Step& step : steps_) {
    RETURN_IF_ERROR(step->Apply(limit, text));
    RETURN_IF_ERROR(CheckGrowth(text->size(), limit));
  }
  return absl::OkStatus();
}

}  // namespace reprise::models
