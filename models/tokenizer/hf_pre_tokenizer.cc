#include "models/tokenizer/hf_pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/hf_regex.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/unicode.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Joins neighbouring spans as `behavior` says, and marks as matches those to leave out.
void Join(Behavior behavior, std::vector<Span>* spans) {
  std::vector<Span> out;
  bool previous = false;
  switch (behavior) {
    case Behavior::kRemoved:
      return;
    case Behavior::kIsolated:
      for (Span& span : *spans) span.match = false;
      return;
    case Behavior::kContiguous:
    case Behavior::kMergedWithPrevious:
      for (const Span& span : *spans) {
        const bool join =
            behavior == Behavior::kContiguous ? span.match == previous : span.match && !previous;
        if (join && !out.empty()) {
          out.back().end = span.end;
        } else {
          out.push_back({span.begin, span.end, false});
        }
        previous = span.match;
      }
      break;
    case Behavior::kMergedWithNext:
      for (auto span = spans->rbegin(); span != spans->rend(); ++span) {
        if (span->match && !previous && !out.empty()) {
          out.back().begin = span->begin;
        } else {
          out.push_back({span->begin, span->end, false});
        }
        previous = span->match;
      }
      std::reverse(out.begin(), out.end());
      break;
  }
  *spans = std::move(out);
}

void AppendParts(const Word& word, const std::vector<Span>& spans, std::vector<Word>* out) {
  for (const Span& span : spans) {
    if (span.match || span.begin == span.end) continue;
    out->push_back(
        {word.text.substr(span.begin, span.end - span.begin), word.at_start && span.begin == 0});
  }
}

class SplitStep : public PreTokenizerStep {
 public:
  SplitStep(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(WordList* list) const override {
    std::vector<Word> out;
    std::vector<Span> spans;
    for (const Word& word : list->words) {
      RETURN_IF_ERROR(pattern_.Cut(word.text, &spans));
      if (invert_) {
        for (Span& span : spans) span.match = !span.match;
      }
      Join(behavior_, &spans);
      AppendParts(word, spans, &out);
    }
    list->words = std::move(out);
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

// Cuts at characters of a kind.
class CharacterStep : public PreTokenizerStep {
 public:
  CharacterStep(bool (*matches)(char32_t), Behavior behavior)
      : matches_(matches), behavior_(behavior) {}

  absl::Status Apply(WordList* list) const override {
    std::vector<Word> out;
    std::vector<Span> spans;
    for (const Word& word : list->words) {
      spans.clear();
      size_t begin = 0;
      for (size_t offset = 0; offset < word.text.size();) {
        const size_t at = offset;
        if (!matches_(NextCodePoint(word.text, &offset))) continue;
        if (at > begin) spans.push_back({begin, at, false});
        spans.push_back({at, offset, true});
        begin = offset;
      }
      if (begin < word.text.size()) spans.push_back({begin, word.text.size(), false});
      Join(behavior_, &spans);
      AppendParts(word, spans, &out);
    }
    list->words = std::move(out);
    return absl::OkStatus();
  }

 private:
  bool (*matches_)(char32_t);
  Behavior behavior_;
};

class PrefixSpaceStep : public PreTokenizerStep {
 public:
  absl::Status Apply(WordList* list) const override {
    for (Word& word : list->words) {
      if (word.text.starts_with(" ")) continue;
      list->texts.push_back(Cat(" ", word.text));
      word.text = list->texts.back();
    }
    return absl::OkStatus();
  }
};

class MetaspaceStep : public PreTokenizerStep {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  MetaspaceStep(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  absl::Status Apply(WordList* list) const override {
    std::vector<Word> out;
    std::vector<Span> spans;
    const Pattern delimiter = Pattern::Literal(replacement_);
    for (Word word : list->words) {
      std::string text = ReplaceAll(word.text, " ", replacement_);
      const bool wanted =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && word.at_start);
      if (wanted && !text.starts_with(replacement_)) text.insert(0, replacement_);
      list->texts.push_back(std::move(text));
      word.text = list->texts.back();
      if (split_) {
        RETURN_IF_ERROR(delimiter.Cut(word.text, &spans));
        Join(Behavior::kMergedWithNext, &spans);
        AppendParts(word, spans, &out);
      } else {
        out.push_back(word);
      }
    }
    list->words = std::move(out);
    return absl::OkStatus();
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

absl::StatusOr<Behavior> ReadBehavior(const JsonRef& json) {
  ASSIGN_OR_RETURN(const JsonRef member, json.Require("behavior"));
  ASSIGN_OR_RETURN(const std::string name, member.String());
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return member.Unimplemented(Cat("behavior '", name, "'"));
}

absl::StatusOr<std::unique_ptr<PreTokenizerStep>> ReadSplit(const JsonRef& json) {
  RETURN_IF_ERROR(json.OnlyKeys({"type", "pattern", "behavior", "invert"}));
  ASSIGN_OR_RETURN(const JsonRef pattern_json, json.Require("pattern"));
  ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(pattern_json));
  ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(json));
  ASSIGN_OR_RETURN(const bool invert, json.BoolOr("invert", false));
  return std::make_unique<SplitStep>(std::move(pattern), behavior, invert);
}

absl::StatusOr<std::unique_ptr<PreTokenizerStep>> ReadMetaspace(const JsonRef& json) {
  using Prepend = MetaspaceStep::Prepend;
  RETURN_IF_ERROR(json.OnlyKeys(
      {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"}));
  ASSIGN_OR_RETURN(std::string replacement, json.Character("replacement"));
  Prepend prepend = Prepend::kAlways;
  if (const auto scheme = json.Find("prepend_scheme")) {
    ASSIGN_OR_RETURN(const std::string name, scheme->String());
    if (name == "first") {
      prepend = Prepend::kFirst;
    } else if (name == "never") {
      prepend = Prepend::kNever;
    } else if (name != "always") {
      return scheme->Unimplemented(Cat("scheme '", name, "'"));
    }
  }
  // The key's older form; the reference refuses it where it contradicts the newer one.
  ASSIGN_OR_RETURN(const bool add_prefix_space, json.BoolOr("add_prefix_space", true));
  if (!add_prefix_space && prepend != Prepend::kNever) {
    return json.Invalid("add_prefix_space does not match prepend_scheme");
  }
  ASSIGN_OR_RETURN(const bool split, json.BoolOr("split", true));
  return std::make_unique<MetaspaceStep>(std::move(replacement), prepend, split);
}

}  // namespace

absl::Status PreTokenizer::AddByteLevel(const JsonRef& json) {
  RETURN_IF_ERROR(json.OnlyKeys({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  ASSIGN_OR_RETURN(const bool prefix, json.BoolOr("add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool use_regex, json.BoolOr("use_regex", true));
  if (prefix) steps_.push_back(std::make_unique<PrefixSpaceStep>());
  if (use_regex) {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Regex(kGpt2Pattern));
    steps_.push_back(std::make_unique<SplitStep>(std::move(pattern), Behavior::kIsolated, false));
  }
  byte_level_ = true;
  return absl::OkStatus();
}

absl::Status PreTokenizer::Add(const JsonRef& json, int depth) {
  const absl::StatusOr<std::string> read = json.String("type");
  if (!read.ok()) return read.status();
  const std::string_view type = *read;
  if (type == "Sequence") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "pretokenizers"}));
    if (depth > 8) return json.Unimplemented("so deep a nesting");
    ASSIGN_OR_RETURN(const JsonRef list, json.Require("pretokenizers"));
    ASSIGN_OR_RETURN(const std::vector<JsonRef> items, list.Items());
    for (const JsonRef& item : items) RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  // What came after it would see bytes written as characters.
  if (byte_level_) return json.Unimplemented("a pre-tokenizer behind ByteLevel");
  if (type == "ByteLevel") return AddByteLevel(json);
  std::unique_ptr<PreTokenizerStep> step;
  if (type == "Split") {
    ASSIGN_OR_RETURN(step, ReadSplit(json));
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(step, ReadMetaspace(json));
  } else if (type == "Digits") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "individual_digits"}));
    ASSIGN_OR_RETURN(const bool individual, json.BoolOr("individual_digits", false));
    step = std::make_unique<CharacterStep>(
        &IsNumeric, individual ? Behavior::kIsolated : Behavior::kContiguous);
  } else if (type == "Punctuation") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "behavior"}));
    Behavior behavior = Behavior::kIsolated;
    if (json.Find("behavior")) {
      ASSIGN_OR_RETURN(behavior, ReadBehavior(json));
    }
    step = std::make_unique<CharacterStep>(&IsPunctuation, behavior);
  } else if (type == "WhitespaceSplit") {
    RETURN_IF_ERROR(json.OnlyKeys({"type"}));
    step = std::make_unique<CharacterStep>(&IsWhitespace, Behavior::kRemoved);
  } else {
    return json.Unimplemented(Cat("pre-tokenizer '", type, "'"));
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const std::optional<JsonRef>& json) {
  PreTokenizer pre_tokenizer;
  if (json) RETURN_IF_ERROR(pre_tokenizer.Add(*json, 0));
  return pre_tokenizer;
}

absl::Status PreTokenizer::Apply(WordList* list) const {
  for (const auto& step : steps_) RETURN_IF_ERROR(step->Apply(list));
  return absl::OkStatus();
}

}  // namespace reprise::models
