// Two processes of clients on one Redis, under faults that a seed chooses; all that they were told
// must be explained by sessions that move one step at a time.
//
//   REPRISE_HISTORY_OPERATIONS=100000 REPRISE_HISTORY_SEEDS=20 history_test      a long run
#include "tests/state_store/redis/history.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/time/clock.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::FaultProxy;
using testing::RedisServer;
using testing::TemporaryDirectory;
using Event = HistoryEvent;

constexpr int kRoots = 4, kThreads = 8;

int FromEnvironment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

pid_t StartClients(const std::string& url, const std::string& name, uint64_t seed, int operations,
                   const std::string& history, bool tiers) {
  const std::string tool =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "store_history_tool";
  std::vector<std::string> arguments = {tool,
                                        url,
                                        name,
                                        std::to_string(seed),
                                        std::to_string(kThreads),
                                        std::to_string(kRoots),
                                        std::to_string(operations),
                                        history};
  if (tiers) arguments.push_back("tiers");
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return pid;
}

bool Ended(pid_t pid, int& status) { return ::waitpid(pid, &status, WNOHANG) == pid; }

std::vector<Event> ReadHistory(const std::string& path) {
  std::vector<Event> events;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) events.push_back(Event::FromLine(line));
  return events;
}

struct Tally {
  size_t events = 0, moves = 0, refused = 0, doubts = 0, faults = 0;
};

void RunHistory(uint64_t seed, int operations, bool tiers, Tally& tally) {
  RedisServer server({.arguments = {"--appendonly", "yes", "--appendfsync", "always"}});
  TemporaryDirectory directory;
  const std::string path = directory.path() + "/history";
  const RedisStoreOptions direct = OptionsFor(server.url());
  auto store = OpenStore(direct);
  {
    std::ofstream out(path);
    for (int i = 0; i < kRoots; ++i) {
      Event made;
      made.op = Event::kCreate;
      made.session = "root-" + std::to_string(i);
      made.outcome = Event::kOk;
      made.version = store->CreateSession("t", {.id = made.session}).value().version;
      out << made.ToLine();
    }
  }
  FaultProxy one(server.port()), two(server.port());
  one.ResetPerMille(15);
  two.ResetPerMille(5);
  pid_t clients[2] = {StartClients(one.url(), "a", seed * 2, operations / 2, path, tiers),
                      StartClients(two.url(), "b", seed * 2 + 1, operations / 2, path, tiers)};
  std::mt19937_64 random(seed);
  bool running[2] = {true, true};
  while (running[0] || running[1]) {
    absl::SleepFor(absl::Milliseconds(30 + random() % 300));
    for (int i = 0; i < 2; ++i) {
      int status = 0;
      if (running[i] && Ended(clients[i], status)) {
        running[i] = false;
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
      }
    }
    ++tally.faults;
    const uint64_t dice = random() % 10;
    const int victim = static_cast<int>(random() % 2);
    if (dice < 2) {
      server.Kill();
      absl::SleepFor(absl::Milliseconds(random() % 60));
      server.Start();
    } else if (dice < 4 && running[victim]) {
      // Longer than its leases.
      ::kill(clients[victim], SIGSTOP);
      absl::SleepFor(absl::Milliseconds(100 + random() % 200));
      ::kill(clients[victim], SIGCONT);
    } else if (dice < 5) {
      server.Do({"SCRIPT", "FLUSH"});
    } else if (dice < 6) {
      server.Pause();
      absl::SleepFor(absl::Milliseconds(random() % 200));
      server.Resume();
    } else if (dice < 7) {
      (victim == 0 ? one : two).CutAfterToServer(static_cast<int64_t>(random() % 20'000));
    } else if (dice < 8) {
      // Upkeep runs beside them; no pin that is in use is old enough to be suspected.
      store->CollectGarbage().status().IgnoreError();
    }
  }
  std::vector<Event> events = ReadHistory(path);
  // How it ended, as one who comes after all of them sees it.
  int64_t after = 0;
  std::set<std::string> names;
  for (const Event& e : events) {
    after = std::max(after, e.end);
    names.insert(e.session);
  }
  for (const std::string& id : names) {
    Event last;
    last.op = Event::kRead;
    last.session = id;
    last.begin = last.end = after + 1;
    const auto session = store->GetSession("t", id);
    last.outcome = session.ok() ? Event::kOk : Event::kNotFound;
    if (session.ok()) {
      last.version = session->version;
      last.told_state = session->head_snapshot_id.empty() ? Event::kNoState : session->position - 1;
      if (!session->head_snapshot_id.empty()) {
        const auto read = store->ReadSnapshot("t", id, "");
        if (!read.ok() || !SameState(MakeTestSnapshot(last.told_state, 900), *read)) {
          last.outcome = Event::kWrong;
        }
      }
    }
    events.push_back(last);
  }
  const std::vector<std::string> problems = CheckHistory(events);
  for (size_t i = 0; i < problems.size() && i < 10; ++i) ADD_FAILURE() << problems[i];
  EXPECT_EQ(problems.size(), 0u) << "seed " << seed;
  CollectAll(direct);
  EXPECT_EQ(store->CheckIntegrity(), absl::OkStatus()) << "seed " << seed;
  tally.events += events.size();
  for (const Event& e : events) {
    const bool move = e.op == Event::kCommit || e.op == Event::kRewind || e.op == Event::kFork;
    tally.moves += move && e.outcome == Event::kOk;
    tally.refused += e.outcome == Event::kRefused || e.outcome == Event::kLeased;
    tally.doubts += e.outcome == Event::kUnknown;
  }
}

void RunHistories(bool tiers) {
  const int operations = FromEnvironment("REPRISE_HISTORY_OPERATIONS", 10'000);
  const int seeds = FromEnvironment("REPRISE_HISTORY_SEEDS", 1);
  const int first = FromEnvironment("REPRISE_HISTORY_FIRST_SEED", 1);
  for (int seed = first; seed < first + seeds; ++seed) {
    Tally tally;
    RunHistory(static_cast<uint64_t>(seed), operations, tiers, tally);
    std::printf("seed %d: %zu events, %zu moves, %zu refused, %zu in doubt, %zu faults\n", seed,
                tally.events, tally.moves, tally.refused, tally.doubts, tally.faults);
    std::fflush(stdout);
    // The run is worth something.
    EXPECT_GT(tally.moves, static_cast<size_t>(operations) / 10);
    EXPECT_GT(tally.refused, static_cast<size_t>(operations) / 100);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(History, OfManyClientsUnderFaults) { RunHistories(/*tiers=*/false); }

TEST(History, OfManyClientsUnderFaultsWithTiers) { RunHistories(/*tiers=*/true); }

// A history with one thing wrong is found out.
class WrongHistory : public ::testing::Test {
 protected:
  void SetUp() override {
    Add(Event::kCreate, 0, Event::kNoState, 1, 2, 1, Event::kNoState);
    Add(Event::kCommit, 1, 10, 3, 4, 2, 10);
    Add(Event::kCommit, 2, 11, 5, 6, 3, 11);
    Add(Event::kGet, 0, Event::kNoState, 7, 8, 3, 11);
    ASSERT_TRUE(CheckHistory(events_).empty());
  }

  Event& Add(Event::Op op, uint64_t expected, uint64_t state, int64_t begin, int64_t end,
             uint64_t version, uint64_t told) {
    Event e;
    e.op = op;
    e.session = "s";
    e.expected = expected;
    e.state = state;
    e.begin = begin;
    e.end = end;
    e.outcome = Event::kOk;
    e.version = version;
    e.told_state = told;
    events_.push_back(e);
    return events_.back();
  }
  bool Found() { return !CheckHistory(events_).empty(); }

  std::vector<Event> events_;
};

TEST_F(WrongHistory, TwoWritersOfOneVersion) {
  Add(Event::kCommit, 2, 12, 5, 6, 3, 12);
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, AStateAtAnotherVersion) {
  Add(Event::kRead, 0, Event::kNoState, 9, 10, 3, 10);
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, AStateThatWasRefused) {
  Add(Event::kCommit, 3, 12, 9, 10, 0, Event::kNoState).outcome = Event::kFailed;
  EXPECT_FALSE(Found());
  Add(Event::kRead, 0, Event::kNoState, 11, 12, 4, 12);
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, AStateInDoubtMayBeSeenButNotBeforeItIsSent) {
  Add(Event::kCommit, 3, 12, 20, 21, 0, Event::kNoState).outcome = Event::kUnknown;
  Event& seen = Add(Event::kRead, 0, Event::kNoState, 22, 23, 4, 12);
  EXPECT_FALSE(Found());
  seen.begin = 11;
  seen.end = 12;
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, AVersionThatGoesBack) {
  Add(Event::kGet, 0, Event::kNoState, 9, 10, 2, 10);
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, AnAbortWithoutAReason) {
  Add(Event::kCommit, 3, 12, 9, 10, 0, Event::kNoState).outcome = Event::kRefused;
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, ALostSession) {
  Event& missed = Add(Event::kGet, 0, Event::kNoState, 9, 10, 0, Event::kNoState);
  missed.outcome = Event::kNotFound;
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, ADeletedSessionThatIsBack) {
  Add(Event::kDelete, 0, Event::kNoState, 9, 10, 0, Event::kNoState);
  EXPECT_FALSE(Found());
  Add(Event::kGet, 0, Event::kNoState, 11, 12, 3, 11);
  EXPECT_TRUE(Found());
}
TEST_F(WrongHistory, AForkOfAStateThatNeverWas) {
  Event& fork = Add(Event::kFork, 0, Event::kNoState, 9, 10, 1, 11);
  fork.session = "f";
  fork.source = "s";
  EXPECT_FALSE(Found());
  fork.told_state = 99;
  EXPECT_TRUE(Found());
}

}  // namespace
}  // namespace reprise::state_store::redis
