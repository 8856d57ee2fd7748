// A bounded number of connections to one endpoint, handed out one caller at a time.
#ifndef REPRISE_STATE_STORE_REDIS_CONNECTION_POOL_H_
#define REPRISE_STATE_STORE_REDIS_CONNECTION_POOL_H_

#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "state_store/redis/connection.h"

namespace reprise::state_store::redis {

struct PoolOptions {
  int max_connections = 16;                             // >= 1; further callers wait
  absl::Duration max_idle = absl::Minutes(5);           // closed when they come up after that, > 0
  absl::Duration ping_after = absl::Seconds(10);        // idle for so long: PING before reuse, >= 0
  absl::Duration min_backoff = absl::Milliseconds(10);  // after a failed connect, > 0; doubles
  absl::Duration max_backoff = absl::Seconds(1);        // >= min_backoff
};

class ConnectionPool;

// A connection that goes back to its pool when this goes; a broken one is closed instead.
// Move-only.
class PooledConnection {
 public:
  PooledConnection() = default;
  PooledConnection(PooledConnection&& other) noexcept = default;
  PooledConnection& operator=(PooledConnection&& other) noexcept;
  ~PooledConnection();

  Connection& operator*() const { return *connection_; }
  Connection* operator->() const { return connection_.get(); }

 private:
  friend class ConnectionPool;
  PooledConnection(std::shared_ptr<ConnectionPool> pool, std::unique_ptr<Connection> connection)
      : pool_(std::move(pool)), connection_(std::move(connection)) {}
  void GiveBack();

  std::shared_ptr<ConnectionPool> pool_;
  std::unique_ptr<Connection> connection_;
};

// Thread-safe. After a failed connect the next try waits, for a random time below a bound that
// doubles: a server that comes back is not met by everybody at once.
class ConnectionPool : public std::enable_shared_from_this<ConnectionPool> {
 public:
  static std::shared_ptr<ConnectionPool> Create(Endpoint endpoint, ConnectionOptions connection,
                                                const PoolOptions& options);
  ~ConnectionPool();

  // An idle connection that is alive, or a new one. kTimeout (kNotDone) when all are taken until
  // the deadline; otherwise as Connection::Connect.
  absl::StatusOr<PooledConnection> Acquire(Deadline deadline);
  // Closes the idle ones, e.g. when the endpoint has lost its role.
  void Clear();

  const Endpoint& endpoint() const { return endpoint_; }
  // Idle + handed out, and handed out alone.
  std::pair<int, int> Counts() const;

 private:
  friend class PooledConnection;
  struct Idle {
    std::unique_ptr<Connection> connection;
    Deadline since;
  };

  ConnectionPool(Endpoint endpoint, ConnectionOptions connection, const PoolOptions& options)
      : endpoint_(std::move(endpoint)),
        connection_options_(std::move(connection)),
        options_(options) {}

  // Waits for a place; null: make a new connection.
  absl::StatusOr<std::unique_ptr<Connection>> TakePlace(Deadline deadline);
  absl::StatusOr<std::unique_ptr<Connection>> ConnectAfterBackoff(Deadline deadline);
  void GiveBack(std::unique_ptr<Connection> connection);
  void FreePlace();
  bool HasPlace() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return taken_ < options_.max_connections;
  }

  const Endpoint endpoint_;
  const ConnectionOptions connection_options_;
  const PoolOptions options_;
  mutable absl::Mutex mu_;
  std::vector<Idle> idle_ ABSL_GUARDED_BY(mu_);  // oldest first; idle + taken <= max_connections
  int taken_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration backoff_ ABSL_GUARDED_BY(mu_) = absl::ZeroDuration();  // zero: none
  Deadline next_try_ ABSL_GUARDED_BY(mu_){};
  std::minstd_rand random_ ABSL_GUARDED_BY(mu_){std::random_device()()};
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_CONNECTION_POOL_H_
