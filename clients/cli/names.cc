#include "clients/cli/names.h"

namespace reprise::cli {
namespace {

constexpr std::string_view kSessions = "sessions/";
constexpr std::string_view kSnapshots = "/snapshots/";

std::string Join(std::string_view session_id, std::string_view snapshot_id) {
  std::string name(kSessions);
  name += session_id;
  name += kSnapshots;
  name += snapshot_id;
  return name;
}

}  // namespace

std::string SessionName(std::string_view text) {
  if (text.empty() || text.starts_with(kSessions)) return std::string(text);
  return std::string(kSessions) + std::string(text);
}

std::string SessionId(std::string_view text) {
  if (text.starts_with(kSessions)) text.remove_prefix(kSessions.size());
  return std::string(text);
}

std::string SnapshotName(std::string_view text, std::string_view session) {
  if (text.find(kSnapshots) != text.npos) return SessionName(text);
  if (text.starts_with(kSessions)) text.remove_prefix(kSessions.size());
  const size_t slash = text.find('/');
  if (slash != text.npos) return Join(text.substr(0, slash), text.substr(slash + 1));
  if (session.empty() || text.empty()) return std::string(text);
  return Join(SessionId(session), text);
}

std::string SessionOrSnapshotName(std::string_view text) {
  const bool snapshot = SessionId(text).find('/') != std::string::npos;
  return snapshot ? SnapshotName(text) : SessionName(text);
}

std::string ShortName(std::string_view name) {
  const std::string id = SessionId(name);
  const size_t at = id.find(kSnapshots);
  if (at == id.npos) return id;
  return id.substr(0, at) + '/' + id.substr(at + kSnapshots.size());
}

}  // namespace reprise::cli
