#include "clients/cli/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace reprise::cli {
namespace {

// Payloads of a status that say where it comes from.
constexpr char kRpcPayload[] = "reprise.dev/cli.rpc";  // value: google.rpc.Status, may be empty
constexpr char kUsagePayload[] = "reprise.dev/cli.usage";
constexpr char kUnreachablePayload[] = "reprise.dev/cli.unreachable";
constexpr char kInterruptedPayload[] = "reprise.dev/cli.interrupted";

absl::Status Marked(absl::StatusCode code, const std::string& message, const char* payload) {
  absl::Status status(code, message);
  status.SetPayload(payload, absl::Cord());
  return status;
}

struct HintOfReason {
  const char* reason;
  const char* hint;
};

// What to do, in terms of this program.
constexpr HintOfReason kHints[] = {
    {"PROMPT_TOO_LONG", "feed it in parts to a session: --max-tokens 0, then --session"},
    {"MODEL_NOT_FOUND", "see \"reprise models list\""},
    {"SESSION_NOT_FOUND", "see \"reprise sessions list\", or make it with \"sessions create\""},
    {"SNAPSHOT_NOT_FOUND", "see \"reprise snapshots list SESSION\""},
    {"SESSION_EXISTS", "choose another id, or leave the id out"},
    {"VERSION_MISMATCH", "the session went on elsewhere; see \"reprise sessions show\""},
    {"TURN_UNFINISHED", "repeat the turn with its request id, or rewind the session"},
    {"COMMITS_LOST", "see \"reprise sessions show\" for where the session stands"},
    {"COMMIT_NOT_FOUND", "repeat the turn with its request id"},
    {"SESSION_BUSY", "wait for its running turn, or fork it"},
    {"FINGERPRINT_MISMATCH", "only the model that made this state can continue it"},
    {"SNAPSHOT_IN_USE", "rewind or delete the session first"},
    {"EMPTY_SEQUENCE", "give a prompt"},
    {"EMPTY_SESSION", "feed it a prompt first"},
    {"REQUEST_ID_REUSED", "a request id stands for one turn; choose another"},
    {"STORE_FULL", "delete sessions or snapshots"},
};

int ExitCodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kUnauthenticated:
      return kExitRefused;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kAborted:
      return kExitConflict;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      return kExitTryLater;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitServerFault;
  }
}

void ReadDetails(const absl::Cord& serialized, ErrorReport& report) {
  google::rpc::Status details;
  if (!details.ParseFromString(std::string(serialized))) return;
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    google::rpc::ResourceInfo resource;
    if (any.UnpackTo(&info)) {
      report.reason = info.reason();
      report.metadata = {info.metadata().begin(), info.metadata().end()};
    } else if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        report.fields.emplace_back(violation.field(), violation.description());
      }
    } else if (any.UnpackTo(&resource)) {
      report.resource = resource.resource_name();
    } else if (any.UnpackTo(&retry)) {
      report.retry_seconds =
          static_cast<double>(retry.retry_delay().seconds()) + retry.retry_delay().nanos() * 1e-9;
    }
  }
}

std::string HintFor(const ErrorReport& report) {
  if (report.retry_seconds > 0) {
    return absl::StrFormat("try again in %.3g s", report.retry_seconds);
  }
  for (const HintOfReason& row : kHints) {
    if (report.reason == row.reason) return row.hint;
  }
  return "";
}

std::string OneLine(const std::string& text) {
  return absl::StrReplaceAll(text, {{"\n", " "}, {"\r", " "}});
}

}  // namespace

absl::Status FromRpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  out.SetPayload(kRpcPayload, absl::Cord(status.error_details()));
  return out;
}

absl::Status UsageError(std::string message) {
  return Marked(absl::StatusCode::kInvalidArgument, message, kUsagePayload);
}

absl::Status Unreachable(std::string message) {
  return Marked(absl::StatusCode::kUnavailable, message, kUnreachablePayload);
}

absl::Status Interrupted(std::string message) {
  return Marked(absl::StatusCode::kCancelled, message, kInterruptedPayload);
}

ErrorReport Explain(const absl::Status& status) {
  ErrorReport report;
  report.message = std::string(status.message());
  if (status.GetPayload(kUsagePayload).has_value()) {
    report.exit_code = kExitUsage;
    report.hint = "see --help";
  } else if (status.GetPayload(kInterruptedPayload).has_value()) {
    report.exit_code = kExitInterrupted;
  } else if (status.GetPayload(kUnreachablePayload).has_value()) {
    report.exit_code = kExitUnreachable;
    report.code = "UNAVAILABLE";
    report.hint = "is reprised running there? name another with --server or REPRISE_SERVER";
  } else if (const auto details = status.GetPayload(kRpcPayload)) {
    report.code = absl::StatusCodeToString(status.code());
    report.exit_code = ExitCodeOf(status.code());
    ReadDetails(*details, report);
    // A server of ours gives a reason; UNAVAILABLE without one is the connection's end.
    if (status.code() == absl::StatusCode::kUnavailable && report.reason.empty()) {
      report.exit_code = kExitUnreachable;
    }
    report.hint = HintFor(report);
  }
  return report;
}

std::string ErrorLine(const ErrorReport& report) {
  std::string line = report.code;
  if (!report.reason.empty()) absl::StrAppend(&line, " (", report.reason, ")");
  if (!line.empty()) line += ": ";
  // The message often says what a field's description does; then only the field's name is news.
  std::string rest;
  for (const auto& [field, description] : report.fields) {
    if (report.message.find(description) == std::string::npos) {
      absl::StrAppend(&rest, "; ", field, ": ", description);
    } else if (report.message.find(field) == std::string::npos) {
      absl::StrAppend(&line, field, ": ");
    }
  }
  absl::StrAppend(&line, report.message, rest);
  // Messages name resources by their id.
  const std::string id = report.resource.substr(report.resource.rfind('/') + 1);
  if (report.message.find(id) == std::string::npos) {
    absl::StrAppend(&line, " (", report.resource, ")");
  }
  if (!report.hint.empty()) absl::StrAppend(&line, "; hint: ", report.hint);
  return OneLine(line);
}

Json ErrorJson(const ErrorReport& report) {
  Json error = {{"exit_code", report.exit_code}, {"code", report.code},
                {"reason", report.reason},       {"message", report.message},
                {"fields", Json::array()},       {"metadata", report.metadata}};
  for (const auto& [field, description] : report.fields) {
    error["fields"].push_back({{"field", field}, {"description", description}});
  }
  if (!report.resource.empty()) error["resource"] = report.resource;
  if (report.retry_seconds > 0) error["retry_seconds"] = report.retry_seconds;
  if (!report.hint.empty()) error["hint"] = report.hint;
  return {{"error", error}};
}

}  // namespace reprise::cli
