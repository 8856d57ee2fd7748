#include "state_store/redis/connection.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"

namespace reprise::state_store::redis {
namespace {

// Commands are encoded when no more than this waits to be sent.
constexpr size_t kSendAhead = 256 << 10;
constexpr size_t kReadBytes = 64 << 10;

// `failure` of the transport, as it concerns one command: the mark that MakeRedisError puts on is
// taken off and put on anew.
absl::Status ForCommand(const absl::Status& failure, const Endpoint& endpoint, bool sent) {
  std::string_view message(failure.message().data(), failure.message().size());
  if (message.substr(0, 7) == "redis: ") message.remove_prefix(7);
  return MakeRedisError(
      GetRedisError(failure), sent ? Outcome::kUnknown : Outcome::kNotDone,
      Cat(endpoint.ToString(), ": ", message.substr(0, message.find(" (the command may"))));
}

}  // namespace

struct Connection::Progress {
  std::vector<absl::StatusOr<Reply>>& results;
  std::string out{};  // encoded, from `out_sent` on not sent
  size_t out_sent = 0;
  size_t encoded = 0;  // commands in `out` or before
  size_t sent = 0;     // commands wholly sent
  size_t replied = 0;
  std::vector<size_t> ends{};  // of the encoded commands not wholly sent, within `out`
};

absl::StatusOr<bool> Connection::SendSome(const std::vector<Arguments>& commands, Progress& p) {
  while (p.encoded < commands.size() && p.out.size() - p.out_sent < kSendAhead) {
    if (p.out_sent == p.out.size()) {
      p.out.clear();
      p.out_sent = 0;
    }
    AppendCommand(commands[p.encoded++], p.out);
    p.ends.push_back(p.out.size());
  }
  if (p.out_sent == p.out.size()) return false;
  ASSIGN_OR_RETURN(const size_t n, socket_->TryWrite(std::string_view(p.out).substr(p.out_sent)));
  p.out_sent += n;
  size_t done = 0;
  while (done < p.ends.size() && p.ends[done] <= p.out_sent) ++done;
  p.ends.erase(p.ends.begin(), p.ends.begin() + static_cast<ptrdiff_t>(done));
  p.sent += done;
  return n > 0;
}

absl::StatusOr<bool> Connection::ReceiveSome(Progress& p) {
  buffer_.resize(kReadBytes);
  ASSIGN_OR_RETURN(const size_t n, socket_->TryRead(absl::MakeSpan(buffer_)));
  if (n == 0) return false;
  RETURN_IF_ERROR(reader_.Feed(std::string_view(buffer_).substr(0, n)));
  for (;;) {
    ASSIGN_OR_RETURN(std::optional<Reply> reply, reader_.Next());
    if (!reply.has_value()) return true;
    if (p.replied == p.sent) {
      return MakeRedisError(RedisError::kProtocol, Outcome::kUnknown,
                            "a reply that nobody asked for");
    }
    if (reply->is_error()) {
      p.results[p.replied++] = StatusFromErrorReply(reply->text);
    } else {
      p.results[p.replied++] = *std::move(reply);
    }
  }
}

absl::Status Connection::Exchange(const std::vector<Arguments>& commands, Deadline deadline,
                                  Progress& p) {
  while (p.replied < commands.size()) {
    ASSIGN_OR_RETURN(const bool sent, SendSome(commands, p));
    ASSIGN_OR_RETURN(const bool received, ReceiveSome(p));
    if (sent || received) {
      // A drip of bytes must not keep a call alive.
      if (TimeLeft(deadline) > absl::ZeroDuration()) continue;
      return MakeRedisError(RedisError::kTimeout, Outcome::kUnknown, "no whole answer in time");
    }
    const bool unsent = p.out_sent < p.out.size() || p.encoded < commands.size();
    RETURN_IF_ERROR(socket_->Wait(unsent, deadline));
  }
  return absl::OkStatus();
}

std::vector<absl::StatusOr<Reply>> Connection::Pipeline(const std::vector<Arguments>& commands,
                                                        Deadline deadline) {
  std::vector<absl::StatusOr<Reply>> results(commands.size());
  Progress progress{results};
  absl::Status failure = absl::OkStatus();
  if (broken_) {
    failure = MakeRedisError(RedisError::kClosed, Outcome::kNotDone, "the connection is broken");
  } else {
    failure = Exchange(commands, deadline, progress);
  }
  if (!failure.ok()) {
    broken_ = true;
    for (size_t i = progress.replied; i < commands.size(); ++i) {
      results[i] = ForCommand(failure, endpoint_, i < progress.sent);
    }
  }
  return results;
}

absl::StatusOr<Reply> Connection::Call(const Arguments& command, Deadline deadline) {
  return std::move(Pipeline({command}, deadline).front());
}

bool Connection::LooksAlive() {
  if (broken_ || reader_.HasLeftovers()) return false;
  char byte;
  const absl::StatusOr<size_t> n = socket_->TryRead(absl::MakeSpan(&byte, 1));
  broken_ = !n.ok() || *n != 0;
  return !broken_;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Connect(const Endpoint& endpoint,
                                                                const ConnectionOptions& options,
                                                                Deadline deadline) {
  deadline = std::min(deadline, DeadlineAfter(options.connect_timeout));
  ASSIGN_OR_RETURN(std::unique_ptr<Socket> socket,
                   Socket::Connect(endpoint, options.tls, deadline));
  std::unique_ptr<Connection> connection(
      new Connection(endpoint, std::move(socket), options.max_reply_bytes));

  std::vector<Arguments> commands;
  if (!options.password.empty()) {
    commands.push_back({"AUTH"});
    if (!options.user.empty()) commands.back().push_back(options.user);
    commands.back().push_back(options.password);
  }
  const std::string db = std::to_string(options.db);
  if (options.db != 0) commands.push_back({"SELECT", db});
  // Finds out early that a password is missing.
  commands.push_back({"PING"});
  for (const absl::StatusOr<Reply>& reply : connection->Pipeline(commands, deadline)) {
    // An ACL may forbid PING, and a server that is busy now need not be when the command comes.
    const RedisError error = GetRedisError(reply.status());
    if (!reply.ok() && error != RedisError::kDenied && error != RedisError::kUnready) {
      return reply.status();
    }
  }
  return connection;
}

}  // namespace reprise::state_store::redis
