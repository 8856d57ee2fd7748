// What every command has: global options, the connection, ways to call and to print.
#ifndef REPRISE_CLIENTS_CLI_ENV_H_
#define REPRISE_CLIENTS_CLI_ENV_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "clients/cli/errors.h"
#include "clients/cli/json_output.h"
#include "clients/cli/security.h"
#include "reprise/v1/generation.grpc.pb.h"
#include "reprise/v1/model.grpc.pb.h"
#include "reprise/v1/session.grpc.pb.h"

namespace reprise::cli {

struct GlobalOptions {
  std::string server = "127.0.0.1:7420";
  double timeout_seconds = 0;  // 0 = none for streams, 30 for the rest
  bool json = false;
  bool timing = false;
  SecurityOptions security;
};

// Not thread-safe.
class Env {
 public:
  GlobalOptions options;
  // What the parsed command line asks for; set by the chosen subcommand.
  std::function<absl::Status()> run;

  // Connects at the first call; an unreachable server is told at once instead of at a deadline.
  absl::Status Connect();
  v1::GenerationService::StubInterface& generation() { return *generation_; }
  v1::SessionService::StubInterface& sessions() { return *sessions_; }
  v1::ModelService::StubInterface& models() { return *models_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Says whose a call is.
  void Authorize(grpc::ClientContext& context) const;
  // The same, and sets --timeout on the call, or `default_seconds` without it (0 = none).
  void Prepare(grpc::ClientContext& context, double default_seconds) const;

  // One unary call, e.g. Call(sessions(), &v1::SessionService::StubInterface::GetSession, request);
  // the connection must be there.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) {
    grpc::ClientContext context;
    Prepare(context, 30);
    Response response;
    const absl::Time start = absl::Now();
    const grpc::Status status = (stub.*method)(&context, request, &response);
    EndCall(absl::Now() - start);
    if (!status.ok()) return FromRpc(status);
    return response;
  }

  // Remembers how long a call took, and a stream's first answer if it had one, for --timing.
  void EndCall(absl::Duration elapsed, std::optional<absl::Duration> first_token = std::nullopt);

  // Writes to stdout and flushes, so that a reader sees text as it comes.
  void Print(absl::string_view text) const;
  // One line of JSON; with --timing the last call's durations join it as "call_seconds" and
  // "first_token_seconds".
  void PrintJson(Json value) const;
  // One line to stderr for people; nothing in JSON mode.
  void Note(absl::string_view text) const;

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::StubInterface> generation_;
  std::unique_ptr<v1::SessionService::StubInterface> sessions_;
  std::unique_ptr<v1::ModelService::StubInterface> models_;
  double last_call_seconds_ = 0;
  std::optional<double> last_first_token_seconds_;
};

// The whole of a file, or of stdin for "-".
absl::StatusOr<std::string> ReadInput(const std::string& path);

// {"key": "value"} of "key=value" texts.
absl::StatusOr<std::map<std::string, std::string>> ParseLabels(
    const std::vector<std::string>& texts);

// "30s", "2h", "1h30m", or bare seconds; "0" and "never" are no duration.
absl::StatusOr<absl::Duration> ParseTtl(const std::string& text);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_ENV_H_
