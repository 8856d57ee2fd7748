#include "clients/cli/session_output.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/names.h"
#include "clients/cli/table.h"

namespace reprise::cli {

std::string LabelText(const v1::Session& session) {
  const std::map<std::string, std::string> labels(session.labels().begin(), session.labels().end());
  std::string text;
  for (const auto& [key, value] : labels) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", key, "=", value);
  }
  return text;
}

std::string SessionText(const v1::Session& session) {
  return KeyValues({{"session", ShortName(session.name())},
                    {"model", session.model()},
                    {"tokens", std::to_string(session.token_count())},
                    {"version", std::to_string(session.version())},
                    {"state", Bytes(session.state_bytes())},
                    {"head", ShortName(session.head_snapshot())},
                    {"forked from", ShortName(session.parent_snapshot())},
                    {"created", Time(session.create_time())},
                    {"updated", Time(session.update_time())},
                    {"expires", session.has_expire_time() ? Time(session.expire_time()) : "never"},
                    {"labels", LabelText(session)}});
}

std::string SnapshotText(const v1::Snapshot& snapshot) {
  return KeyValues({{"snapshot", ShortName(snapshot.name())},
                    {"model", snapshot.model()},
                    {"tokens", std::to_string(snapshot.token_count())},
                    {"state", Bytes(snapshot.state_bytes())},
                    {"parent", ShortName(snapshot.parent_snapshot())},
                    {"created", Time(snapshot.create_time())},
                    {"retained", snapshot.retained() ? "yes" : "no"},
                    {"weights", snapshot.weights_fingerprint()},
                    {"layout", snapshot.layout_digest()},
                    {"token hash", snapshot.token_hash()}});
}

void PrintSession(const Env& env, const v1::Session& session) {
  if (env.options.json) {
    env.PrintJson(ToJson(session));
  } else {
    env.Print(SessionText(session));
  }
}

void PrintSnapshot(const Env& env, const v1::Snapshot& snapshot) {
  if (env.options.json) {
    env.PrintJson(ToJson(snapshot));
  } else {
    env.Print(SnapshotText(snapshot));
  }
}

absl::Status ApplyLabels(const std::vector<std::string>& changes,
                         std::map<std::string, std::string>& labels) {
  std::map<std::string, std::string> changed = labels;
  for (const std::string& change : changes) {
    if (change.find('=') == change.npos && change.size() > 1 && change.back() == '-') {
      changed.erase(change.substr(0, change.size() - 1));
      continue;
    }
    ASSIGN_OR_RETURN(const auto pair, ParseLabels({change}));
    for (const auto& [key, value] : pair) changed[key] = value;
  }
  labels = std::move(changed);
  return absl::OkStatus();
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

}  // namespace reprise::cli
