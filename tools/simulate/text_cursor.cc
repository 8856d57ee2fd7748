#include "tools/simulate/text_cursor.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace reprise::simulate {
namespace {

// Debian's absl::string_view is a type of its own.
absl::string_view Abseil(std::string_view text) { return {text.data(), text.size()}; }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsNameChar(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c != '\0' && std::strchr("._-:/@+", c) != nullptr);
}

}  // namespace

void TextCursor::SkipBlanks() {
  while (!AtEnd() && (line_[position_] == ' ' || line_[position_] == '\t')) ++position_;
}

bool TextCursor::Take(char expected) {
  if (AtEnd() || line_[position_] != expected) return false;
  ++position_;
  return true;
}

absl::Status TextCursor::Expect(char expected) {
  if (Take(expected)) return absl::OkStatus();
  return Error(absl::StrCat("expected '", std::string(1, expected), "', found ", Found()));
}

absl::StatusOr<std::string> TextCursor::QuotedName(std::string_view what) {
  const size_t begin = position_;
  if (!Take('"')) {
    return Error(absl::StrCat(Abseil(what), ": expected a string, found ", Found()));
  }
  const size_t first = position_;
  while (!AtEnd() && IsNameChar(line_[position_])) ++position_;
  const size_t length = position_ - first;
  if (AtEnd()) return ErrorAt(begin, "the string does not end");
  if (line_[position_] != '"') {
    return Error(
        absl::StrCat(Abseil(what), ": expected letters, digits and ._-:/@+, found ", Found()));
  }
  if (length < 1 || length > 128) {
    return ErrorAt(begin,
                   absl::StrCat(Abseil(what), ": expected 1 to 128 characters, found ", length));
  }
  ++position_;
  return std::string(line_.substr(first, length));
}

absl::StatusOr<int64_t> TextCursor::Integer(std::string_view what, int64_t low, int64_t high) {
  const size_t begin = position_;
  const char* const end = line_.data() + line_.size();
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(line_.data() + begin, end, value);
  if (error == std::errc::invalid_argument) {
    return Error(absl::StrCat(Abseil(what), ": expected a whole number, found ", Found()));
  }
  position_ = rest - line_.data();
  if (error != std::errc() || value < low || value > high) {
    return ErrorAt(begin, absl::StrCat(Abseil(what), ": expected ", low, " to ", high));
  }
  if (!AtEnd() && std::strchr(".eE", line_[position_]) != nullptr && line_[position_] != '\0') {
    return ErrorAt(begin, absl::StrCat(Abseil(what), ": expected a whole number"));
  }
  return value;
}

absl::StatusOr<double> TextCursor::Number(std::string_view what, double low, double high) {
  const size_t begin = position_;
  const size_t digits = begin < line_.size() && line_[begin] == '-' ? begin + 1 : begin;
  if (digits >= line_.size() || !IsDigit(line_[digits])) {  // from_chars would take inf and nan
    return Error(absl::StrCat(Abseil(what), ": expected a number, found ", Found()));
  }
  double value = 0;
  const auto [rest, error] =
      std::from_chars(line_.data() + begin, line_.data() + line_.size(), value);
  position_ = rest - line_.data();
  if (error != std::errc() || !(value >= low && value <= high)) {
    return ErrorAt(begin, absl::StrCat(Abseil(what), ": expected ", low, " to ", high));
  }
  return value;
}

absl::Status TextCursor::ErrorAt(size_t position, std::string_view message) const {
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ":", line_number_, ":", position + 1, ": ", Abseil(message)));
}

std::string TextCursor::Found() const {
  if (AtEnd()) return "the end of the line";
  const unsigned char c = line_[position_];
  if (c >= ' ' && c < 0x7f) return absl::StrCat("'", std::string(1, static_cast<char>(c)), "'");
  return absl::StrCat("byte ", static_cast<int>(c));
}

absl::StatusOr<bool> LineReader::Next(std::string* line) {
  line->clear();
  std::streambuf* const bytes = in_.rdbuf();
  ++line_number_;
  while (true) {
    const int c = bytes->sbumpc();
    if (c == std::char_traits<char>::eof()) {
      if (in_.bad()) return absl::DataLossError(absl::StrCat(file_, ": reading failed"));
      if (line->empty()) return false;
      break;
    }
    if (c == '\n') break;
    if (static_cast<int64_t>(line->size()) >= max_line_bytes_) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_, ":", line_number_, ":", max_line_bytes_ + 1,
                       ": the line has more than ", max_line_bytes_, " bytes"));
    }
    line->push_back(static_cast<char>(c));
  }
  if (!line->empty() && line->back() == '\r') line->pop_back();
  return true;
}

}  // namespace reprise::simulate
