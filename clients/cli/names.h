// Resource names as people type them: "x" for "sessions/x", "x/y" for "sessions/x/snapshots/y".
#ifndef REPRISE_CLIENTS_CLI_NAMES_H_
#define REPRISE_CLIENTS_CLI_NAMES_H_

#include <string>
#include <string_view>

namespace reprise::cli {

// "sessions/x" from "x" or "sessions/x". Anything else is passed on for the server to judge.
std::string SessionName(std::string_view text);

// "x" from "sessions/x" or "x", as CreateSessionRequest.session_id wants it.
std::string SessionId(std::string_view text);

// "sessions/x/snapshots/y" from that or from "x/y"; from "y" alone when `session` is not empty.
std::string SnapshotName(std::string_view text, std::string_view session = "");

// Either kind: what has a slash beside the collection's name is a snapshot.
std::string SessionOrSnapshotName(std::string_view text);

// The name without the collections, for tables: "x" or "x/y".
std::string ShortName(std::string_view name);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_NAMES_H_
