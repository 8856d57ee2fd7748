// From command line, environment and config file to ServerOptions.
#ifndef REPRISE_SERVICE_SERVER_FLAGS_H_
#define REPRISE_SERVICE_SERVER_FLAGS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "service/server_options.h"

namespace reprise::service {

// One row of the table.
struct FlagSpec {
  std::string name;           // "--name", key "name", variable REPRISE_NAME
  std::string default_value;  // as text; empty = none
  std::string allowed;        // legal values, for help and errors
  std::string meaning;
  bool repeatable = false;
  // Sets the option; INVALID_ARGUMENT (any message) when the value is not allowed.
  std::function<absl::Status(const std::string& value, ServerOptions* options)> set;
};

absl::Span<const FlagSpec> ServerFlags();

// REPRISE_STEP_TOKENS for "step-tokens".
std::string EnvironmentName(const std::string& flag);

struct ParsedFlags {
  ServerOptions options;
  std::string print;  // not empty: print this and exit with 0 (--help, --version)
};

// The command line wins over the environment, and that over the config file (--config FILE, lines
// of `key = value` with the flags' names). INVALID_ARGUMENT names where the value came from, the
// key, the value and what is allowed.
absl::StatusOr<ParsedFlags> ParseServerFlags(
    int argc, const char* const* argv, const std::function<const char*(const char*)>& environment);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SERVER_FLAGS_H_
