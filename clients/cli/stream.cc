#include "clients/cli/stream.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/names.h"
#include "clients/cli/table.h"

namespace reprise::cli {
namespace {

constexpr double kLookSeconds = 1;

std::optional<v1::Session> LookAt(Env& env, const std::string& name) {
  grpc::ClientContext context;
  env.Authorize(context);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  v1::GetSessionRequest request;
  request.set_name(name);
  v1::Session session;
  if (!env.sessions().GetSession(&context, request, &session).ok()) return std::nullopt;
  return session;
}

// Tokens of the request's prompt in its session, if it stands in the middle of that turn.
int64_t TokensKept(Env& env, const v1::GenerateRequest& request) {
  if (request.request_id().empty()) return 0;
  grpc::ClientContext context;
  env.Authorize(context);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  v1::GetCommitRequest get;
  get.set_session(request.session());
  get.set_request_id(request.request_id());
  v1::TurnCommit turn;
  const bool known = env.sessions().GetCommit(&context, get, &turn).ok();
  return known && turn.unfinished() ? turn.prompt_tokens_done() : 0;
}

// The cancelled turn commits within about one step; until then the session has its old version.
absl::Status AfterCancel(Env& env, const v1::GenerateRequest& request,
                         const std::optional<v1::Session>& before) {
  const std::string& session = request.session();
  if (session.empty()) return Interrupted("interrupted");
  const absl::Time give_up = absl::Now() + absl::Seconds(kLookSeconds);
  std::optional<v1::Session> now = LookAt(env, session);
  while (now.has_value() && before.has_value() && now->version() == before->version() &&
         absl::Now() < give_up) {
    absl::SleepFor(absl::Milliseconds(20));
    now = LookAt(env, session);
  }
  if (!now.has_value()) return Interrupted("interrupted; the session's state could not be read");
  std::string text = absl::StrCat("interrupted; session ", ShortName(session), " has ",
                                  now->token_count(), " tokens now (version ", now->version(), ")");
  if (const int64_t kept = TokensKept(env, request); kept > 0) {
    absl::StrAppend(&text, ", ", kept, " of them of this prompt, and stands in the middle of it: ",
                    "repeat the command with --request-id ", request.request_id(), " to go on");
  }
  return Interrupted(text);
}

}  // namespace

absl::StatusOr<v1::Finished> RunStream(Env& env, const v1::GenerateRequest& request,
                                       const std::function<void(const v1::Tokens&)>& on_tokens) {
  auto finished = RunChoices(env, request, on_tokens);
  if (!finished.ok()) return finished.status();
  return std::move(finished->front());
}

absl::StatusOr<std::vector<v1::Finished>> RunChoices(
    Env& env, const v1::GenerateRequest& request,
    const std::function<void(const v1::Tokens&)>& on_tokens) {
  grpc::ClientContext context;
  env.Prepare(context, 0);
  std::atomic<bool> interrupted = false;
  std::optional<v1::Session> before;
  std::vector<v1::Finished> finished;
  grpc::Status status;
  const absl::Time start = absl::Now();
  std::optional<absl::Duration> first_token;
  {
    OnInterrupt on_interrupt([&] {
      interrupted = true;
      if (!request.session().empty()) before = LookAt(env, request.session());
      context.TryCancel();
    });
    auto reader = env.generation().Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      if (response.has_tokens()) {
        if (!first_token.has_value()) first_token = absl::Now() - start;
        on_tokens(response.tokens());
      }
      if (response.has_finished()) finished.push_back(std::move(*response.mutable_finished()));
    }
    status = reader->Finish();
  }
  env.EndCall(absl::Now() - start, first_token);
  if (!status.ok()) {
    return interrupted ? AfterCancel(env, request, before) : FromRpc(status);
  }
  if (finished.empty()) return absl::InternalError("the stream ended without its last event");
  std::sort(finished.begin(), finished.end(),
            [](const auto& a, const auto& b) { return a.choice() < b.choice(); });
  return finished;
}

std::string UsageLine(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const v1::Timeline& timeline = finished.timeline();
  std::string line = absl::StrCat(usage.prompt_tokens(), " prompt + ", usage.completion_tokens(),
                                  " generated tokens");
  std::string reused;
  if (usage.restored_tokens() > 0) absl::StrAppend(&reused, usage.restored_tokens(), " restored");
  if (usage.cached_tokens() > 0) {
    absl::StrAppend(&reused, reused.empty() ? "" : ", ", usage.cached_tokens(), " cached");
  }
  if (!reused.empty()) absl::StrAppend(&line, " (", reused, ")");
  if (timeline.decode_seconds() > 0 && usage.completion_tokens() > 1) {
    // The first token comes out of the prefill.
    absl::StrAppendFormat(&line, ", %.1f tokens/s",
                          (usage.completion_tokens() - 1) / timeline.decode_seconds());
  }
  if (timeline.time_to_first_token_seconds() > 0) {
    absl::StrAppend(&line, ", first token after ", Seconds(timeline.time_to_first_token_seconds()));
  }
  // no_entry is what every new prompt hears.
  if (!usage.reuse_miss_reason().empty() && usage.reuse_miss_reason() != "no_entry") {
    absl::StrAppend(&line, ", nothing reused: ", usage.reuse_miss_reason());
  }
  if (finished.has_commit()) {
    absl::StrAppend(&line, "; session ", ShortName(finished.commit().session()), " has ",
                    finished.commit().token_count(), " tokens (version ",
                    finished.commit().version(), ")",
                    finished.commit().already_committed() ? ", committed before" : "");
  }
  return line;
}

}  // namespace reprise::cli
