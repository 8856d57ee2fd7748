// One connection to one Redis server: commands out, replies in, a deadline on everything.
#ifndef REPRISE_STATE_STORE_REDIS_CONNECTION_H_
#define REPRISE_STATE_STORE_REDIS_CONNECTION_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/redis/address.h"
#include "state_store/redis/reply.h"
#include "state_store/redis/socket.h"

namespace reprise::state_store::redis {

struct ConnectionOptions {
  absl::Duration connect_timeout = absl::Seconds(2);  // with TLS, AUTH and SELECT, > 0
  size_t max_reply_bytes = 256 << 20;                 // > 0
  std::string user{};
  std::string password{};             // empty: no AUTH
  int db = 0;                         // 0: no SELECT
  std::shared_ptr<TlsContext> tls{};  // null: plain
};

// The name first, then its arguments; borrowed.
using Arguments = std::vector<std::string_view>;
// Appends commands; false if no others come after them. What they borrow stays where it is.
using ArgumentsMaker = std::function<bool(std::vector<Arguments>&)>;

// Not thread-safe.
class Connection {
 public:
  // Connected, authenticated and at its database. The whole takes no longer than connect_timeout
  // and `deadline` allow.
  static absl::StatusOr<std::unique_ptr<Connection>> Connect(const Endpoint& endpoint,
                                                             const ConnectionOptions& options,
                                                             Deadline deadline);

  // Sends all commands without waiting in between; results[i] is the reply to commands[i]. An error
  // reply is an error status, and the rest of the pipeline goes on. When the connection breaks or
  // the deadline passes, each command without a reply fails with it: kNotDone if the server cannot
  // have got the whole command, kUnknown otherwise.
  std::vector<absl::StatusOr<Reply>> Pipeline(const std::vector<Arguments>& commands,
                                              Deadline deadline);
  // The same, of commands that are made while those before them are on their way. On failure not
  // all need have been made.
  std::vector<absl::StatusOr<Reply>> Pipeline(const ArgumentsMaker& make, Deadline deadline);
  absl::StatusOr<Reply> Call(const Arguments& command, Deadline deadline);

  // After a failure of transport or protocol no further call succeeds.
  bool broken() const { return broken_; }
  // Whether an idle connection may be used again: nothing has come and it is not closed.
  bool LooksAlive();

  const Endpoint& endpoint() const { return endpoint_; }

 private:
  Connection(Endpoint endpoint, std::unique_ptr<Socket> socket, size_t max_reply_bytes)
      : endpoint_(std::move(endpoint)), socket_(std::move(socket)), reader_(max_reply_bytes) {}

  struct Progress;
  absl::Status Exchange(Deadline deadline, Progress& progress);
  std::vector<absl::StatusOr<Reply>> Run(Progress& progress, Deadline deadline);
  absl::StatusOr<bool> SendSome(Progress& progress);
  absl::StatusOr<bool> ReceiveSome(Progress& progress);

  const Endpoint endpoint_;
  const std::unique_ptr<Socket> socket_;
  ReplyReader reader_;
  std::string buffer_;  // of what is read
  bool broken_ = false;
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_CONNECTION_H_
