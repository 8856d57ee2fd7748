// A process of clients that move sessions at random and write down what they did and were told:
//
//   store_history_tool URL NAME SEED THREADS ROOTS OPERATIONS HISTORY [tiers]
//
// The sessions root-0 ... are there already; NAME is of this process alone. With tiers, the store
// has a host cache, leases and a write-behind queue in front, and some commits are ASYNC. What only
// this process sees until it is written is nobody's business here: such a commit lasts until then.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>
#include <utility>

#include "state_store/redis/error.h"
#include "state_store/redis/redis_store.h"
#include "state_store/testing/builders.h"
#include "state_store/tiers/tiered_store.h"
#include "tests/state_store/redis/history.h"

namespace reprise::state_store::redis {
namespace {

using Event = HistoryEvent;

constexpr size_t kWindowBytes = 900;
constexpr int kRepeats = 60;

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

uint64_t StateOf(const Session& session) {
  return session.head_snapshot_id.empty() ? Event::kNoState : session.position - 1;
}

Event::Outcome OutcomeOf(const absl::Status& status) {
  if (status.ok()) return Event::kOk;
  switch (GetStoreError(status)) {
    case StoreError::kVersionMismatch:
      return Event::kRefused;
    case StoreError::kSessionLeased:
    case StoreError::kLeaseLost:
      return Event::kLeased;
    case StoreError::kCommitsLost:
      // It speaks of an earlier commit; this call has done nothing.
      return Event::kFailed;
    case StoreError::kSessionNotFound:
    case StoreError::kSnapshotNotFound:
      return Event::kNotFound;
    default:
      break;
  }
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    return GetOutcome(status) == Outcome::kUnknown ? Event::kUnknown : Event::kFailed;
  }
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return Event::kWrong;
}

struct Known {
  uint64_t version = 1;
  std::vector<std::pair<std::string, uint64_t>> kept;  // snapshots with their states
};

class Clients {
 public:
  // `tiers` may be null: no tiers. Else it is `store` itself.
  Clients(std::unique_ptr<SessionStore> store, LeaseTable& leases, const TieredStore* tiers,
          std::string name, int history, int roots)
      : store_(std::move(store)),
        leases_(leases),
        tiers_(tiers),
        name_(std::move(name)),
        history_(history) {
    for (int i = 0; i < roots; ++i) known_["root-" + std::to_string(i)];
  }

  void Run(int client, uint64_t seed, std::atomic<int>& left) {
    std::mt19937_64 random(seed);
    for (uint64_t n = 1; left.fetch_sub(1) > 0; ++n) {
      const std::string tag = name_ + "-" + std::to_string(client) + "-" + std::to_string(n);
      const uint64_t state =
          seed % 1000 * 10'000'000 + static_cast<uint64_t>(client) * 1'000'000 + n;
      const auto [id, known] = Pick(random);
      const uint64_t dice = random() % 100;
      if (dice < 25) {
        Look(id, Event::kGet);
      } else if (dice < 40) {
        Look(id, Event::kRead);
      } else if (dice < 75) {
        const bool keep = random() % 4 == 0;
        if (tiers_ != nullptr && random() % 3 != 0) {
          CommitBehind(id, known, state, tag, keep);
        } else {
          Commit(id, known, state, tag, keep, random() % 6 == 0);
        }
      } else if (dice < 84) {
        Rewind(id, known, tag, random());
      } else if (dice < 94 || id.compare(0, 4, "root") == 0) {
        Fork(id, "f-" + tag);
      } else {
        Delete(id);
      }
    }
  }

 private:
  std::pair<std::string, Known> Pick(std::mt19937_64& random) {
    std::lock_guard<std::mutex> lock(mu_);
    auto it = known_.begin();
    std::advance(it, random() % known_.size());
    return *it;
  }

  void Learn(const Session& session) {
    std::lock_guard<std::mutex> lock(mu_);
    const auto it = known_.find(session.id);
    if (it != known_.end()) it->second.version = std::max(it->second.version, session.version);
  }

  void Forget(const std::string& id) {
    std::lock_guard<std::mutex> lock(mu_);
    if (id.compare(0, 4, "root") != 0) known_.erase(id);
  }

  // Calls until the outcome is known, or it has been too often; one that was in doubt once stays so
  // unless it succeeds.
  template <typename Call>
  void Settle(Event& event, const Call& call) {
    bool doubt = false;
    event.begin = Now();
    for (int i = 0; i < kRepeats; ++i) {
      const absl::StatusOr<Session> result = call();
      event.outcome = OutcomeOf(result.status());
      // The tiers do not say which of the two it is.
      if (tiers_ != nullptr && event.outcome == Event::kFailed &&
          GetStoreError(result.status()) != StoreError::kCommitsLost) {
        event.outcome = Event::kUnknown;
      }
      if (result.ok()) {
        event.version = result->version;
        event.told_state = StateOf(*result);
        Learn(*result);
        break;
      }
      if (event.outcome == Event::kUnknown) doubt = true;
      if (event.outcome != Event::kUnknown && event.outcome != Event::kFailed) break;
    }
    event.end = Now();
    if (doubt && event.outcome != Event::kOk && event.outcome != Event::kWrong) {
      event.outcome = Event::kUnknown;
    }
    if (event.outcome == Event::kNotFound) Forget(event.session);
    Write(event);
  }

  void Write(const Event& event) {
    const std::string line = event.ToLine();
    if (::write(history_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
      std::abort();
  }

  void Look(const std::string& id, Event::Op op) {
    Event event;
    event.op = op;
    event.session = id;
    const std::shared_lock<std::shared_mutex> shared(LockOf(id));
    const auto try_again = []() -> absl::Status {
      return MakeRedisError(RedisError::kClosed, Outcome::kNotDone, "read without the backend");
    };
    if (op == Event::kGet) {
      return Settle(event, [&]() -> absl::StatusOr<Session> {
        const uint64_t before = DegradedReads();
        auto session = store_->GetSession("t", id);
        // It may be older than what is there: that is promised.
        if (DegradedReads() != before) return try_again();
        return session;
      });
    }
    Settle(event, [&]() -> absl::StatusOr<Session> {
      // Bytes and version of one moment: the head that the session has before and after.
      for (;;) {
        const uint64_t degraded = DegradedReads();
        const auto before = store_->GetSession("t", id);
        if (DegradedReads() != degraded) return try_again();
        if (!before.ok() || before->head_snapshot_id.empty()) return before;
        const auto read = store_->ReadSnapshot("t", id, before->head_snapshot_id);
        if (GetStoreError(read.status()) == StoreError::kSnapshotNotFound) continue;
        if (!read.ok()) return read.status();
        if (!SameState(MakeTestSnapshot(before->position - 1, kWindowBytes), *read)) {
          return absl::DataLossError("other bytes than its state's");
        }
        return before;
      }
    });
  }

  void Commit(const std::string& id, const Known& known, uint64_t state, const std::string& tag,
              bool keep, bool leased) {
    CommitOptions options{.durability = Durability::kSync, .keep = keep, .request_id = tag};
    const std::shared_lock<std::shared_mutex> shared(LockOf(id));
    if (leased) {
      const auto lease = leases_.AcquireLease("t", id, tag, absl::Milliseconds(150));
      if (!lease.ok()) return;
      options.lease_token = lease->token;
    }
    Event event;
    event.op = Event::kCommit;
    event.session = id;
    event.expected = known.version;
    event.state = state;
    std::string head;
    Settle(event, [&] {
      auto moved = store_->PutAndCommit("t", id, known.version,
                                        MakeTestSnapshot(state, kWindowBytes), options);
      if (moved.ok()) head = moved->head_snapshot_id;
      return moved;
    });
    if (event.outcome == Event::kOk && keep) {
      std::lock_guard<std::mutex> lock(mu_);
      const auto it = known_.find(id);
      if (it != known_.end()) it->second.kept.emplace_back(head, state);
    }
    if (event.outcome == Event::kRefused) Look(id, Event::kGet);
  }

  // ASYNC, and then waits until it is written or lost.
  void CommitBehind(const std::string& id, const Known& known, uint64_t state,
                    const std::string& tag, bool keep) {
    std::string head;
    Event event;
    event.op = Event::kCommit;
    event.session = id;
    event.expected = known.version;
    event.state = state;
    {
      const std::unique_lock<std::shared_mutex> alone(LockOf(id));
      Settle(event, [&]() -> absl::StatusOr<Session> {
        const auto snapshot =
            std::make_shared<const Snapshot>(MakeTestSnapshot(state, kWindowBytes));
        const auto moved = store_->CommitShared(
            "t", id, known.version, snapshot,
            {.durability = Durability::kAsync, .keep = keep, .request_id = tag});
        if (!moved.ok()) return moved;
        head = moved->head_snapshot_id;
        for (int i = 0; i < kRepeats * 20; ++i) {
          const auto found = store_->FindCommit("t", id, tag);
          if (GetStoreError(found.status()) == StoreError::kCommitsLost) break;
          if (found.ok() && !found->has_value()) break;
          if (found.ok() && !(*found)->waits) return moved;
          absl::SleepFor(absl::Milliseconds(5));
        }
        return MakeRedisError(RedisError::kClosed, Outcome::kUnknown, "acknowledged, maybe lost");
      });
    }
    if (event.outcome == Event::kOk && keep) {
      std::lock_guard<std::mutex> lock(mu_);
      const auto it = known_.find(id);
      if (it != known_.end()) it->second.kept.emplace_back(head, state);
    }
    if (event.outcome == Event::kRefused) Look(id, Event::kGet);
  }

  void Rewind(const std::string& id, const Known& known, const std::string& tag, uint64_t random) {
    if (known.kept.empty()) return;
    const auto& [snapshot, state] = known.kept[random % known.kept.size()];
    Event event;
    event.op = Event::kRewind;
    event.session = id;
    event.expected = known.version;
    event.state = state;
    {
      const std::shared_lock<std::shared_mutex> shared(LockOf(id));
      Settle(event, [&, &snapshot = snapshot] {
        return store_->Rewind("t", id, snapshot, known.version, tag);
      });
    }
    if (event.outcome == Event::kRefused) Look(id, Event::kGet);
  }

  void Fork(const std::string& source, const std::string& id) {
    Event event;
    event.op = Event::kFork;
    event.session = id;
    event.source = source;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (known_.size() > 12) return;
    }
    const std::shared_lock<std::shared_mutex> shared(LockOf(source));
    Settle(event, [&]() -> absl::StatusOr<Session> {
      auto made = store_->Fork("t", {source}, {.id = id, .request_id = id});
      // A source without a head is none.
      if (GetStoreError(made.status()) == StoreError::kNoHead) {
        return MakeStoreError(StoreError::kSessionNotFound, "");
      }
      return made;
    });
    if (event.outcome != Event::kOk) return;
    std::lock_guard<std::mutex> lock(mu_);
    known_[id];
  }

  void Delete(const std::string& id) {
    Event event;
    event.op = Event::kDelete;
    event.session = id;
    const std::shared_lock<std::shared_mutex> shared(LockOf(id));
    Settle(event, [&]() -> absl::StatusOr<Session> {
      const absl::Status status = store_->DeleteSession("t", id);
      if (!status.ok()) return status;
      return Session{};
    });
    Forget(id);
  }

  uint64_t DegradedReads() const { return tiers_ == nullptr ? 0 : tiers_->stats().degraded_reads; }

  std::shared_mutex& LockOf(const std::string& id) {
    std::lock_guard<std::mutex> lock(mu_);
    return locks_[id];
  }

  const std::unique_ptr<SessionStore> store_;
  LeaseTable& leases_;
  const TieredStore* const tiers_;
  const std::string name_;
  const int history_;
  std::mutex mu_;
  std::map<std::string, Known> known_;
  std::map<std::string, std::shared_mutex> locks_;
};

}  // namespace
}  // namespace reprise::state_store::redis

int main(int argc, char** argv) {
  using namespace reprise::state_store::redis;
  namespace state_store = reprise::state_store;
  if (argc != 8 && argc != 9) return 2;
  RedisStoreOptions options;
  options.client.url = argv[1];
  options.client.call_timeout = absl::Seconds(2);
  options.client.max_retry_delay = absl::Milliseconds(50);
  options.client.pool.max_backoff = absl::Milliseconds(50);
  options.operation_timeout = absl::Seconds(4);
  options.store.chunk_bytes = 256;
  const uint64_t seed = std::strtoull(argv[3], nullptr, 10);
  const int threads = std::atoi(argv[4]);
  std::atomic<int> left = std::atoi(argv[6]);
  const int history = ::open(argv[7], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  auto cache = std::make_shared<state_store::HostCache>(20'000);
  if (argc == 9) options.known_chunks = cache;
  auto redis = RedisStore::Create(options);
  if (history < 0 || !redis.ok()) return 2;
  RedisStore& leases = **redis;
  std::unique_ptr<state_store::SessionStore> store = *std::move(redis);
  const state_store::TieredStore* tiers = nullptr;
  if (argc == 9) {
    state_store::TieredStoreOptions tiered;
    tiered.lease = absl::Milliseconds(200);
    tiered.flush_patience = absl::Seconds(4);
    tiered.probe_interval = absl::Milliseconds(20);
    auto made = state_store::TieredStore::Create(tiered, {std::move(store), &leases, cache});
    if (!made.ok()) return 2;
    tiers = made->get();
    store = *std::move(made);
  }
  Clients clients(std::move(store), leases, tiers, argv[2], history, std::atoi(argv[5]));
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] { clients.Run(i, seed * 64 + static_cast<uint64_t>(i), left); });
  }
  for (std::thread& thread : running) thread.join();
  return 0;
}
