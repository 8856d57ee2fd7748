// How sessions and snapshots are shown, and the small conversions around them.
#ifndef REPRISE_CLIENTS_CLI_SESSION_OUTPUT_H_
#define REPRISE_CLIENTS_CLI_SESSION_OUTPUT_H_

#include <google/protobuf/duration.pb.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "clients/cli/env.h"

namespace reprise::cli {

std::string SessionText(const v1::Session& session);
std::string SnapshotText(const v1::Snapshot& snapshot);
// "a=1, b=2", sorted.
std::string LabelText(const v1::Session& session);

// As JSON or as text, as the options say.
void PrintSession(const Env& env, const v1::Session& session);
void PrintSnapshot(const Env& env, const v1::Snapshot& snapshot);

// "KEY=VALUE" sets, "KEY-" removes. Nothing is changed unless all are well formed.
absl::Status ApplyLabels(const std::vector<std::string>& changes,
                         std::map<std::string, std::string>& labels);

google::protobuf::Duration ToProto(absl::Duration duration);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_SESSION_OUTPUT_H_
