// Reads one line of a trace strictly, and knows where it is.
#ifndef REPRISE_TOOLS_SIMULATE_TEXT_CURSOR_H_
#define REPRISE_TOOLS_SIMULATE_TEXT_CURSOR_H_

#include <cstdint>
#include <istream>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::simulate {

// Walks over `line`, which it borrows. Columns count bytes from 1.
class TextCursor {
 public:
  TextCursor(const std::string& file, int64_t line_number, std::string_view line)
      : file_(file), line_number_(line_number), line_(line) {}

  size_t position() const { return position_; }
  bool AtEnd() const { return position_ == line_.size(); }
  void SkipBlanks();
  // Takes `expected` if it comes next.
  bool Take(char expected);
  absl::Status Expect(char expected);

  // A string in quotes that names something: 1 to 128 of A-Z a-z 0-9 . _ - : / @ +, no escapes.
  absl::StatusOr<std::string> QuotedName(std::string_view what);
  // Digits with an optional sign, in low..high.
  absl::StatusOr<int64_t> Integer(std::string_view what, int64_t low, int64_t high);
  // A finite JSON number in low..high.
  absl::StatusOr<double> Number(std::string_view what, double low, double high);

  // INVALID_ARGUMENT "file:line:column: message", at the cursor or at `position`.
  absl::Status Error(std::string_view message) const { return ErrorAt(position_, message); }
  absl::Status ErrorAt(size_t position, std::string_view message) const;
  // What comes next, for messages.
  std::string Found() const;

 private:
  const std::string& file_;
  int64_t line_number_;
  std::string_view line_;
  size_t position_ = 0;
};

// Lines of a stream without their ends ("\n" or "\r\n").
class LineReader {
 public:
  LineReader(std::istream& in, const std::string& file, int64_t max_line_bytes)
      : in_(in), file_(file), max_line_bytes_(max_line_bytes) {}
  // False at the end. INVALID_ARGUMENT for a line that is too long, DATA_LOSS when reading fails.
  absl::StatusOr<bool> Next(std::string* line);
  int64_t line_number() const { return line_number_; }

 private:
  std::istream& in_;
  const std::string& file_;
  const int64_t max_line_bytes_;
  int64_t line_number_ = 0;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_TEXT_CURSOR_H_
