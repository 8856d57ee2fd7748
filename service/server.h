// service: the wire. The gRPC services of proto/reprise/v1, their server and its life.
//
// A call comes in on one of gRPC's threads, which never waits: it goes to the I/O pool
// (worker_pool.h) for parsing, checking and the store, and from there, for Generate, to the
// scheduler's thread of its model (generate_call.h has the life of one call). Nothing holds a
// thread per stream.
//
//   ASSIGN_OR_RETURN(auto server, Server::Create(options));  // loads, opens, listens
//   ... server->port() ...
//   server->Drain();
#ifndef REPRISE_SERVICE_SERVER_H_
#define REPRISE_SERVICE_SERVER_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/kernels.h"
#include "service/server_options.h"
#include "state_store/session_store.h"

namespace reprise::service {

class Metrics;
struct ServedModel;

// What a server is made of beside its options. Tests bring their own.
struct ServerParts {
  // First: the others count into it. Null: the server makes one.
  std::shared_ptr<Metrics> metrics;
  std::unique_ptr<kernels::ThreadPool> compute;  // of the models; may be null if they need none
  std::vector<std::unique_ptr<ServedModel>> models;
  std::unique_ptr<state_store::SessionStore> store;
  // Called from time to time; empty where the store needs none. May use `store`.
  std::function<absl::Status()> collect_garbage;
  // Writes what the store has acknowledged and not written yet; empty where there is no such thing.
  std::function<absl::Status(absl::Duration patience)> flush_store;
  // Whether a store that others share answers; empty where there is none.
  std::function<bool()> store_answers;
};

// Thread-safe.
class Server {
 public:
  // Loads the models and opens the store that `options` name, then starts.
  static absl::StatusOr<std::unique_ptr<Server>> Create(const ServerOptions& options);
  // Listens and serves. `clock` is that of the models' schedulers, borrowed.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       ServerParts parts, const Clock* clock);
  // Drains without waiting if nobody has drained before.
  ~Server();

  int port() const;
  // Of metrics and probes; 0 without --metrics-listen.
  int metrics_port() const;
  // Reads certificates, tokens, keys and quotas again, and says in the log what came of it. What
  // cannot be read stays as it was. Happens by itself too, soon after one of the files changes.
  void Reload();
  // Whether a model has lost its device, which only a new process gets over.
  bool device_failed() const;
  // Says NOT_SERVING, refuses new calls, lets running ones go on until options.wire.drain has
  // passed, ends the rest with what they have (sessions are committed), and closes. Blocks. Once
  // only.
  void Drain();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SERVER_H_
