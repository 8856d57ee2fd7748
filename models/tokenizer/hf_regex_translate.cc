// Oniguruma's pattern language (as the `tokenizers` library uses it) into PCRE2's.
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "models/tokenizer/hf_regex.h"
#include "models/tokenizer/text.h"

namespace reprise::models {
namespace {

// Unicode's White_Space, and all the rest. PCRE2's own \s has U+180E besides.
constexpr std::string_view kSpace =
    R"(\x09-\x0D\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0E-\x1F\x21-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF})"
    R"(\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
// Oniguruma's: letters, marks, digits, letter numbers, connectors, letters in circles and boxes,
// and six of Latin-1's numbers. PCRE2 10.42 leaves most of these out.
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}\x{24B6}-\x{24E9})"
    R"(\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";

// Properties that have one name and one meaning in both.
bool IsKnownProperty(std::string_view name) {
  static const std::set<std::string_view>& names = *new std::set<std::string_view>{
      "L",         "Lu",        "Ll",       "Lt",       "Lm",       "Lo",       "M",
      "Mn",        "Mc",        "Me",       "N",        "Nd",       "Nl",       "No",
      "P",         "Pc",        "Pd",       "Ps",       "Pe",       "Pi",       "Pf",
      "Po",        "S",         "Sm",       "Sc",       "Sk",       "So",       "Z",
      "Zs",        "Zl",        "Zp",       "C",        "Cc",       "Cf",       "Co",
      "Cn",        "Arabic",    "Armenian", "Bengali",  "Bopomofo", "Cyrillic", "Devanagari",
      "Ethiopic",  "Georgian",  "Greek",    "Gujarati", "Gurmukhi", "Han",      "Hangul",
      "Hebrew",    "Hiragana",  "Kannada",  "Katakana", "Khmer",    "Lao",      "Latin",
      "Malayalam", "Mongolian", "Myanmar",  "Oriya",    "Sinhala",  "Tamil",    "Telugu",
      "Thai",      "Tibetan"};
  return names.contains(name);
}

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  absl::StatusOr<std::string> Run() {
    while (i_ < in_.size()) {
      const char c = in_[i_];
      if (c == '\\') {
        RETURN_IF_ERROR(Escape(/*in_class=*/false));
      } else if (c == '[') {
        RETURN_IF_ERROR(Class());
      } else if (c == '(') {
        RETURN_IF_ERROR(Group());
      } else if (c == '{') {
        RETURN_IF_ERROR(Count());
      } else if (c == '$') {
        out_ += R"((?=\n|\z))";  // at the end of every line
        ++i_;
      } else if (c == '^') {
        out_ += R"((?:\A|(?<=\n)(?!\z)))";
        ++i_;
      } else {
        out_ += c;
        ++i_;
      }
    }
    return std::move(out_);
  }

 private:
  absl::Status No(std::string_view what) const {
    return absl::UnimplementedError(
        Cat("regular expression: ", what, " at byte ", i_, " (not supported)"));
  }
  absl::Status Truncated() const {
    return absl::InvalidArgumentError("regular expression: ends inside a construct");
  }
  bool At(std::string_view text) const { return in_.substr(i_, text.size()) == text; }

  // What follows a backslash. In a class the result is a part of it.
  absl::Status Escape(bool in_class) {
    if (i_ + 1 >= in_.size()) return Truncated();
    const char c = in_[i_ + 1];
    item_is_set_ = true;
    switch (c) {
      case 's':
        CatTo(&out_, in_class ? "" : "[", kSpace, in_class ? "" : "]");
        break;
      case 'S':
        CatTo(&out_, in_class ? "" : "[", kNotSpace, in_class ? "" : "]");
        break;
      case 'w':
        CatTo(&out_, in_class ? "" : "[", kWord, in_class ? "" : "]");
        break;
      case 'W':
        if (in_class) return No("\\W in a class");
        CatTo(&out_, "[^", kWord, "]");
        break;
      case 'd':
        out_ += R"(\p{Nd})";
        break;
      case 'D':
        out_ += R"(\P{Nd})";
        break;
      case 'p':
      case 'P':
        return Property();
      case 'A':
      case 'z':
        if (in_class) return No("anchor in a class");
        out_ += {'\\', c};
        break;
      case 'u': {
        const std::string_view digits = in_.substr(i_ + 2, 4);
        if (digits.size() < 4) return Truncated();
        for (const char digit : digits) {
          if (!absl::ascii_isxdigit(static_cast<unsigned char>(digit))) return No("\\u");
        }
        CatTo(&out_, "\\x{", digits, "}");
        i_ += 4;
        item_is_set_ = false;
        break;
      }
      case 'r':
      case 'n':
      case 't':
      case 'f':
        out_ += {'\\', c};
        item_is_set_ = false;
        break;
      case 'v':
        out_ += R"(\x0B)";
        item_is_set_ = false;
        break;
      default:
        if (!absl::ascii_ispunct(static_cast<unsigned char>(c))) {
          return No(Cat("escape \\", std::string_view(&c, 1)));
        }
        out_ += {'\\', c};
        item_is_set_ = false;
        break;
    }
    i_ += 2;
    return absl::OkStatus();
  }

  absl::Status Property() {  // at \p{Name}, \P{Name} or \p{^Name}
    bool negated = in_[i_ + 1] == 'P';
    size_t begin = i_ + 2;
    if (begin >= in_.size() || in_[begin] != '{') return No("property without braces");
    const size_t end = in_.find('}', begin);
    if (end == std::string_view::npos) return Truncated();
    std::string_view name = in_.substr(begin + 1, end - begin - 1);
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    if (!IsKnownProperty(name)) return No("property");
    CatTo(&out_, negated ? "\\P{" : "\\p{", name, "}");
    i_ = end + 1;
    return absl::OkStatus();
  }

  absl::Status Class() {
    out_ += in_[i_++];
    if (i_ < in_.size() && in_[i_] == '^') out_ += in_[i_++];
    if (i_ < in_.size() && in_[i_] == ']') return No("']' as the first of a class");
    item_is_set_ = true;  // a '-' here is literal
    while (i_ < in_.size() && in_[i_] != ']') {
      if (in_[i_] == '[') return No("'[' in a class");
      if (At("&&")) return No("'&&' in a class");
      if (in_[i_] == '\\') {
        RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else if (in_[i_] == '-') {
        // Between two characters a range; beside a set such as \s, or at an edge, a '-'.
        const std::string_view next = in_.substr(i_ + 1, 2);
        const bool before_set =
            next.size() == 2 && next[0] == '\\' &&
            std::string_view("sSwWdDpP").find(next[1]) != std::string_view::npos;
        const bool literal = item_is_set_ || before_set || next.substr(0, 1) == "]";
        out_ += literal ? "\\-" : "-";
        item_is_set_ = true;  // "a-z-9": the second '-' is literal
        ++i_;
        if (!literal && i_ < in_.size() && in_[i_] != '\\' && in_[i_] != '[') {
          out_ += in_[i_++];  // the range's end (its first byte will do)
        } else if (!literal && i_ < in_.size() && in_[i_] == '\\') {
          RETURN_IF_ERROR(Escape(/*in_class=*/true));
          item_is_set_ = true;
        }
      } else {
        out_ += in_[i_++];
        item_is_set_ = false;
      }
    }
    if (i_ >= in_.size()) return Truncated();
    out_ += in_[i_++];
    return absl::OkStatus();
  }

  absl::Status Group() {
    static constexpr std::string_view kKnown[] = {"(?:",  "(?=",  "(?!", "(?>",
                                                  "(?<=", "(?<!", "(?i:"};
    if (At("(*")) return absl::InvalidArgumentError("regular expression: '(*'");
    if (!At("(?")) {
      out_ += in_[i_++];
      return absl::OkStatus();
    }
    for (const std::string_view opening : kKnown) {
      if (!At(opening)) continue;
      out_ += opening;
      i_ += opening.size();
      return absl::OkStatus();
    }
    return No("group");
  }

  absl::Status Count() {  // at '{': a count {n}, {n,}, {n,m}, {,m}, or a literal brace
    size_t end = i_ + 1;
    bool comma = false;
    std::string low, high;
    for (; end < in_.size() && in_[end] != '}'; ++end) {
      if (in_[end] == ',' && !comma) {
        comma = true;
      } else if (absl::ascii_isdigit(static_cast<unsigned char>(in_[end]))) {
        (comma ? high : low) += in_[end];
      } else {
        break;
      }
    }
    if (end >= in_.size() || in_[end] != '}' || (low.empty() && high.empty())) {
      out_ += "\\{";
      ++i_;
      return absl::OkStatus();
    }
    const char next = end + 1 < in_.size() ? in_[end + 1] : '\0';
    // After a count Oniguruma reads these as one more quantifier, not as possessive or lazy.
    if (next == '+' || next == '?' || next == '*') return No("quantifier after a count");
    CatTo(&out_, "{", low.empty() ? "0" : low, comma ? "," : "", high, "}");
    i_ = end + 1;
    return absl::OkStatus();
  }

  std::string_view in_;
  size_t i_ = 0;
  std::string out_;
  bool item_is_set_ = false;  // the last item of a class cannot begin a range
};

}  // namespace

absl::StatusOr<std::string> TranslatePattern(std::string_view oniguruma) {
  return Translator(oniguruma).Run();
}

}  // namespace reprise::models
