#include "state_store/redis/client.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

// A cluster in motion sends us on a few times; after so many rounds it is a circle.
constexpr int kQuickRounds = 5;

absl::Status CheckOptions(const ClientOptions& options) {
  const auto refuse = [](std::string_view what) {
    return MakeStoreError(StoreError::kInvalidArgument, Cat("Redis option ", what));
  };
  constexpr absl::Duration kZero = absl::ZeroDuration();
  if (options.connect_timeout <= kZero) return refuse("connect_timeout");
  if (options.call_timeout <= kZero) return refuse("call_timeout");
  if (options.min_retry_delay <= kZero) return refuse("min_retry_delay");
  if (options.max_retry_delay < options.min_retry_delay) return refuse("max_retry_delay");
  if (options.max_reply_bytes == 0) return refuse("max_reply_bytes");
  if (options.pool.max_connections < 1) return refuse("pool.max_connections");
  if (options.pool.max_idle <= kZero) return refuse("pool.max_idle");
  if (options.pool.min_backoff <= kZero) return refuse("pool.min_backoff");
  if (options.pool.max_backoff < options.pool.min_backoff) return refuse("pool.max_backoff");
  return absl::OkStatus();
}

}  // namespace

Arguments Command::View() const {
  Arguments view(arguments.begin(), arguments.end());
  if (tail.data() != nullptr) view.push_back(tail);
  return view;
}

Command Eval(const Script& script, std::string key, std::vector<std::string> arguments,
             std::string_view tail) {
  Command command;
  command.arguments = {"EVALSHA", script.sha1(), "1", key};
  std::move(arguments.begin(), arguments.end(), std::back_inserter(command.arguments));
  command.tail = tail;
  command.key = std::move(key);
  command.script = &script;
  return command;
}

Command EvalKeys(const Script& script, std::vector<std::string> keys,
                 std::vector<std::string> arguments) {
  Command command;
  command.arguments = {"EVALSHA", script.sha1(), Cat(keys.size())};
  command.key = keys.front();
  std::move(keys.begin(), keys.end(), std::back_inserter(command.arguments));
  std::move(arguments.begin(), arguments.end(), std::back_inserter(command.arguments));
  command.script = &script;
  return command;
}

// Between the tries of one Run.
struct Client::Try {
  Try(std::vector<Answer>& answers, Replication* replication, Deadline deadline)
      : answers(answers),
        replication(replication),
        deadline(deadline),
        ask_target(answers.size()),
        obstacles(answers.size()) {}

  // Command `index` is to be tried again after `status`.
  void Repeat(size_t index, const absl::Status& status) {
    pending.push_back(index);
    switch (GetRedisError(status)) {
      case RedisError::kNoScript:
      case RedisError::kMoved:
        return;  // mended by the next try
      case RedisError::kTimeout:
        if (TimeLeft(deadline) > absl::ZeroDuration()) obstacles[index] = absl::OkStatus();
        return;
      default:
        obstacles[index] = status;
    }
  }

  std::vector<Answer>& answers;
  Replication* const replication;
  const Deadline deadline;
  std::vector<size_t> pending;                      // to be tried again
  std::vector<std::optional<Endpoint>> ask_target;  // per command: where ASK sends it once
  std::vector<absl::Status> obstacles;              // per command: what stopped the last whole try
  bool delay = false;                               // something is out of order: do not rush
  std::set<const Script*> unknown;                  // to some server in this try
  std::set<const Script*> load;                     // unknown in the try before
};

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const ClientOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const Address address, ParseAddress(options.url));
  ConnectionOptions connection;
  connection.connect_timeout = options.connect_timeout;
  connection.max_reply_bytes = options.max_reply_bytes;
  if (address.tls) {
    ASSIGN_OR_RETURN(connection.tls, TlsContext::Create(options.tls));
  }
  ConnectionOptions sentinel = connection;
  sentinel.user = options.sentinel_user;
  sentinel.password = options.sentinel_password;
  connection.user = address.user;
  connection.password = address.password;
  connection.db = address.db;

  std::unique_ptr<Router> router;
  switch (address.topology) {
    case Topology::kSingle:
      router = std::make_unique<SingleRouter>(address.endpoints.front());
      break;
    case Topology::kSentinel:
      router = MakeSentinelRouter(address, sentinel, connection);
      break;
    case Topology::kCluster:
      router = MakeClusterRouter(address, connection);
      break;
  }
  const bool over_unix_socket = !address.endpoints.front().unix_path.empty();
  return std::unique_ptr<Client>(
      new Client(options, std::move(connection), std::move(router), over_unix_socket));
}

std::shared_ptr<ConnectionPool> Client::PoolOf(const Endpoint& server) {
  absl::MutexLock lock(&mu_);
  std::shared_ptr<ConnectionPool>& pool = pools_[server];
  if (pool == nullptr) pool = ConnectionPool::Create(server, connection_, options_.pool);
  return pool;
}

absl::Duration Client::Jittered(absl::Duration delay) {
  absl::MutexLock lock(&mu_);
  return delay * std::uniform_real_distribution<>(0.5, 1.0)(random_);
}

void Client::Settle(const Command& command, size_t index, const Endpoint& server,
                    absl::StatusOr<Reply> reply, Try& state) {
  Answer& answer = state.answers[index];
  answer.reply = std::move(reply);
  if (answer.reply.ok()) return;
  const absl::Status& status = answer.reply.status();
  // Whom ASK sent us to may have to be told the script first.
  if (GetRedisError(status) != RedisError::kNoScript) state.ask_target[index].reset();
  answer.unsure = answer.unsure || GetOutcome(status) == Outcome::kUnknown;
  if (!IsTransient(status)) return;
  state.Repeat(index, status);
  switch (GetRedisError(status)) {
    case RedisError::kNoScript:
      return;  // it goes along the next time
    case RedisError::kMoved: {
      const auto redirection =
          ParseRedirection({status.message().data(), status.message().size()}, server);
      if (redirection.has_value() && redirection->ask) {
        state.ask_target[index] = redirection->target;
      }
      router_->OnFailure(command.key, server, status);
      return;
    }
    default:
      state.delay = true;
      router_->OnFailure(command.key, server, status);
  }
}

void Client::RunAtServer(const std::vector<Command>& commands, const Endpoint& server,
                         const std::vector<size_t>& indices, Deadline deadline, Try& state) {
  absl::StatusOr<PooledConnection> connection = PoolOf(server)->Acquire(deadline);
  if (!connection.ok()) {
    for (const size_t i : indices) Settle(commands[i], i, server, connection.status(), state);
    return;
  }
  // Scripts go in front of the commands that need them: between two calls they might be flushed.
  std::vector<Arguments> pipeline;
  for (const Script* script : state.load) pipeline.push_back({"SCRIPT", "LOAD", script->source()});
  for (const size_t i : indices) {
    if (state.ask_target[i].has_value()) pipeline.push_back({"ASKING"});
    pipeline.push_back(commands[i].View());
  }
  const bool waits = state.replication != nullptr && state.replication->replicas > 0;
  std::string replicas, timeout_ms;
  if (waits) {
    replicas = Cat(state.replication->replicas);
    // Never 0, which would wait for ever.
    timeout_ms = Cat(std::max<int64_t>(1, absl::ToInt64Milliseconds(state.replication->timeout)));
    pipeline.push_back({"WAIT", replicas, timeout_ms});
    deadline += absl::ToChronoNanoseconds(state.replication->timeout);
  }
  std::vector<absl::StatusOr<Reply>> replies = (*connection)->Pipeline(pipeline, deadline);

  size_t next = state.load.size();
  bool wrote = false;
  for (const size_t i : indices) {
    if (state.ask_target[i].has_value()) ++next;
    absl::StatusOr<Reply>& reply = replies[next++];
    wrote = wrote || reply.ok();
    if (commands[i].script != nullptr && GetRedisError(reply.status()) == RedisError::kNoScript) {
      state.unknown.insert(commands[i].script);
    }
    Settle(commands[i], i, server, std::move(reply), state);
  }
  if (waits && wrote) {
    const absl::StatusOr<Reply>& waited = replies.back();
    const int reached = waited.ok() ? static_cast<int>(waited->integer) : 0;
    state.replication->reached = std::min(state.replication->reached, reached);
  }
}

void Client::Retry(const std::vector<Command>& commands, Try& state, int round) {
  std::vector<Answer>& answers = state.answers;
  absl::Duration delay = options_.min_retry_delay;
  for (; !state.pending.empty(); ++round) {
    if (round > 0) {
      if (state.delay || round > kQuickRounds) {
        absl::SleepFor(std::min(Jittered(delay), TimeLeft(state.deadline)));
        delay = std::min(delay * 2, options_.max_retry_delay);
      }
      if (TimeLeft(state.deadline) == absl::ZeroDuration()) break;
    }
    const Deadline try_deadline = std::min(state.deadline, DeadlineAfter(options_.call_timeout));
    std::map<Endpoint, std::vector<size_t>> by_server;
    std::vector<size_t> pending = std::exchange(state.pending, {});
    std::sort(pending.begin(), pending.end());
    state.delay = false;
    state.load = std::exchange(state.unknown, {});
    for (const size_t i : pending) {
      if (state.ask_target[i].has_value()) {
        by_server[*state.ask_target[i]].push_back(i);
        continue;
      }
      absl::StatusOr<Endpoint> server = router_->Locate(commands[i].key, try_deadline);
      if (server.ok()) {
        by_server[*server].push_back(i);
        continue;
      }
      // Nothing was sent, so nothing is in doubt.
      answers[i].reply = server.status();
      if (!IsTransient(server.status())) continue;
      state.Repeat(i, server.status());
      state.delay = true;
    }
    for (const auto& [server, indices] : by_server) {
      RunAtServer(commands, server, indices, try_deadline, state);
    }
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    absl::Status status = answers[i].reply.status();
    if (GetRedisError(status) == RedisError::kNone) continue;
    // When the deadline cuts the last try off, what stopped those before says more.
    if (GetRedisError(status) == RedisError::kTimeout && !state.obstacles[i].ok()) {
      status = state.obstacles[i];
    }
    // The try that it is of did nothing, another may have.
    if (answers[i].unsure) status = InDoubt(status);
    answers[i].reply = std::move(status);
  }
}

std::vector<Answer> Client::Run(const std::vector<Command>& commands, Deadline deadline,
                                Replication* replication) {
  std::vector<Answer> answers(commands.size());
  Try state(answers, replication, deadline);
  if (replication != nullptr) replication->reached = replication->replicas;
  for (size_t i = 0; i < commands.size(); ++i) state.pending.push_back(i);
  Retry(commands, state, 0);
  return answers;
}

std::vector<Answer> Client::RunMade(const std::string& key, const CommandMaker& make,
                                    std::vector<Command>& commands, Deadline deadline) {
  std::vector<absl::StatusOr<Reply>> replies;
  bool more = true;
  const Deadline try_deadline = std::min(deadline, DeadlineAfter(options_.call_timeout));
  absl::StatusOr<Endpoint> server = router_->Locate(key, try_deadline);
  absl::Status failure = server.status();
  if (server.ok()) {
    absl::StatusOr<PooledConnection> connection = PoolOf(*server)->Acquire(try_deadline);
    failure = connection.status();
    if (connection.ok()) {
      replies = (*connection)
                    ->Pipeline(
                        [&](std::vector<Arguments>& batch) {
                          const size_t before = commands.size();
                          more = make(commands);
                          for (size_t i = before; i < commands.size(); ++i) {
                            batch.push_back(commands[i].View());
                          }
                          return more;
                        },
                        try_deadline);
      if (more) {
        failure = replies.empty() ? MakeRedisError(RedisError::kClosed, Outcome::kNotDone,
                                                   "the connection is broken")
                                  : replies.back().status();
      }
    }
  }
  while (more) more = make(commands);

  std::vector<Answer> answers(commands.size());
  Try state(answers, nullptr, deadline);
  for (size_t i = 0; i < commands.size(); ++i) {
    if (i >= replies.size()) {
      // Never sent.
      answers[i].reply = failure;
      if (server.ok() || IsTransient(failure)) state.Repeat(i, failure);
      state.delay = true;
      continue;
    }
    if (commands[i].script != nullptr &&
        GetRedisError(replies[i].status()) == RedisError::kNoScript) {
      state.unknown.insert(commands[i].script);
    }
    Settle(commands[i], i, *server, std::move(replies[i]), state);
  }
  Retry(commands, state, 1);
  return answers;
}

Answer Client::Run(const Command& command, Deadline deadline, Replication* replication) {
  return std::move(Run(std::vector<Command>{command}, deadline, replication).front());
}

absl::StatusOr<std::vector<Endpoint>> Client::Masters(Deadline deadline) {
  return router_->Masters(deadline);
}

absl::StatusOr<Reply> Client::CallAt(const Endpoint& server, const Arguments& command,
                                     Deadline deadline) {
  deadline = std::min(deadline, DeadlineAfter(options_.call_timeout));
  ASSIGN_OR_RETURN(PooledConnection connection, PoolOf(server)->Acquire(deadline));
  return connection->Call(command, deadline);
}

std::pair<int, int> Client::ConnectionCounts() const {
  absl::MutexLock lock(&mu_);
  std::pair<int, int> sum;
  for (const auto& [server, pool] : pools_) {
    const auto [all, taken] = pool->Counts();
    sum.first += all;
    sum.second += taken;
  }
  return sum;
}

}  // namespace reprise::state_store::redis
