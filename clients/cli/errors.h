// From failed calls to one line on stderr and an exit code.
#ifndef REPRISE_CLIENTS_CLI_ERRORS_H_
#define REPRISE_CLIENTS_CLI_ERRORS_H_

#include <grpcpp/support/status.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "clients/cli/json_output.h"

namespace reprise::cli {

// Documented in docs/cli.md; frozen.
enum ExitCode : int {
  kExitOk = 0,
  kExitLocal = 1,         // a file, a full disk
  kExitUsage = 2,         // flags and arguments
  kExitUnreachable = 3,   // no connection to the server
  kExitRefused = 4,       // the server refuses the request as it is
  kExitNotFound = 5,      // no such model, session or snapshot
  kExitConflict = 6,      // another turn or version won: look at the session and try again
  kExitTryLater = 7,      // full, draining or without its store
  kExitDeadline = 8,      // --timeout is over
  kExitServerFault = 9,   // a bug or damaged data
  kExitInterrupted = 130  // Ctrl-C
};

// The status of a call, with the details of google.rpc kept as a payload.
absl::Status FromRpc(const grpc::Status& status);

// Local failures, told apart from what a server says.
absl::Status UsageError(std::string message);
absl::Status Unreachable(std::string message);
absl::Status Interrupted(std::string message);

// A failed status, taken apart.
struct ErrorReport {
  int exit_code = kExitLocal;
  std::string code;    // "NOT_FOUND"; empty for local failures
  std::string reason;  // ErrorInfo.reason
  std::string message;
  std::vector<std::pair<std::string, std::string>> fields;  // name, what is wrong with it
  std::map<std::string, std::string> metadata;              // ErrorInfo.metadata
  std::string resource;                                     // ResourceInfo.resource_name
  double retry_seconds = 0;                                 // RetryInfo; 0 = none
  std::string hint;                                         // what to do about it
};

ErrorReport Explain(const absl::Status& status);

// "NOT_FOUND (SESSION_NOT_FOUND): ...; hint: ...", one line.
std::string ErrorLine(const ErrorReport& report);
Json ErrorJson(const ErrorReport& report);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_ERRORS_H_
