// The public Azure LLM inference traces (2023 and 2024).
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "tools/simulate/text_cursor.h"
#include "tools/simulate/trace.h"

namespace reprise::simulate {
namespace {

constexpr char kHeader[] = "TIMESTAMP,ContextTokens,GeneratedTokens";

// A number of exactly `width` digits.
absl::StatusOr<int64_t> Digits(TextCursor& cursor, int width, int64_t low, int64_t high) {
  const size_t begin = cursor.position();
  ASSIGN_OR_RETURN(const int64_t value, cursor.Integer("TIMESTAMP", 0, 9999));
  if (cursor.position() != begin + width || value < low || value > high) {
    return cursor.ErrorAt(
        begin, absl::StrCat("TIMESTAMP: expected ", width, " digits, ", low, " to ", high));
  }
  return value;
}

// "2023-11-16 18:15:46.6805900", with an optional "+00:00" or "Z": seconds, in UTC.
absl::StatusOr<double> ParseTimestamp(TextCursor& cursor) {
  const size_t begin = cursor.position();
  ASSIGN_OR_RETURN(const int64_t year, Digits(cursor, 4, 1970, 9999));
  RETURN_IF_ERROR(cursor.Expect('-'));
  ASSIGN_OR_RETURN(const int64_t month, Digits(cursor, 2, 1, 12));
  RETURN_IF_ERROR(cursor.Expect('-'));
  ASSIGN_OR_RETURN(const int64_t day, Digits(cursor, 2, 1, 31));
  if (!cursor.Take('T')) RETURN_IF_ERROR(cursor.Expect(' '));
  int64_t clock[3] = {};
  for (int i = 0; i < 3; ++i) {
    if (i > 0) RETURN_IF_ERROR(cursor.Expect(':'));
    const size_t at = cursor.position();
    // Digits one by one: the seconds may be followed by a point, which Integer refuses.
    for (int digit = 0; digit < 2; ++digit) {
      int value = 0;
      while (value < 10 && !cursor.Take(static_cast<char>('0' + value))) ++value;
      if (value == 10) {
        return cursor.Error(("TIMESTAMP: expected a digit, found " + cursor.Found()));
      }
      clock[i] = clock[i] * 10 + value;
    }
    if (clock[i] > (i == 0 ? 23 : 59)) return cursor.ErrorAt(at, "TIMESTAMP: no such time");
  }
  double fraction = 0, unit = 0.1;
  if (cursor.Take('.')) {
    int digits = 0;
    for (; digits < 12; ++digits, unit /= 10) {
      int value = 0;
      while (value < 10 && !cursor.Take(static_cast<char>('0' + value))) ++value;
      if (value == 10) break;
      fraction += value * unit;
    }
    if (digits == 0) return cursor.Error("TIMESTAMP: expected digits after the point");
  }
  if (!cursor.Take('Z') && cursor.Take('+')) {
    for (const char c : {'0', '0', ':', '0', '0'}) RETURN_IF_ERROR(cursor.Expect(c));
  }
  const absl::CivilDay date(year, month, day);
  if (date.month() != month) return cursor.ErrorAt(begin, "TIMESTAMP: no such day");
  const int64_t days = date - absl::CivilDay(1970, 1, 1);
  return static_cast<double>(days * 86400 + clock[0] * 3600 + clock[1] * 60 + clock[2]) + fraction;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScriptSource>> ReadAzureTrace(std::istream& in,
                                                             const std::string& name,
                                                             const TraceLimits& limits) {
  LineReader lines(in, name, limits.max_line_bytes);
  std::string line;
  ASSIGN_OR_RETURN(const bool has_header, lines.Next(&line));
  if (!has_header || line != kHeader) {
    return absl::InvalidArgumentError(absl::StrCat(name, ":1:1: expected the header ", kHeader));
  }
  auto list = std::make_unique<ScriptList>();
  const uint32_t tenant = list->mutable_tenants().Intern("default");
  double first = kMaxSeconds * 1e3;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, lines.Next(&line));
    if (!more) break;
    if (line.empty()) continue;
    if (static_cast<int64_t>(list->size()) >= limits.max_records) {
      return absl::ResourceExhaustedError(absl::StrCat(
          name, ":", lines.line_number(), ":1: more than ", limits.max_records, " records"));
    }
    TextCursor cursor(name, lines.line_number(), line);
    Script script;
    ASSIGN_OR_RETURN(script.start, ParseTimestamp(cursor));
    RETURN_IF_ERROR(cursor.Expect(','));
    Turn turn;
    turn.tenant = tenant;
    ASSIGN_OR_RETURN(turn.own_tokens, cursor.Integer("ContextTokens", 0, kMaxPromptTokens));
    RETURN_IF_ERROR(cursor.Expect(','));
    ASSIGN_OR_RETURN(turn.output, cursor.Integer("GeneratedTokens", 0, kMaxOutputTokens));
    if (!cursor.AtEnd()) {
      return cursor.Error(("expected the end of the line, found " + cursor.Found()));
    }
    turn.own_tokens = std::max(turn.own_tokens, 1);  // there is always a first token to read
    script.turns.push_back(std::move(turn));
    first = std::min(first, script.start);
    list->Add(std::move(script));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    Script& script = list->script(i);
    script.start -= first;
    if (script.start > kMaxSeconds) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": the trace spans more than ", kMaxSeconds, " seconds"));
    }
  }
  list->Sort();
  return list;
}

}  // namespace reprise::simulate
