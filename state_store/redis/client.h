// Commands to whichever server holds their keys, repeated until one answers or time is up.
//
//   ASSIGN_OR_RETURN(auto client, Client::Create({.url = "redis-cluster://10.0.0.1,10.0.0.2"}));
//   Answer answer = client->Run(Eval(kSomeScript, key, {"argument"}), DeadlineAfter(timeout));
#ifndef REPRISE_STATE_STORE_REDIS_CLIENT_H_
#define REPRISE_STATE_STORE_REDIS_CLIENT_H_

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "state_store/redis/connection_pool.h"
#include "state_store/redis/router.h"
#include "state_store/redis/script.h"

namespace reprise::state_store::redis {

struct ClientOptions {
  std::string url{};  // see address.h
  TlsOptions tls{};   // for rediss
  // For the sentinels themselves; empty: they ask for none.
  std::string sentinel_user{};
  std::string sentinel_password{};
  absl::Duration connect_timeout = absl::Seconds(2);       // > 0
  absl::Duration call_timeout = absl::Seconds(5);          // of one try of a pipeline, > 0
  absl::Duration min_retry_delay = absl::Milliseconds(5);  // > 0; doubles, with jitter
  absl::Duration max_retry_delay = absl::Milliseconds(250);
  size_t max_reply_bytes = 256 << 20;  // > 0
  PoolOptions pool{};                  // per server
};

// One command. It must be one that may run twice without harm: after a lost answer it is sent
// again.
struct Command {
  std::vector<std::string> arguments{};  // the name first
  std::string_view tail{};               // one more argument, borrowed, if its data is not null
  std::string key{};                     // decides which server gets it
  const Script* script = nullptr;        // borrowed; loaded where the server does not know it

  Arguments View() const;
};
// Appends commands; false if no others come after them.
using CommandMaker = std::function<bool(std::vector<Command>&)>;

Command Eval(const Script& script, std::string key, std::vector<std::string> arguments,
             std::string_view tail = {});
// Of several keys, at least one; outside clusters only. The first one decides.
Command EvalKeys(const Script& script, std::vector<std::string> keys,
                 std::vector<std::string> arguments);

struct Answer {
  absl::StatusOr<Reply> reply = absl::UnknownError("not run");
  bool unsure = false;  // an earlier try, whose answer was lost, may have been carried out
};

// How many replicas are to have everything that a call wrote before it returns.
struct Replication {
  int replicas = 0;  // 0: do not wait
  absl::Duration timeout = absl::Seconds(1);
  int reached = 0;  // out: the fewest replicas at any server that was written to
};

// Thread-safe; calls block.
class Client {
 public:
  // INVALID_ARGUMENT. Connects to nothing yet.
  static absl::StatusOr<std::unique_ptr<Client>> Create(const ClientOptions& options);

  // Runs all commands, in one pipeline per server and in order there; answers[i] is commands[i]'s.
  // Failures that another try may mend (IsTransient) are tried again until the deadline; the status
  // then says what stopped the command, rather than that time was up, and kUnknown if any try may
  // have been carried out.
  std::vector<Answer> Run(const std::vector<Command>& commands, Deadline deadline,
                          Replication* replication = nullptr);
  // The same for commands that are made while those before them are on their way, all at the server
  // of `key`: outside clusters only. All are made, whatever fails, and then stand in `commands`.
  std::vector<Answer> RunMade(const std::string& key, const CommandMaker& make,
                              std::vector<Command>& commands, Deadline deadline);
  Answer Run(const Command& command, Deadline deadline, Replication* replication = nullptr);

  // Whether the server is reached through a Unix socket, on this machine.
  bool over_unix_socket() const { return over_unix_socket_; }

  // For walks over all keys.
  absl::StatusOr<std::vector<Endpoint>> Masters(Deadline deadline);
  // One try at that server, wherever keys belong.
  absl::StatusOr<Reply> CallAt(const Endpoint& server, const Arguments& command, Deadline deadline);

  // Connections idle or in use, and in use alone.
  std::pair<int, int> ConnectionCounts() const;

 private:
  struct Try;

  Client(const ClientOptions& options, ConnectionOptions connection, std::unique_ptr<Router> router,
         bool over_unix_socket)
      : options_(options),
        connection_(std::move(connection)),
        router_(std::move(router)),
        over_unix_socket_(over_unix_socket) {}

  std::shared_ptr<ConnectionPool> PoolOf(const Endpoint& server) ABSL_LOCKS_EXCLUDED(mu_);
  // One try at one server of `indices`; fills `answers` and says what is to be tried again.
  void RunAtServer(const std::vector<Command>& commands, const Endpoint& server,
                   const std::vector<size_t>& indices, Deadline deadline, Try& state);
  // Tries what is pending until nothing is, or time is up; `round` have been tried before.
  void Retry(const std::vector<Command>& commands, Try& state, int round);
  void Settle(const Command& command, size_t index, const Endpoint& server,
              absl::StatusOr<Reply> reply, Try& state);
  absl::Duration Jittered(absl::Duration delay) ABSL_LOCKS_EXCLUDED(mu_);

  const ClientOptions options_;
  const ConnectionOptions connection_;
  const std::unique_ptr<Router> router_;
  const bool over_unix_socket_;
  mutable absl::Mutex mu_;
  std::map<Endpoint, std::shared_ptr<ConnectionPool>> pools_ ABSL_GUARDED_BY(mu_);
  std::minstd_rand random_ ABSL_GUARDED_BY(mu_){std::random_device()()};
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_CLIENT_H_
