// reprise chat: a loop over one session. What is typed is appended to the text and the model goes
// on.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/chat_input.h"
#include "clients/cli/commands.h"
#include "clients/cli/names.h"
#include "clients/cli/request_flags.h"
#include "clients/cli/stream.h"
#include "clients/cli/table.h"

namespace reprise::cli {
namespace {

using Stub = v1::SessionService::StubInterface;

constexpr int kAnswerTokens = 128;

constexpr char kHelp[] =
    "A line is appended to the text and the model goes on; an empty line just lets it go on.\n"
    "  /fork [ID]      go on in a copy of this session; the original stays as it is\n"
    "  /session ID     change to another session\n"
    "  /snapshot       keep this point\n"
    "  /rewind [ID]    back to a snapshot; without ID to the latest\n"
    "  /seed [N]       sample with this seed; without N let the server choose\n"
    "  /show           the session\n"
    "  /help, /quit\n";

struct ChatFlags {
  RequestFlags request;
  std::string session;
  std::string before = "\n";
  std::string after;
};

class Chat {
 public:
  Chat(Env& env, const ChatFlags& flags)
      : env_(env),
        flags_(flags),
        request_flags_(flags.request),
        terminal_(::isatty(STDIN_FILENO)) {}

  absl::Status Run();

 private:
  // Opens the session, or makes it when it does not exist.
  absl::Status Open(const std::string& name);
  absl::Status Turn(const std::string& line);
  absl::Status Command(const ChatCommand& command);
  absl::Status Fork(const std::string& id);
  absl::Status Snapshot();
  absl::Status Rewind(std::string id);
  absl::Status Seed(const std::string& text);

  Env& env_;
  const ChatFlags& flags_;
  RequestFlags request_flags_;
  const bool terminal_;
  v1::Session session_;
};

absl::Status Chat::Open(const std::string& name) {
  absl::StatusOr<v1::Session> session = absl::NotFoundError("");
  if (!name.empty()) {
    v1::GetSessionRequest get;
    get.set_name(SessionName(name));
    session = env_.Call(env_.sessions(), &Stub::GetSession, get);
    if (!session.ok() && !absl::IsNotFound(session.status())) return session.status();
  }
  if (!session.ok()) {
    v1::CreateSessionRequest create;
    create.set_session_id(SessionId(name));
    create.set_model(request_flags_.model);
    session = env_.Call(env_.sessions(), &Stub::CreateSession, create);
    RETURN_IF_ERROR(session.status());
  }
  session_ = *std::move(session);
  env_.Note(absl::StrCat("[session ", ShortName(session_.name()), ", ", session_.token_count(),
                         " tokens]"));
  return absl::OkStatus();
}

absl::Status Chat::Turn(const std::string& line) {
  v1::GenerateRequest request;
  RETURN_IF_ERROR(request_flags_.Fill(request));
  if (!request_flags_.max_tokens.has_value()) {
    request.mutable_stop()->set_max_tokens(kAnswerTokens);
  }
  request.set_session(session_.name());
  const bool first = session_.token_count() == 0;
  if (line.empty() && first) return UsageError("the text is empty: type its beginning");
  if (!line.empty()) request.set_text(absl::StrCat(first ? "" : flags_.before, line, flags_.after));

  const auto on_tokens = [&](const v1::Tokens& tokens) {
    if (env_.options.json) {
      Json event = {{"event", "tokens"}};
      event.update(ToJson(tokens));
      env_.Print(absl::StrCat(JsonLine(event), "\n"));
    } else {
      env_.Print(tokens.text());
    }
  };
  const absl::StatusOr<v1::Finished> finished = RunStream(env_, request, on_tokens);
  if (!finished.ok()) {
    if (!env_.options.json) env_.Print("\n");
    return finished.status();
  }
  if (env_.options.json) {
    Json event = {{"event", "finished"}};
    event.update(ToJson(*finished));
    env_.PrintJson(std::move(event));
  } else {
    env_.Print(absl::StrCat(finished->text(), "\n"));
  }
  session_.set_token_count(finished->commit().token_count());
  session_.set_version(finished->commit().version());
  session_.set_head_snapshot(finished->commit().snapshot());
  return absl::OkStatus();
}

absl::Status Chat::Fork(const std::string& id) {
  v1::ForkSessionRequest request;
  request.set_source(session_.name());
  request.set_session_id(SessionId(id));
  ASSIGN_OR_RETURN(v1::Session fork, env_.Call(env_.sessions(), &Stub::ForkSession, request));
  env_.Note(absl::StrCat("[now in ", ShortName(fork.name()), ", a fork of ",
                         ShortName(session_.name()), "; /session ", ShortName(session_.name()),
                         " goes back]"));
  session_ = std::move(fork);
  return absl::OkStatus();
}

absl::Status Chat::Snapshot() {
  v1::CreateSnapshotRequest request;
  request.set_session(session_.name());
  ASSIGN_OR_RETURN(v1::Snapshot snapshot,
                   env_.Call(env_.sessions(), &Stub::CreateSnapshot, request));
  env_.Note(absl::StrCat("[snapshot ", ShortName(snapshot.name()), " at ", snapshot.token_count(),
                         " tokens, ", Bytes(snapshot.state_bytes()), "]"));
  return absl::OkStatus();
}

absl::Status Chat::Rewind(std::string id) {
  if (id.empty()) {
    v1::ListSnapshotsRequest list;
    list.set_session(session_.name());
    list.set_page_size(1000);
    ASSIGN_OR_RETURN(v1::ListSnapshotsResponse response,
                     env_.Call(env_.sessions(), &Stub::ListSnapshots, list));
    int64_t latest = -1;
    for (const v1::Snapshot& snapshot : response.snapshots()) {
      if (!snapshot.retained() || snapshot.token_count() <= latest) continue;
      latest = snapshot.token_count();
      id = snapshot.name();
    }
    if (id.empty()) return UsageError("the session has no kept snapshot; /snapshot makes one");
  }
  v1::RewindSessionRequest request;
  request.set_name(session_.name());
  request.set_snapshot(SnapshotName(id, session_.name()));
  ASSIGN_OR_RETURN(session_, env_.Call(env_.sessions(), &Stub::RewindSession, request));
  env_.Note(absl::StrCat("[back at ", session_.token_count(), " tokens]"));
  return absl::OkStatus();
}

absl::Status Chat::Seed(const std::string& text) {
  uint64_t seed = 0;
  if (text.empty()) {
    request_flags_.seed.reset();
  } else if (absl::SimpleAtoi(text, &seed)) {
    request_flags_.seed = seed;
  } else {
    return UsageError("a seed is a whole number");
  }
  if (request_flags_.temperature == 0) env_.Note("[note: without --temperature nothing is drawn]");
  return absl::OkStatus();
}

absl::Status Chat::Command(const ChatCommand& command) {
  if (command.name == "fork") return Fork(command.argument);
  if (command.name == "session" && !command.argument.empty()) return Open(command.argument);
  if (command.name == "snapshot") return Snapshot();
  if (command.name == "rewind") return Rewind(command.argument);
  if (command.name == "seed") return Seed(command.argument);
  if (command.name == "help") {
    env_.Note(kHelp);
    return absl::OkStatus();
  }
  if (command.name == "show") {
    env_.Note(absl::StrCat("[session ", ShortName(session_.name()), ", ", session_.token_count(),
                           " tokens, version ", session_.version(), "]"));
    return absl::OkStatus();
  }
  return UsageError(absl::StrCat("no command /", command.name, "; /help lists them"));
}

absl::Status Chat::Run() {
  RETURN_IF_ERROR(env_.Connect());
  RETURN_IF_ERROR(Open(flags_.session));
  absl::Status last;
  std::string line;
  while (true) {
    if (terminal_) {
      std::fputs("> ", stderr);
    }
    if (!std::getline(std::cin, line)) break;
    const std::optional<ChatCommand> command = ParseChatCommand(line);
    if (command.has_value() && command->name == "quit") break;
    last = command.has_value() ? Command(*command) : Turn(Unescaped(line));
    if (last.ok()) continue;
    // A person can correct a mistake; a script should stop at it.
    if (!terminal_ || Explain(last).exit_code == kExitUnreachable) return last;
    std::fprintf(stderr, "[%s]\n", ErrorLine(Explain(last)).c_str());
    v1::GetSessionRequest get;
    get.set_name(session_.name());
    if (auto now = env_.Call(env_.sessions(), &Stub::GetSession, get); now.ok()) session_ = *now;
  }
  if (terminal_) {
    env_.Note(absl::StrCat("[session ", ShortName(session_.name()), " keeps its ",
                           session_.token_count(), " tokens: reprise chat --session ",
                           ShortName(session_.name()), "]"));
  }
  return absl::OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& app, Env& env) {
  CLI::App* command =
      app.add_subcommand("chat", "Write a text together with the model, turn by turn");
  auto flags = std::make_shared<ChatFlags>();
  command->add_option("--session", flags->session,
                      "Go on with this session, or make it (default: a new one)");
  command->add_option("--before", flags->before,
                      "Put before each line but the text's first (default: a newline)");
  command->add_option("--after", flags->after, "Put after each line");
  flags->request.AddTo(*command);
  command->footer(kHelp);
  command->callback([flags, &env] { env.run = [flags, &env] { return Chat(env, *flags).Run(); }; });
}

}  // namespace reprise::cli
