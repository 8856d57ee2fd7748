#include "clients/cli/env.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/table.h"

namespace reprise::cli {
namespace {

constexpr double kConnectSeconds = 5;

std::chrono::system_clock::time_point After(double seconds) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(
             std::chrono::duration<double>(seconds));
}

}  // namespace

absl::Status Env::Connect() {
  if (channel_ != nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(CheckTokenIsSafe(options.security, options.server));
  ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(options.security));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  if (!options.security.server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.security.server_name);
  }
  auto channel = grpc::CreateCustomChannel(options.server, credentials, arguments);
  const double seconds = options.timeout_seconds > 0
                             ? std::min(options.timeout_seconds, kConnectSeconds)
                             : kConnectSeconds;
  const auto deadline = After(seconds);
  // gRPC itself would go on trying; a person at a terminal wants to know.
  while (true) {
    const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) break;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) {
      return Unreachable(absl::StrCat("cannot connect to ", options.server,
                                      options.security.encrypted() ? " with TLS" : ""));
    }
    if (!channel->WaitForStateChange(state, deadline)) {
      return Unreachable(
          absl::StrCat("no answer from ", options.server, " within ", Seconds(seconds)));
    }
  }
  channel_ = std::move(channel);
  generation_ = v1::GenerationService::NewStub(channel_);
  sessions_ = v1::SessionService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
  return absl::OkStatus();
}

void Env::Authorize(grpc::ClientContext& context) const {
  if (options.security.token.empty()) return;
  context.AddMetadata("authorization", absl::StrCat("Bearer ", options.security.token));
}

void Env::Prepare(grpc::ClientContext& context, double default_seconds) const {
  Authorize(context);
  const double seconds = options.timeout_seconds > 0 ? options.timeout_seconds : default_seconds;
  if (seconds > 0) context.set_deadline(After(seconds));
}

void Env::EndCall(absl::Duration elapsed, std::optional<absl::Duration> first_token) {
  last_call_seconds_ = absl::ToDoubleSeconds(elapsed);
  last_first_token_seconds_.reset();
  if (first_token.has_value()) last_first_token_seconds_ = absl::ToDoubleSeconds(*first_token);
  if (!options.timing) return;
  const std::string first =
      first_token.has_value()
          ? absl::StrCat(", the first token ", Seconds(*last_first_token_seconds_))
          : "";
  Note(absl::StrCat("call took ", Seconds(last_call_seconds_), first));
}

void Env::Print(absl::string_view text) const {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void Env::PrintJson(Json value) const {
  if (options.timing) {
    value["call_seconds"] = last_call_seconds_;
    if (last_first_token_seconds_.has_value()) {
      value["first_token_seconds"] = *last_first_token_seconds_;
    }
  }
  Print(absl::StrCat(JsonLine(value), "\n"));
}

void Env::Note(absl::string_view text) const {
  if (options.json) return;
  std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
}

absl::StatusOr<std::string> ReadInput(const std::string& path) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  std::string text;
  char buffer[1 << 16];
  size_t count = 0;
  while ((count = std::fread(buffer, 1, sizeof(buffer), file)) > 0) text.append(buffer, count);
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  if (file != stdin) std::fclose(file);
  if (failed) {
    return absl::InternalError(absl::StrCat("cannot read ", path, ": ", std::strerror(error)));
  }
  return text;
}

absl::StatusOr<std::map<std::string, std::string>> ParseLabels(
    const std::vector<std::string>& texts) {
  std::map<std::string, std::string> labels;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == text.npos || equals == 0) {
      return UsageError(absl::StrCat("a label is KEY=VALUE, not \"", text, "\""));
    }
    labels[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return labels;
}

absl::StatusOr<absl::Duration> ParseTtl(const std::string& text) {
  if (text == "never") return absl::ZeroDuration();
  double seconds = 0;
  absl::Duration ttl;
  bool valid = absl::SimpleAtod(text, &seconds);
  if (valid) {
    ttl = absl::Seconds(seconds);
  } else {
    valid = absl::ParseDuration(text, &ttl);
  }
  if (!valid || ttl < absl::ZeroDuration() || ttl == absl::InfiniteDuration()) {
    return UsageError(
        absl::StrCat("a time to live is like 90s, 2h, 1h30m or never, not \"", text, "\""));
  }
  return ttl;
}

}  // namespace reprise::cli
