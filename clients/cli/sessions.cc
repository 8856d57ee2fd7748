// reprise sessions: list, show, create, fork, rewind, commit, rm, label.
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/commands.h"
#include "clients/cli/json_output.h"
#include "clients/cli/names.h"
#include "clients/cli/session_output.h"
#include "clients/cli/table.h"

namespace reprise::cli {
namespace {

using Stub = v1::SessionService::StubInterface;

// Flags of the commands that make a session.
struct NewSessionFlags {
  std::string id;
  std::string ttl;
  std::vector<std::string> labels;
  std::string request_id;

  void AddTo(CLI::App& command) {
    command.add_option("id", id, "Id of the new session (default: the server chooses)");
    command.add_option("--ttl", ttl, "Time to live without use, e.g. 2h; never");
    command.add_option("--label", labels, "KEY=VALUE; repeatable")->allow_extra_args(false);
    command.add_option("--request-id", request_id, "Repeating one gives the first result");
  }

  // For CreateSessionRequest and ForkSessionRequest, which name these fields alike.
  template <typename Request>
  absl::Status Fill(Request& request) const {
    request.set_session_id(SessionId(id));
    request.set_request_id(request_id);
    ASSIGN_OR_RETURN(auto parsed, ParseLabels(labels));
    for (const auto& [key, value] : parsed) (*request.mutable_labels())[key] = value;
    if (!ttl.empty()) {
      ASSIGN_OR_RETURN(absl::Duration duration, ParseTtl(ttl));
      *request.mutable_ttl() = ToProto(duration);
    }
    return absl::OkStatus();
  }
};

absl::Status RunList(Env& env, int limit) {
  RETURN_IF_ERROR(env.Connect());
  Table table({"SESSION", "MODEL", "TOKENS", "VERSION", "STATE", "UPDATED (UTC)", "LABELS"});
  v1::ListSessionsRequest request;
  int count = 0;
  do {
    request.set_page_size(limit > 0 ? std::min(limit - count, 1000) : 1000);
    ASSIGN_OR_RETURN(v1::ListSessionsResponse page,
                     env.Call(env.sessions(), &Stub::ListSessions, request));
    for (const v1::Session& session : page.sessions()) {
      if (env.options.json) {
        env.PrintJson(ToJson(session));
      } else {
        table.Add({ShortName(session.name()), session.model(),
                   std::to_string(session.token_count()), std::to_string(session.version()),
                   Bytes(session.state_bytes()), Time(session.update_time()), LabelText(session)});
      }
      ++count;
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || count < limit));
  if (!env.options.json) env.Print(table.ToString());
  return absl::OkStatus();
}

absl::Status RunShow(Env& env, const std::string& name) {
  RETURN_IF_ERROR(env.Connect());
  v1::GetSessionRequest request;
  request.set_name(SessionName(name));
  ASSIGN_OR_RETURN(v1::Session session, env.Call(env.sessions(), &Stub::GetSession, request));
  PrintSession(env, session);
  return absl::OkStatus();
}

absl::Status RunCreate(Env& env, const NewSessionFlags& flags, const std::string& model) {
  v1::CreateSessionRequest request;
  RETURN_IF_ERROR(flags.Fill(request));
  request.set_model(model);
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::Session session, env.Call(env.sessions(), &Stub::CreateSession, request));
  PrintSession(env, session);
  return absl::OkStatus();
}

absl::Status RunFork(Env& env, const NewSessionFlags& flags, const std::string& source) {
  v1::ForkSessionRequest request;
  RETURN_IF_ERROR(flags.Fill(request));
  request.set_source(SessionOrSnapshotName(source));
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::Session session, env.Call(env.sessions(), &Stub::ForkSession, request));
  PrintSession(env, session);
  return absl::OkStatus();
}

struct RewindFlags {
  std::string session;
  std::string snapshot;
  uint64_t version = 0;
  std::string request_id;
};

absl::Status RunRewind(Env& env, const RewindFlags& flags) {
  v1::RewindSessionRequest request;
  request.set_name(SessionName(flags.session));
  request.set_snapshot(SnapshotName(flags.snapshot, flags.session));
  request.set_session_version(flags.version);
  request.set_request_id(flags.request_id);
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::Session session, env.Call(env.sessions(), &Stub::RewindSession, request));
  PrintSession(env, session);
  return absl::OkStatus();
}

struct CommitFlags {
  std::string session, request_id;
};

absl::Status RunCommit(Env& env, const CommitFlags& flags) {
  v1::GetCommitRequest request;
  request.set_session(SessionName(flags.session));
  request.set_request_id(flags.request_id);
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::TurnCommit commit, env.Call(env.sessions(), &Stub::GetCommit, request));
  if (env.options.json) {
    env.PrintJson(ToJson(commit));
  } else {
    env.Print(absl::StrCat("committed ", commit.committed_tokens(),
                           " tokens: ", ShortName(commit.session()), " had ", commit.token_count(),
                           " tokens (version ", commit.version(), ")",
                           commit.pending() ? ", still to be written to the store" : "", "\n"));
  }
  return absl::OkStatus();
}

absl::Status RunRemove(Env& env, const std::vector<std::string>& names) {
  RETURN_IF_ERROR(env.Connect());
  for (const std::string& name : names) {
    v1::DeleteSessionRequest request;
    request.set_name(SessionName(name));
    RETURN_IF_ERROR(env.Call(env.sessions(), &Stub::DeleteSession, request).status());
    if (env.options.json) {
      env.PrintJson({{"deleted", request.name()}});
    } else {
      env.Print(absl::StrCat("deleted ", ShortName(request.name()), "\n"));
    }
  }
  return absl::OkStatus();
}

struct LabelFlags {
  std::string name;
  std::vector<std::string> changes;
  std::string ttl;
};

absl::Status RunLabel(Env& env, const LabelFlags& flags) {
  if (flags.changes.empty() && flags.ttl.empty()) {
    return UsageError("give labels (KEY=VALUE, or KEY- to remove) or --ttl");
  }
  v1::UpdateSessionRequest request;
  request.set_name(SessionName(flags.name));
  if (!flags.ttl.empty()) {
    ASSIGN_OR_RETURN(absl::Duration ttl, ParseTtl(flags.ttl));
    request.mutable_update_mask()->add_paths("ttl");
    if (ttl > absl::ZeroDuration()) *request.mutable_ttl() = ToProto(ttl);
  }
  RETURN_IF_ERROR(env.Connect());
  if (!flags.changes.empty()) {
    // The call replaces all labels, so the present ones are read first.
    v1::GetSessionRequest get;
    get.set_name(request.name());
    ASSIGN_OR_RETURN(v1::Session session, env.Call(env.sessions(), &Stub::GetSession, get));
    std::map<std::string, std::string> labels(session.labels().begin(), session.labels().end());
    RETURN_IF_ERROR(ApplyLabels(flags.changes, labels));
    request.mutable_update_mask()->add_paths("labels");
    *request.mutable_labels() = {labels.begin(), labels.end()};
  }
  ASSIGN_OR_RETURN(v1::Session session, env.Call(env.sessions(), &Stub::UpdateSession, request));
  PrintSession(env, session);
  return absl::OkStatus();
}

}  // namespace

void AddSessionsCommand(CLI::App& app, Env& env) {
  CLI::App* group = app.add_subcommand("sessions", "Durable conversations");
  group->require_subcommand(1);
  group->fallthrough();

  auto limit = std::make_shared<int>(0);
  CLI::App* list = group->add_subcommand("list", "All sessions");
  list->add_option("--limit", *limit, "Stop after so many; 0 = all")->check(CLI::NonNegativeNumber);
  list->callback([limit, &env] { env.run = [limit, &env] { return RunList(env, *limit); }; });

  auto name = std::make_shared<std::string>();
  CLI::App* show = group->add_subcommand("show", "One session");
  show->add_option("session", *name)->required();
  show->callback([name, &env] { env.run = [name, &env] { return RunShow(env, *name); }; });

  auto create_flags = std::make_shared<NewSessionFlags>();
  auto model = std::make_shared<std::string>();
  CLI::App* create = group->add_subcommand("create", "Make an empty session");
  create_flags->AddTo(*create);
  create->add_option("-m,--model", *model, "Name of its model");
  create->callback([create_flags, model, &env] {
    env.run = [create_flags, model, &env] { return RunCreate(env, *create_flags, *model); };
  });

  auto fork_flags = std::make_shared<NewSessionFlags>();
  auto source = std::make_shared<std::string>();
  CLI::App* fork = group->add_subcommand("fork", "Make a session that starts where another is");
  fork->add_option("source", *source, "A session, or a snapshot as SESSION/SNAPSHOT")->required();
  fork_flags->AddTo(*fork);
  fork->callback([fork_flags, source, &env] {
    env.run = [fork_flags, source, &env] { return RunFork(env, *fork_flags, *source); };
  });

  auto rewind_flags = std::make_shared<RewindFlags>();
  CLI::App* rewind = group->add_subcommand("rewind", "Go back to a snapshot of the session");
  rewind->add_option("session", rewind_flags->session)->required();
  rewind->add_option("snapshot", rewind_flags->snapshot)->required();
  rewind->add_option("--session-version", rewind_flags->version,
                     "Refuse unless the session has this version");
  rewind->add_option("--request-id", rewind_flags->request_id,
                     "Repeating one gives the first result");
  rewind->callback([rewind_flags, &env] {
    env.run = [rewind_flags, &env] { return RunRewind(env, *rewind_flags); };
  });

  auto commit_flags = std::make_shared<CommitFlags>();
  CLI::App* commit = group->add_subcommand("commit", "What became of the turn under a request id");
  commit->add_option("session", commit_flags->session)->required();
  commit->add_option("request-id", commit_flags->request_id)->required();
  commit->callback([commit_flags, &env] {
    env.run = [commit_flags, &env] { return RunCommit(env, *commit_flags); };
  });

  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* remove = group->add_subcommand("rm", "Delete sessions with their snapshots");
  remove->add_option("sessions", *names)->required();
  remove->callback([names, &env] { env.run = [names, &env] { return RunRemove(env, *names); }; });

  auto label_flags = std::make_shared<LabelFlags>();
  CLI::App* label = group->add_subcommand("label", "Change labels or the time to live");
  label->add_option("session", label_flags->name)->required();
  label->add_option("labels", label_flags->changes, "KEY=VALUE to set, KEY- to remove");
  label->add_option("--ttl", label_flags->ttl, "Time to live without use, e.g. 2h; never");
  label->callback([label_flags, &env] {
    env.run = [label_flags, &env] { return RunLabel(env, *label_flags); };
  });
}

}  // namespace reprise::cli
