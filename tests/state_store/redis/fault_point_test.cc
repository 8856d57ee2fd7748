// A process that uses a store is killed at every named step in turn. Whatever the step: nothing
// that was acknowledged is lost, no session moved twice or to another's state, what is left over is
// found by the upkeep, and another process goes on.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "state_store/disk_store.h"
#include "state_store/fault_points.h"
#include "tests/state_store/crash_ledger.h"
#include "tests/state_store/redis/store_test_util.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis {
namespace {

using testing::RedisServer;
using testing::TemporaryDirectory;
using testing::WaitUntil;

constexpr int kRedisSteps = 30, kDiskSteps = 12;

// Whether it was killed; it must not end otherwise than by that or in order.
bool KilledAt(const std::string& point, const std::string& url, const std::string& ledger,
              uint64_t seed, int number_of_steps) {
  const std::string seed_text = std::to_string(seed), steps = std::to_string(number_of_steps);
  const std::string tool =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "store_fault_tool";
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setenv("REPRISE_FAULT_POINT", point.c_str(), 1);
    ::execl(tool.c_str(), tool.c_str(), url.c_str(), ledger.c_str(), seed_text.c_str(),
            steps.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  EXPECT_TRUE(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) << status;
  return killed;
}

CrashLedger ReadLedger(const std::string& path) {
  CrashLedger ledger(/*all_lasting=*/true);
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) ledger.Record(CrashEvent::FromLine(line));
  return ledger;
}

std::vector<Session> SessionsOf(SessionStore& store) {
  return store.ListSessions("t", {}).value().sessions;
}

// Every session moves once more, from where it is.
void GoOn(SessionStore& store) {
  for (const Session& session : SessionsOf(store)) {
    const auto moved = store.PutAndCommit("t", session.id, session.version,
                                          MakeTestSnapshot(77, 900), {.request_id = "on"});
    // A dead holder's lease runs out by itself; until then it is said so.
    if (GetStoreError(moved.status()) == StoreError::kSessionLeased) continue;
    ASSERT_TRUE(moved.ok()) << session.id << ": " << moved.status();
    EXPECT_EQ(moved->version, session.version + 1);
    const auto repeat = store.PutAndCommit("t", session.id, session.version,
                                           MakeTestSnapshot(77, 900), {.request_id = "on"});
    EXPECT_EQ(repeat.value(), *moved);
    EXPECT_TRUE(SameState(MakeTestSnapshot(77, 900), *store.ReadSnapshot("t", session.id, "")));
  }
  EXPECT_EQ(store.CheckIntegrity(), absl::OkStatus());
}

TEST(FaultPoints, OfARedisStore) {
  RedisServer server;
  TemporaryDirectory directory;
  RedisStoreOptions options = OptionsFor(server.url());
  options.store.chunk_bytes = 256;
  uint64_t seed = 0;
  for (const std::string point : kRedisFaultPoints) {
    for (const auto* count : {"", ":2", ":5", ":13"}) {
      SCOPED_TRACE(point + count);
      server.Do({"FLUSHALL"});
      const std::string path = directory.path() + "/" + point + count;
      const bool killed = KilledAt(point + count, server.url(), path, ++seed, kRedisSteps);
      EXPECT_TRUE(killed || *count != '\0') << "it never came there";
      // A connection's last bytes may still be on their way to Redis.
      EXPECT_TRUE(WaitUntil([&] { return server.Info("connected_clients") == "1"; }));
      // Before any upkeep every session is whole; after it nothing is left over.
      const auto store = OpenStore(options);
      for (const Session& session : SessionsOf(*store)) {
        if (session.head_snapshot_id.empty()) continue;
        EXPECT_TRUE(store->ReadSnapshot("t", session.id, "").ok());
      }
      CollectAll(options);
      ReadLedger(path).Check(*store);
      GoOn(*store);
    }
  }
}

TEST(FaultPoints, OfADiskStore) {
  TemporaryDirectory directory;
  uint64_t seed = 1000;
  for (const std::string point : kDiskFaultPoints) {
    for (const auto* count : {"", ":4"}) {
      SCOPED_TRACE(point + count);
      const std::string path = directory.path() + "/" + point + count;
      DiskStoreOptions options;
      options.directory = path + ".store";
      options.store.chunk_bytes = 256;
      const bool killed =
          KilledAt(point + count, "disk:" + options.directory, path, ++seed, kDiskSteps);
      EXPECT_TRUE(killed || *count != '\0') << "it never came there";
      auto opened = OpenDiskStore(options);
      ASSERT_TRUE(opened.ok()) << opened.status();
      ReadLedger(path).Check(*opened->store);
      GoOn(*opened->store);
    }
  }
}

}  // namespace
}  // namespace reprise::state_store::redis
