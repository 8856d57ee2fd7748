// A process that uses a store and is made to be killed:
//
//   store_fault_tool disk:PATH|URL LEDGER SEED STEPS      works, and writes what it was told to
//   LEDGER store_fault_tool --list redis|disk                    names the fault points
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "state_store/disk_store.h"
#include "state_store/fault_points.h"
#include "state_store/redis/redis_store.h"
#include "state_store/testing/builders.h"
#include "tests/state_store/crash_ledger.h"

namespace reprise::state_store {
namespace {

constexpr char kDisk[] = "disk:";

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}

std::unique_ptr<SessionStore> Open(const std::string& url) {
  StoreOptions options;
  options.chunk_bytes = 256;
  if (url.rfind(kDisk, 0) == 0) {
    DiskStoreOptions disk;
    disk.directory = url.substr(sizeof kDisk - 1);
    disk.store = options;
    disk.flush_interval = absl::Milliseconds(1);
    disk.compact_log_bytes = 4096;
    return Must(OpenDiskStore(disk)).store;
  }
  redis::RedisStoreOptions redis;
  redis.client.url = url;
  redis.store = options;
  return Must(redis::RedisStore::Create(redis));
}

using Emit = std::function<void(const CrashEvent&)>;

// What RunCrashWorkload has not: request ids, leases, garbage.
void RunTheRest(SessionStore& store, uint64_t seed, const Emit& emit) {
  const std::string id = "leased" + std::to_string(seed);
  emit({CrashEvent::kTry, id, 1, CrashEvent::kNoState, false});
  Session session = Must(store.CreateSession("t", {.id = id, .request_id = "r-" + id}));
  emit({CrashEvent::kAck, id, 1, CrashEvent::kNoState, false});
  auto* leases = dynamic_cast<LeaseTable*>(&store);
  Lease lease;
  if (leases != nullptr) lease = Must(leases->AcquireLease("t", id, "tool", absl::Seconds(60)));
  for (uint64_t i = 0; i < 3; ++i) {
    const uint64_t state = seed * 1000 + 900 + i;
    emit({CrashEvent::kTry, id, session.version + 1, state, true});
    CommitOptions options{.durability = Durability::kSync, .request_id = std::to_string(i)};
    options.lease_token = lease.token;
    session =
        Must(store.PutAndCommit("t", id, session.version, MakeTestSnapshot(state, 900), options));
    emit({CrashEvent::kAck, id, session.version, state, true});
    if (leases != nullptr) lease = Must(leases->RenewLease("t", id, lease, absl::Seconds(60)));
  }
  if (leases != nullptr) {
    if (!leases->ReleaseLease("t", id, lease).ok()) std::exit(1);
  }
  if (auto* redis = dynamic_cast<redis::RedisStore*>(&store)) Must(redis->CollectGarbage());
}

}  // namespace
}  // namespace reprise::state_store

int main(int argc, char** argv) {
  using namespace reprise::state_store;
  if (argc == 3 && std::string(argv[1]) == "--list") {
    const bool redis = std::string(argv[2]) == "redis";
    for (const char* point : kRedisFaultPoints) {
      if (redis) std::printf("%s\n", point);
    }
    for (const char* point : kDiskFaultPoints) {
      if (!redis) std::printf("%s\n", point);
    }
    return 0;
  }
  if (argc != 5) return 2;
  const int ledger = ::open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (ledger < 0) return 2;
  const auto emit = [&](const CrashEvent& event) {
    const std::string line = event.ToLine();
    if (::write(ledger, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
      std::abort();
  };
  const auto store = Open(argv[1]);
  const uint64_t seed = std::strtoull(argv[3], nullptr, 10);
  RunCrashWorkload(*store, seed, std::atoi(argv[4]), emit);
  RunTheRest(*store, seed, emit);
  return 0;
}
