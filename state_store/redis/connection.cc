#include "state_store/redis/connection.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"

namespace reprise::state_store::redis {
namespace {

// Commands are encoded when no more than this waits to be sent.
constexpr size_t kSendAhead = 512 << 10;
constexpr size_t kReadBytes = 64 << 10;
// Arguments at least so long are not copied before they are sent.
constexpr size_t kInPlaceBytes = 8 << 10;
// Of one write.
constexpr size_t kMostParts = 16;

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

// What is to be sent is a row of segments: small arguments encoded one after the other in `out`,
// and large ones where their owner has them.
struct Connection::Progress {
  struct Segment {
    std::string_view large;  // or, if its data is null, the bytes of `out` up to `out_end`
    size_t out_end = 0;
  };

  std::vector<Arguments> made{};  // commands that are not encoded; from `next`
  size_t next = 0;
  const ArgumentsMaker* maker = nullptr;         // null: no others come
  std::vector<absl::StatusOr<Reply>> results{};  // of all that were made
  std::string out{};
  size_t out_sent = 0;
  std::deque<Segment> segments{};  // not wholly sent
  std::vector<std::string_view> parts{};
  size_t large_sent = 0;      // of the first segment, if it is a large one
  uint64_t queued_bytes = 0;  // of all encoded commands
  uint64_t sent_bytes = 0;
  std::deque<uint64_t> ends{};  // of the encoded commands not wholly sent, in queued_bytes
  size_t encoded = 0;           // commands
  size_t sent = 0;              // commands wholly sent
  size_t replied = 0;

  bool AllMade() const { return maker == nullptr && next == made.size(); }
  bool AllSent() const { return AllMade() && segments.empty(); }
  bool HasRoom() const { return !AllMade() && queued_bytes - sent_bytes < kSendAhead; }

  void Make() {
    made.clear();
    next = 0;
    if (!(*maker)(made)) maker = nullptr;
    results.resize(results.size() + made.size());
  }

  void Encode(const Arguments& command) {
    if (segments.empty()) {
      out.clear();
      out_sent = 0;
    }
    const size_t before = out.size();
    size_t large = 0;
    const auto close_segment = [&] {
      if (!segments.empty() && segments.back().large.data() == nullptr) {
        segments.back().out_end = out.size();
      } else {
        segments.push_back({{}, out.size()});
      }
    };
    AppendArrayHeader(command.size(), out);
    for (const std::string_view argument : command) {
      AppendBulkHeader(argument.size(), out);
      if (argument.size() < kInPlaceBytes) {
        out.append(argument);
      } else {
        close_segment();
        segments.push_back({argument, 0});
        large += argument.size();
      }
      out.append("\r\n");
    }
    close_segment();
    queued_bytes += out.size() - before + large;
    ends.push_back(queued_bytes);
    ++encoded;
  }

  // What is to be sent next, in `parts`; how many bytes that is.
  size_t NextParts(std::vector<std::string_view>& parts) const {
    parts.clear();
    size_t bytes = 0, from = out_sent;
    for (const Segment& segment : segments) {
      if (segment.large.data() != nullptr) {
        parts.push_back(segment.large.substr(parts.empty() ? large_sent : 0));
      } else {
        parts.push_back(std::string_view(out).substr(from, segment.out_end - from));
        from = segment.out_end;
      }
      bytes += parts.back().size();
      if (parts.size() == kMostParts) break;
    }
    return bytes;
  }

  void Sent(size_t n) {
    sent_bytes += n;
    while (!segments.empty()) {
      const Segment& first = segments.front();
      const bool large = first.large.data() != nullptr;
      const size_t left = large ? first.large.size() - large_sent : first.out_end - out_sent;
      const size_t taken = std::min(n, left);
      (large ? large_sent : out_sent) += taken;
      n -= taken;
      if (taken < left) break;
      large_sent = 0;
      segments.pop_front();
    }
    for (; !ends.empty() && ends.front() <= sent_bytes; ends.pop_front()) ++sent;
  }
};

absl::StatusOr<bool> Connection::SendSome(Progress& p) {
  bool progress = false, full = false;
  for (;;) {
    // What is at hand goes out together; what has yet to be made is made when all of that is on its
    // way, or no more of it is taken now.
    while (p.HasRoom() && (p.next < p.made.size() || p.segments.empty() || full)) {
      if (p.next == p.made.size()) {
        p.Make();
        full = false;
      } else {
        p.Encode(p.made[p.next++]);
      }
    }
    if (p.segments.empty()) return progress;
    const size_t bytes = p.NextParts(p.parts);
    ASSIGN_OR_RETURN(const size_t n, socket_->TryWriteAll(p.parts));
    if (n > 0) p.Sent(n);
    REPRISE_FAULT_POINT("redis.connection.sent");
    progress = progress || n > 0;
    // What the server does not take now it may take after its answers have been read.
    full = n < bytes;
    if (full && !p.HasRoom()) return progress;
  }
}

absl::StatusOr<bool> Connection::ReceiveSome(Progress& p) {
  // A long string is read to where it stays.
  const absl::Span<char> in_place = reader_.InPlace();
  if (!in_place.empty()) {
    ASSIGN_OR_RETURN(const size_t n, socket_->TryRead(in_place));
    if (n == 0) return false;
    reader_.FilledInPlace(n);
    if (n < in_place.size()) return true;
  } else {
    buffer_.resize(kReadBytes);
    ASSIGN_OR_RETURN(const size_t n, socket_->TryRead(absl::MakeSpan(buffer_)));
    if (n == 0) return false;
    RETURN_IF_ERROR(reader_.Feed(std::string_view(buffer_).substr(0, n)));
  }
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

absl::Status Connection::Exchange(Deadline deadline, Progress& p) {
  for (;;) {
    ASSIGN_OR_RETURN(const bool sent, SendSome(p));
    if (p.AllMade() && p.replied == p.results.size()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const bool received, ReceiveSome(p));
    if (sent || received) {
      // A drip of bytes must not keep a call alive.
      if (TimeLeft(deadline) > absl::ZeroDuration()) continue;
      return MakeRedisError(RedisError::kTimeout, Outcome::kUnknown, "no whole answer in time");
    }
    RETURN_IF_ERROR(socket_->Wait(!p.AllSent(), deadline));
  }
}

std::vector<absl::StatusOr<Reply>> Connection::Pipeline(const std::vector<Arguments>& commands,
                                                        Deadline deadline) {
  Progress progress{commands};
  progress.results.resize(commands.size());
  return Run(progress, deadline);
}

std::vector<absl::StatusOr<Reply>> Connection::Pipeline(const ArgumentsMaker& make,
                                                        Deadline deadline) {
  Progress progress;
  progress.maker = &make;
  return Run(progress, deadline);
}

std::vector<absl::StatusOr<Reply>> Connection::Run(Progress& progress, Deadline deadline) {
  absl::Status failure = absl::OkStatus();
  if (broken_) {
    failure = MakeRedisError(RedisError::kClosed, Outcome::kNotDone, "the connection is broken");
  } else {
    failure = Exchange(deadline, progress);
  }
  if (!failure.ok()) {
    broken_ = true;
    for (size_t i = progress.replied; i < progress.results.size(); ++i) {
      progress.results[i] = ForCommand(failure, endpoint_, i < progress.sent);
    }
  }
  return std::move(progress.results);
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
