// The disk store when its process is killed, when the power goes, and when the device fails.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "state_store/disk_store.h"
#include "state_store/internal/cat.h"
#include "state_store/testing/builders.h"
#include "state_store/testing/faulty_file_system.h"
#include "state_store/testing/simulated_disk.h"
#include "tests/state_store/crash_ledger.h"

namespace reprise::state_store {
namespace {

DiskStoreOptions Options(const std::string& directory, FileSystem* files,
                         absl::Duration flush_interval = absl::ZeroDuration()) {
  DiskStoreOptions options;
  options.directory = directory;
  options.store.chunk_bytes = 512;
  options.flush_interval = flush_interval;
  options.compact_log_bytes = 6000;  // some compactions within a short workload
  options.file_system = files;
  return options;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    // Killing a process loses nothing that the kernel has, so a file system in memory will do.
    const char* base = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp";
    path_ = Cat(base, "/reprise_crash_XXXXXX");
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Runs the workload in a child that dies at the `kill_at`th change of the disk, or by the parent's
// signal after `microseconds`. True if it lived to the end.
bool RunChild(const std::string& directory, uint64_t seed, int steps, int64_t kill_at,
              absl::Duration flush_interval, int microseconds, CrashLedger& ledger) {
  int pipe_fds[2];
  EXPECT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(pipe_fds[0]);
    std::atomic<int64_t> changes = 0;
    FaultyFileSystem files(PosixFileSystem(), [&](const FileOp& op) {
      if (ChangesDisk(op) && changes++ == kill_at) ::kill(::getpid(), SIGKILL);
      return absl::OkStatus();
    });
    auto opened = OpenDiskStore(Options(directory, &files, flush_interval));
    if (!opened.ok()) ::_exit(2);
    RunCrashWorkload(*opened->store, seed, steps, [&](const CrashEvent& event) {
      const std::string line = event.ToLine();
      if (::write(pipe_fds[1], line.data(), line.size()) < 0) ::_exit(3);
    });
    opened->store.reset();
    ::_exit(0);
  }
  ::close(pipe_fds[1]);
  if (microseconds > 0) {
    ::usleep(microseconds);
    ::kill(child, SIGKILL);
  }
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(pipe_fds[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
  ::close(pipe_fds[0]);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) ledger.Record(CrashEvent::FromLine(line));
  return WIFEXITED(status);
}

TEST(DiskCrash, KilledAtEachChangeOfTheDisk) {
  int64_t kills = 0;
  int acks = 0;
  for (int64_t kill_at = 0;; ++kill_at) {
    SCOPED_TRACE(Cat("killed at change ", kill_at));
    TemporaryDirectory directory;
    CrashLedger ledger(/*all_lasting=*/true);
    const bool lived = RunChild(directory.path(), 3, 24, kill_at, absl::ZeroDuration(), 0, ledger);
    acks += ledger.acks();
    auto opened = OpenDiskStore(Options(directory.path(), nullptr));
    ASSERT_TRUE(opened.ok()) << opened.status();
    ledger.Check(*opened->store);
    if (lived || HasFailure()) break;
    ++kills;
  }
  RecordProperty("kills", static_cast<int>(kills));
  std::printf("killed at %d points, %d acknowledged operations\n", static_cast<int>(kills), acks);
  EXPECT_GT(kills, 200);
}

TEST(DiskCrash, KilledAtRandomMomentsAndGoesOn) {
  std::mt19937_64 random(5);
  int kills = 0, acks = 0;
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(Cat("round ", round));
    TemporaryDirectory directory;
    CrashLedger ledger(/*all_lasting=*/true);
    const bool lived = RunChild(directory.path(), 100 + round, 2000, -1, absl::Milliseconds(1),
                                1000 + static_cast<int>(random() % 60000), ledger);
    kills += !lived;
    acks += ledger.acks();
    auto opened = OpenDiskStore(Options(directory.path(), nullptr));
    ASSERT_TRUE(opened.ok()) << opened.status();
    ledger.Check(*opened->store);
    const auto session = opened->store->CreateSession("t", {.id = "after"});
    ASSERT_TRUE(session.ok());
    EXPECT_TRUE(opened->store->PutAndCommit("t", "after", 1, MakeTestSnapshot(1), {}).ok());
    if (HasFailure()) break;
  }
  std::printf("killed %d times, %d acknowledged operations\n", kills, acks);
  EXPECT_GT(kills, 20);
}

// Changes of the disk that the workload makes.
int64_t CountChanges(uint64_t seed, int steps) {
  SimulatedDisk disk;
  int64_t changes = 0;
  FaultyFileSystem files(disk, [&](const FileOp& op) {
    changes += ChangesDisk(op);
    return absl::OkStatus();
  });
  auto opened = OpenDiskStore(Options("/disk/store", &files));
  EXPECT_TRUE(opened.ok()) << opened.status();
  RunCrashWorkload(*opened->store, seed, steps, [](const CrashEvent&) {});
  opened->store.reset();
  return changes;
}

TEST(DiskCrash, PowerLostAtEachChangeOfTheDisk) {
  constexpr int kSteps = 40;
  int cuts = 0, torn = 0, chunkless = 0, acks = 0;
  for (const uint64_t seed : {1, 2, 3, 4}) {
    const int64_t changes = CountChanges(seed, kSteps);
    for (int64_t cut_at = 0; cut_at < changes; ++cut_at) {
      SCOPED_TRACE(Cat("seed ", seed, ", power lost at change ", cut_at));
      SimulatedDisk disk;
      std::mt19937_64 random(seed * 100000 + cut_at);
      CrashLedger ledger(/*all_lasting=*/false);
      // Two lives: the second begins with what the first left, and dies as well.
      for (int life = 0; life < 2; ++life) {
        int64_t left = life == 0 ? cut_at : static_cast<int64_t>(random() % changes);
        FaultyFileSystem files(disk, [&](const FileOp& op) {
          if (ChangesDisk(op) && left-- == 0) disk.CutPower();
          return absl::OkStatus();
        });
        {
          auto opened = OpenDiskStore(Options("/disk/store", &files));
          if (opened.ok() && life == 0) {
            RunCrashWorkload(*opened->store, seed, kSteps,
                             [&](const CrashEvent& event) { ledger.Record(event); });
          }
        }
        disk.CutPower();
        disk.RestorePower(random);
      }
      ++cuts;
      acks += ledger.acks();
      auto opened = OpenDiskStore(Options("/disk/store", &disk));
      ASSERT_TRUE(opened.ok()) << opened.status();
      torn += opened->report.cut_bytes > 0;
      for (const std::string& note : opened->report.notes) {
        chunkless += note.find("never got their chunks") != note.npos;
      }
      ledger.Check(*opened->store);
      ASSERT_FALSE(HasFailure());
    }
  }
  std::printf("power lost at %d points, %d logs cut, %d of them for missing chunks, %d acks\n",
              cuts, torn, chunkless, acks);
  EXPECT_GT(torn, 10);
  EXPECT_GT(chunkless, 0);
}

// Each change of the disk fails once, for one operation or from there on.
void FailAtEachChange(StoreError error, bool for_ever) {
  constexpr int kSteps = 30;
  int failures = 0;
  const int64_t changes = CountChanges(7, kSteps);
  for (int64_t fail_at = 0; fail_at < changes; ++fail_at) {
    SCOPED_TRACE(Cat("change ", fail_at, " fails"));
    SimulatedDisk disk;
    CrashLedger ledger(/*all_lasting=*/false);
    int64_t seen = 0;
    bool armed = true;
    FaultyFileSystem files(disk, [&](const FileOp& op) {
      if (!ChangesDisk(op)) return absl::OkStatus();
      const int64_t now = seen++;
      const bool fails = (armed && now == fail_at) || (for_ever && now >= fail_at);
      return fails ? MakeStoreError(error, "injected") : absl::OkStatus();
    });
    std::map<std::string, uint64_t> versions;
    {
      auto opened = OpenDiskStore(Options("/disk/store", &files));
      if (!opened.ok()) {
        EXPECT_EQ(GetStoreError(opened.status()), error) << opened.status();
        ++failures;
        if (!for_ever) continue;
      } else {
        SessionStore& store = *opened->store;
        RunCrashWorkload(store, 7, kSteps, [&](const CrashEvent& event) {
          ledger.Record(event);
          if (event.kind == CrashEvent::kAck) versions[event.session] = event.version;
          if (event.kind == CrashEvent::kAckDelete) versions.erase(event.session);
        });
        // What was acknowledged is what is there: a failed operation has left no trace.
        for (const auto& [id, version] : versions) {
          const auto session = store.GetSession("t", id);
          ASSERT_TRUE(session.ok()) << id << session.status();
          EXPECT_EQ(session->version, version);
          const absl::Status read = store.ReadSnapshot("t", id, "").status();
          EXPECT_TRUE(read.ok() || GetStoreError(read) == StoreError::kNoHead) << read;
        }
        ASSERT_EQ(store.CheckIntegrity(), absl::OkStatus());
        armed = false;
        if (!for_ever && !versions.empty()) {
          const auto& [id, version] = *versions.begin();
          const auto moved = store.PutAndCommit("t", id, version, MakeTestSnapshot(99, 900),
                                                {.durability = Durability::kSync});
          EXPECT_TRUE(moved.ok()) << "the device works again: " << moved.status();
          ledger.Record({CrashEvent::kTry, id, version + 1, 99, true});
          ledger.Record({CrashEvent::kAck, id, version + 1, 99, true});
        }
      }
    }
    disk.CutPower();
    std::mt19937_64 random(fail_at);
    disk.RestorePower(random);
    auto reopened = OpenDiskStore(Options("/disk/store", &disk));
    ASSERT_TRUE(reopened.ok()) << reopened.status();
    ledger.Check(*reopened->store);
    ASSERT_FALSE(testing::Test::HasFailure());
  }
  std::printf("%d changes failed, %d of them while opening\n", static_cast<int>(changes), failures);
}

TEST(DiskCrash, OneFailureOfTheDeviceLosesNothing) {
  FailAtEachChange(StoreError::kIoError, /*for_ever=*/false);
}
TEST(DiskCrash, AFullDeviceLosesNothing) {
  FailAtEachChange(StoreError::kStoreFull, /*for_ever=*/true);
}

TEST(DiskCrash, ErrorsOfTheDeviceAreTyped) {
  SimulatedDisk disk;
  StoreError error = StoreError::kNone;
  FaultyFileSystem files(disk, [&](const FileOp& op) {
    return error != StoreError::kNone && op.what == "append" ? MakeStoreError(error, "injected")
                                                             : absl::OkStatus();
  });
  auto opened = OpenDiskStore(Options("/disk/store", &files));
  ASSERT_TRUE(opened.ok());
  SessionStore& store = *opened->store;
  ASSERT_TRUE(store.CreateSession("t", {.id = "s"}).ok());
  for (const StoreError injected : {StoreError::kIoError, StoreError::kStoreFull}) {
    error = injected;
    const auto moved = store.PutAndCommit("t", "s", 1, MakeTestSnapshot(1), {});
    EXPECT_EQ(GetStoreError(moved.status()), injected);
    EXPECT_EQ(store.GetSession("t", "s")->version, 1u);
  }
  error = StoreError::kNone;
  EXPECT_TRUE(store.PutAndCommit("t", "s", 1, MakeTestSnapshot(1), {}).ok());
}

// After a failed fsync the next one may succeed with the data gone, so that log is left behind.
TEST(DiskCrash, AFailedLogSyncMovesToANewLog) {
  SimulatedDisk disk;
  bool fails = false;
  FaultyFileSystem files(disk, [&](const FileOp& op) {
    const bool hit = fails && op.what == "sync" && op.path.find("/log.") != op.path.npos;
    return hit ? MakeStoreError(StoreError::kIoError, "injected") : absl::OkStatus();
  });
  auto opened = OpenDiskStore(Options("/disk/store", &files));
  ASSERT_TRUE(opened.ok());
  SessionStore& store = *opened->store;
  ASSERT_TRUE(store.CreateSession("t", {.id = "s"}).ok());
  fails = true;
  const CommitOptions sync{.durability = Durability::kSync};
  EXPECT_EQ(GetStoreError(store.PutAndCommit("t", "s", 1, MakeTestSnapshot(1), sync).status()),
            StoreError::kIoError);
  EXPECT_EQ(store.GetSession("t", "s")->version, 1u);
  fails = false;
  ASSERT_TRUE(store.PutAndCommit("t", "s", 1, MakeTestSnapshot(2), sync).ok());
  std::vector<std::string> logs;
  for (const std::string& path : disk.AllFiles()) {
    if (path.find("/log.") != path.npos) logs.push_back(path);
  }
  EXPECT_EQ(logs, std::vector<std::string>{"/disk/store/log.2"});
}

TEST(DiskCrash, OneProcessAtATime) {
  TemporaryDirectory directory;
  auto opened = OpenDiskStore(Options(directory.path(), nullptr));
  ASSERT_TRUE(opened.ok());
  const auto second = OpenDiskStore(Options(directory.path(), nullptr));
  EXPECT_EQ(GetStoreError(second.status()), StoreError::kStoreLocked);
  opened->store.reset();
  EXPECT_TRUE(OpenDiskStore(Options(directory.path(), nullptr)).ok());
}

}  // namespace
}  // namespace reprise::state_store
