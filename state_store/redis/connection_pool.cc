#include "state_store/redis/connection_pool.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"

namespace reprise::state_store::redis {

PooledConnection& PooledConnection::operator=(PooledConnection&& other) noexcept {
  if (this != &other) {
    GiveBack();
    pool_ = std::move(other.pool_);
    connection_ = std::move(other.connection_);
  }
  return *this;
}

PooledConnection::~PooledConnection() { GiveBack(); }

void PooledConnection::GiveBack() {
  if (connection_ != nullptr) pool_->GiveBack(std::move(connection_));
  pool_ = nullptr;
}

std::shared_ptr<ConnectionPool> ConnectionPool::Create(Endpoint endpoint,
                                                       ConnectionOptions connection,
                                                       const PoolOptions& options) {
  return std::shared_ptr<ConnectionPool>(
      new ConnectionPool(std::move(endpoint), std::move(connection), options));
}

ConnectionPool::~ConnectionPool() = default;

absl::StatusOr<std::unique_ptr<Connection>> ConnectionPool::TakePlace(Deadline deadline) {
  Idle idle;
  const Deadline now = std::chrono::steady_clock::now();
  const Deadline oldest = now - absl::ToChronoNanoseconds(options_.max_idle);
  {
    absl::MutexLock lock(&mu_);
    const auto has_place = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return HasPlace(); };
    if (!mu_.AwaitWithTimeout(absl::Condition(&has_place), TimeLeft(deadline))) {
      return MakeRedisError(
          RedisError::kTimeout, Outcome::kNotDone,
          Cat(endpoint_.ToString(), ": all ", options_.max_connections, " connections are taken"));
    }
    ++taken_;
    std::erase_if(idle_, [&](const Idle& other) { return other.since < oldest; });
    // The newest is the likeliest to be alive, and the others may grow old enough to be closed.
    if (!idle_.empty()) {
      idle = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (idle.connection == nullptr || !idle.connection->LooksAlive()) return nullptr;
  if (idle.since < now - absl::ToChronoNanoseconds(options_.ping_after)) {
    const Deadline soon = DeadlineAfter(connection_options_.connect_timeout);
    idle.connection->Call({"PING"}, std::min(deadline, soon)).IgnoreError();
    if (idle.connection->broken()) return nullptr;
  }
  return std::move(idle.connection);
}

absl::StatusOr<std::unique_ptr<Connection>> ConnectionPool::ConnectAfterBackoff(Deadline deadline) {
  Deadline next_try;
  {
    absl::MutexLock lock(&mu_);
    next_try = next_try_;
  }
  absl::SleepFor(TimeLeft(std::min(next_try, deadline)));
  absl::StatusOr<std::unique_ptr<Connection>> connection =
      Connection::Connect(endpoint_, connection_options_, deadline);
  absl::MutexLock lock(&mu_);
  if (connection.ok()) {
    backoff_ = absl::ZeroDuration();
    next_try_ = Deadline{};
  } else {
    backoff_ = std::clamp(backoff_ * 2, options_.min_backoff, options_.max_backoff);
    const double part = std::uniform_real_distribution<>(0.5, 1.0)(random_);
    next_try_ = DeadlineAfter(backoff_ * part);
  }
  return connection;
}

absl::StatusOr<PooledConnection> ConnectionPool::Acquire(Deadline deadline) {
  ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection, TakePlace(deadline));
  if (connection == nullptr) {
    absl::StatusOr<std::unique_ptr<Connection>> made = ConnectAfterBackoff(deadline);
    if (!made.ok()) {
      FreePlace();
      return made.status();
    }
    connection = *std::move(made);
  }
  return PooledConnection(shared_from_this(), std::move(connection));
}

void ConnectionPool::FreePlace() {
  absl::MutexLock lock(&mu_);
  --taken_;
}

void ConnectionPool::GiveBack(std::unique_ptr<Connection> connection) {
  absl::MutexLock lock(&mu_);
  --taken_;
  if (connection->broken()) return;
  idle_.push_back({std::move(connection), std::chrono::steady_clock::now()});
}

void ConnectionPool::Clear() {
  absl::MutexLock lock(&mu_);
  idle_.clear();
}

std::pair<int, int> ConnectionPool::Counts() const {
  absl::MutexLock lock(&mu_);
  return {static_cast<int>(idle_.size()) + taken_, taken_};
}

}  // namespace reprise::state_store::redis
