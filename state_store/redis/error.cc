#include "state_store/redis/error.h"

#include <iterator>
#include <string>

#include "absl/strings/cord.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

struct Row {
  RedisError error;
  std::string_view name;
  absl::StatusCode code;
  bool transient;
  bool breaks;
};

constexpr Row kRows[] = {
    {RedisError::kNone, "NONE", absl::StatusCode::kInternal, false, false},
    {RedisError::kRefused, "REFUSED", absl::StatusCode::kUnavailable, true, true},
    {RedisError::kClosed, "CLOSED", absl::StatusCode::kUnavailable, true, true},
    {RedisError::kTimeout, "TIMEOUT", absl::StatusCode::kDeadlineExceeded, true, true},
    {RedisError::kProtocol, "PROTOCOL", absl::StatusCode::kInternal, false, true},
    {RedisError::kTls, "TLS", absl::StatusCode::kUnavailable, false, true},
    {RedisError::kUnready, "UNREADY", absl::StatusCode::kUnavailable, true, false},
    {RedisError::kMoved, "MOVED", absl::StatusCode::kUnavailable, true, false},
    {RedisError::kNoScript, "NOSCRIPT", absl::StatusCode::kUnavailable, true, false},
    {RedisError::kMemory, "MEMORY", absl::StatusCode::kResourceExhausted, false, false},
    {RedisError::kNoAuth, "NOAUTH", absl::StatusCode::kUnauthenticated, false, false},
    {RedisError::kDenied, "DENIED", absl::StatusCode::kPermissionDenied, false, false},
    {RedisError::kServer, "SERVER", absl::StatusCode::kInternal, false, false},
};

constexpr bool RowsMatchEnum() {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<size_t>(kRows[i].error) != i) return false;
  }
  return std::size(kRows) == static_cast<size_t>(RedisError::kServer) + 1;
}
static_assert(RowsMatchEnum());

const Row& RowOf(RedisError error) { return kRows[static_cast<size_t>(error)]; }

struct ReplyRow {
  std::string_view word;
  RedisError error;
};
constexpr ReplyRow kReplies[] = {
    {"LOADING", RedisError::kUnready},    {"READONLY", RedisError::kUnready},
    {"MASTERDOWN", RedisError::kUnready}, {"CLUSTERDOWN", RedisError::kUnready},
    {"TRYAGAIN", RedisError::kUnready},   {"BUSY", RedisError::kUnready},
    {"MISCONF", RedisError::kUnready},    {"NOREPLICAS", RedisError::kUnready},
    {"UNBLOCKED", RedisError::kUnready},  {"MOVED", RedisError::kMoved},
    {"ASK", RedisError::kMoved},          {"NOSCRIPT", RedisError::kNoScript},
    {"OOM", RedisError::kMemory},         {"NOAUTH", RedisError::kNoAuth},
    {"WRONGPASS", RedisError::kNoAuth},   {"NOPERM", RedisError::kDenied},
};

constexpr std::string_view kUnknownMark = "/UNKNOWN";
constexpr std::string_view kDoubt = " (the command may have been carried out)";

std::string Payload(const absl::Status& status) {
  const auto payload = status.GetPayload(kRedisErrorUrl);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace

absl::Status MakeRedisError(RedisError error, Outcome outcome, std::string_view message) {
  const Row& row = RowOf(error);
  std::string text = Cat("redis: ", message);
  if (outcome == Outcome::kUnknown) text += kDoubt;
  absl::Status status(row.code, text);
  status.SetPayload(kRedisErrorUrl,
                    absl::Cord(ToAbsl(outcome == Outcome::kUnknown ? Cat(row.name, kUnknownMark)
                                                                   : std::string(row.name))));
  // So that the layers above need not know Redis: a full store is a full store.
  StoreError store_error = StoreError::kNone;
  if (row.code == absl::StatusCode::kUnavailable) store_error = StoreError::kIoError;
  if (row.code == absl::StatusCode::kResourceExhausted) store_error = StoreError::kStoreFull;
  if (store_error != StoreError::kNone) {
    status.SetPayload(kStoreErrorUrl, absl::Cord(ToAbsl(StoreErrorName(store_error))));
  }
  return status;
}

absl::Status StatusFromErrorReply(std::string_view text) {
  const std::string_view word = text.substr(0, text.find(' '));
  for (const ReplyRow& row : kReplies) {
    if (row.word == word) return MakeRedisError(row.error, Outcome::kNotDone, text);
  }
  // A proxy or a server with the old default says "ERR" for these.
  if (text.find("invalid password") != std::string_view::npos ||
      text.find("invalid username-password") != std::string_view::npos) {
    return MakeRedisError(RedisError::kNoAuth, Outcome::kNotDone, text);
  }
  return MakeRedisError(RedisError::kServer, Outcome::kNotDone, text);
}

RedisError GetRedisError(const absl::Status& status) {
  std::string_view name;
  const std::string payload = Payload(status);
  name = payload;
  name = name.substr(0, name.find('/'));
  for (const Row& row : kRows) {
    if (row.name == name) return row.error;
  }
  return RedisError::kNone;
}

Outcome GetOutcome(const absl::Status& status) {
  const std::string payload = Payload(status);
  return payload.size() > kUnknownMark.size() &&
                 payload.compare(payload.size() - kUnknownMark.size(), std::string::npos,
                                 kUnknownMark) == 0
             ? Outcome::kUnknown
             : Outcome::kNotDone;
}

absl::Status InDoubt(const absl::Status& status) {
  if (GetOutcome(status) == Outcome::kUnknown) return status;
  absl::Status doubtful(status.code(), ToAbsl(Cat(status.message(), kDoubt)));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { doubtful.SetPayload(url, payload); });
  doubtful.SetPayload(kRedisErrorUrl, absl::Cord(ToAbsl(Cat(Payload(status), kUnknownMark))));
  return doubtful;
}

bool IsTransient(const absl::Status& status) { return RowOf(GetRedisError(status)).transient; }

bool BreaksConnection(const absl::Status& status) { return RowOf(GetRedisError(status)).breaks; }

}  // namespace reprise::state_store::redis
