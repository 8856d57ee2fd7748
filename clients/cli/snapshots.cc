// reprise snapshots: list, show, create, rm, export, import.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/names.h"
#include "clients/cli/session_output.h"
#include "clients/cli/table.h"

namespace reprise::cli {
namespace {

using Stub = v1::SessionService::StubInterface;

constexpr size_t kPieceBytes = 256 << 10;

absl::Status FileError(const std::string& verb, const std::string& path) {
  return absl::InternalError(absl::StrCat("cannot ", verb, " ", path, ": ", std::strerror(errno)));
}

absl::Status RunList(Env& env, const std::string& session) {
  RETURN_IF_ERROR(env.Connect());
  Table table({"SNAPSHOT", "MODEL", "TOKENS", "STATE", "CREATED (UTC)", "RETAINED"});
  v1::ListSnapshotsRequest request;
  request.set_session(SessionName(session));
  request.set_page_size(1000);
  do {
    ASSIGN_OR_RETURN(v1::ListSnapshotsResponse page,
                     env.Call(env.sessions(), &Stub::ListSnapshots, request));
    for (const v1::Snapshot& snapshot : page.snapshots()) {
      if (env.options.json) {
        env.PrintJson(ToJson(snapshot));
      } else {
        table.Add({ShortName(snapshot.name()), snapshot.model(),
                   std::to_string(snapshot.token_count()), Bytes(snapshot.state_bytes()),
                   Time(snapshot.create_time()), snapshot.retained() ? "yes" : "no"});
      }
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (!env.options.json) env.Print(table.ToString());
  return absl::OkStatus();
}

absl::Status RunShow(Env& env, const std::string& name) {
  RETURN_IF_ERROR(env.Connect());
  v1::GetSnapshotRequest request;
  request.set_name(SnapshotName(name));
  ASSIGN_OR_RETURN(v1::Snapshot snapshot, env.Call(env.sessions(), &Stub::GetSnapshot, request));
  PrintSnapshot(env, snapshot);
  return absl::OkStatus();
}

absl::Status RunCreate(Env& env, const std::string& session) {
  RETURN_IF_ERROR(env.Connect());
  v1::CreateSnapshotRequest request;
  request.set_session(SessionName(session));
  ASSIGN_OR_RETURN(v1::Snapshot snapshot, env.Call(env.sessions(), &Stub::CreateSnapshot, request));
  PrintSnapshot(env, snapshot);
  return absl::OkStatus();
}

absl::Status RunRemove(Env& env, const std::vector<std::string>& names) {
  RETURN_IF_ERROR(env.Connect());
  for (const std::string& name : names) {
    v1::DeleteSnapshotRequest request;
    request.set_name(SnapshotName(name));
    RETURN_IF_ERROR(env.Call(env.sessions(), &Stub::DeleteSnapshot, request).status());
    if (env.options.json) {
      env.PrintJson({{"deleted", request.name()}});
    } else {
      env.Print(absl::StrCat("deleted ", ShortName(request.name()), "\n"));
    }
  }
  return absl::OkStatus();
}

// Reads the stream into `file`; returns the number of bytes.
absl::StatusOr<int64_t> ReceiveSnapshot(Env& env, const std::string& name, std::FILE* file,
                                        const std::string& path) {
  grpc::ClientContext context;
  env.Prepare(context, 0);
  OnInterrupt on_interrupt([&] { context.TryCancel(); });
  v1::ExportSnapshotRequest request;
  request.set_name(SessionOrSnapshotName(name));
  const absl::Time start = absl::Now();
  auto reader = env.sessions().ExportSnapshot(&context, request);
  v1::ExportSnapshotResponse response;
  int64_t bytes = 0;
  while (reader->Read(&response)) {
    const std::string& data = response.data();
    if (std::fwrite(data.data(), 1, data.size(), file) != data.size()) {
      const absl::Status error = FileError("write", path);
      context.TryCancel();
      reader->Finish().IgnoreError();
      return error;
    }
    bytes += static_cast<int64_t>(data.size());
  }
  RETURN_IF_ERROR(FromRpc(reader->Finish()));
  env.EndCall(absl::Now() - start);
  return bytes;
}

absl::Status RunExport(Env& env, const std::string& name, const std::string& path) {
  RETURN_IF_ERROR(env.Connect());
  if (path == "-") {
    RETURN_IF_ERROR(ReceiveSnapshot(env, name, stdout, "standard output").status());
    return std::fflush(stdout) == 0 ? absl::OkStatus() : FileError("write", "standard output");
  }
  // Under another name until it is whole, so that a file of this name is always a snapshot.
  const std::string partial = path + ".partial";
  std::FILE* file = std::fopen(partial.c_str(), "wb");
  if (file == nullptr) return FileError("write", partial);
  absl::Cleanup remove_partial = [&] { std::remove(partial.c_str()); };
  const absl::StatusOr<int64_t> bytes = ReceiveSnapshot(env, name, file, partial);
  const bool closed = std::fclose(file) == 0;
  RETURN_IF_ERROR(bytes.status());
  if (!closed) return FileError("write", partial);
  if (std::rename(partial.c_str(), path.c_str()) != 0) return FileError("write", path);
  std::move(remove_partial).Cancel();
  if (env.options.json) {
    env.PrintJson({{"exported", SessionOrSnapshotName(name)}, {"file", path}, {"bytes", *bytes}});
  } else {
    env.Print(absl::StrCat("exported ", ShortName(SessionOrSnapshotName(name)), " to ", path, " (",
                           Bytes(*bytes), ")\n"));
  }
  return absl::OkStatus();
}

struct ImportFlags {
  std::string path;
  std::string id;
  std::string model;
  std::string ttl;
  std::vector<std::string> labels;
};

absl::Status FillImport(const ImportFlags& flags, v1::CreateSessionRequest& session) {
  session.set_session_id(SessionId(flags.id));
  session.set_model(flags.model);
  if (!flags.ttl.empty()) {
    ASSIGN_OR_RETURN(absl::Duration ttl, ParseTtl(flags.ttl));
    *session.mutable_ttl() = ToProto(ttl);
  }
  ASSIGN_OR_RETURN(const auto labels, ParseLabels(flags.labels));
  *session.mutable_labels() = {labels.begin(), labels.end()};
  return absl::OkStatus();
}

absl::Status RunImport(Env& env, const ImportFlags& flags) {
  v1::ImportSnapshotRequest first;
  RETURN_IF_ERROR(FillImport(flags, *first.mutable_session()));
  std::FILE* file = flags.path == "-" ? stdin : std::fopen(flags.path.c_str(), "rb");
  if (file == nullptr) return FileError("read", flags.path);
  absl::Cleanup close = [&] {
    if (file != stdin) std::fclose(file);
  };
  RETURN_IF_ERROR(env.Connect());

  grpc::ClientContext context;
  env.Prepare(context, 0);
  OnInterrupt on_interrupt([&] { context.TryCancel(); });
  v1::Session session;
  const absl::Time start = absl::Now();
  auto writer = env.sessions().ImportSnapshot(&context, &session);
  std::vector<char> buffer(kPieceBytes);
  bool going = writer->Write(first);
  while (going) {
    const size_t count = std::fread(buffer.data(), 1, buffer.size(), file);
    if (count == 0) break;
    v1::ImportSnapshotRequest piece;
    piece.set_data(buffer.data(), count);
    going = writer->Write(piece);  // false: the server has refused; Finish says why
  }
  if (std::ferror(file) != 0) {
    const absl::Status error = FileError("read", flags.path);
    context.TryCancel();
    writer->Finish().IgnoreError();
    return error;
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  env.EndCall(absl::Now() - start);
  RETURN_IF_ERROR(FromRpc(status));
  PrintSession(env, session);
  return absl::OkStatus();
}

}  // namespace

void AddSnapshotsCommand(CLI::App& app, Env& env) {
  CLI::App* group = app.add_subcommand("snapshots", "Immutable states of sessions");
  group->require_subcommand(1);
  group->fallthrough();
  auto name = std::make_shared<std::string>();

  CLI::App* list = group->add_subcommand("list", "Snapshots of a session");
  list->add_option("session", *name)->required();
  list->callback([name, &env] { env.run = [name, &env] { return RunList(env, *name); }; });

  CLI::App* show = group->add_subcommand("show", "One snapshot");
  show->add_option("snapshot", *name, "SESSION/SNAPSHOT")->required();
  show->callback([name, &env] { env.run = [name, &env] { return RunShow(env, *name); }; });

  CLI::App* create = group->add_subcommand("create", "Keep the present state of a session");
  create->add_option("session", *name)->required();
  create->callback([name, &env] { env.run = [name, &env] { return RunCreate(env, *name); }; });

  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* remove = group->add_subcommand("rm", "Delete snapshots");
  remove->add_option("snapshots", *names, "SESSION/SNAPSHOT")->required();
  remove->callback([names, &env] { env.run = [names, &env] { return RunRemove(env, *names); }; });

  auto path = std::make_shared<std::string>();
  CLI::App* export_command = group->add_subcommand("export", "Write a snapshot to a file");
  export_command->add_option("source", *name, "SESSION/SNAPSHOT, or a session for its head")
      ->required();
  export_command->add_option("file", *path, "- is standard output")->required();
  export_command->callback([name, path, &env] {
    env.run = [name, path, &env] { return RunExport(env, *name, *path); };
  });

  auto flags = std::make_shared<ImportFlags>();
  CLI::App* import_command = group->add_subcommand("import", "Make a session from such a file");
  import_command->add_option("file", flags->path, "- is standard input")->required();
  import_command->add_option("id", flags->id,
                             "Id of the new session (default: the server chooses)");
  import_command->add_option("-m,--model", flags->model, "Name of its model on this server");
  import_command->add_option("--ttl", flags->ttl, "Time to live without use, e.g. 2h; never");
  import_command->add_option("--label", flags->labels, "KEY=VALUE; repeatable")
      ->allow_extra_args(false);
  import_command->callback(
      [flags, &env] { env.run = [flags, &env] { return RunImport(env, *flags); }; });
}

}  // namespace reprise::cli
