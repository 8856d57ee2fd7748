// Passing a failed absl::Status on to the caller, with or without added context.
#ifndef REPRISE_BASE_STATUS_MACROS_H_
#define REPRISE_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace reprise {

// `status` with "context: " put before its message; code and payloads are kept.
inline absl::Status Prefixed(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status prefixed(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { prefixed.SetPayload(url, payload); });
  return prefixed;
}

}  // namespace reprise

// RETURN_IF_ERROR(expr): returns the status of `expr` unless it is OK.
#define RETURN_IF_ERROR(expr)                                                 \
  do {                                                                        \
    if (absl::Status status_macro_result = (expr); !status_macro_result.ok()) \
      return status_macro_result;                                             \
  } while (false)

#define REPRISE_STATUS_CONCAT_(a, b) a##b
#define REPRISE_STATUS_CONCAT(a, b) REPRISE_STATUS_CONCAT_(a, b)
#define REPRISE_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = *std::move(tmp)

// ASSIGN_OR_RETURN(auto x, expr): assigns the value of a StatusOr or returns its status.
#define ASSIGN_OR_RETURN(lhs, expr) \
  REPRISE_ASSIGN_OR_RETURN_(REPRISE_STATUS_CONCAT(status_macro_or_, __LINE__), lhs, expr)

#endif  // REPRISE_BASE_STATUS_MACROS_H_
