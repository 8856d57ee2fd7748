// What sessions cost that nobody talks to.
#include <filesystem>
#include <iterator>
#include <string>

#include "bench/state_store/bench.h"

namespace reprise::state_store::redis::bench {
namespace {

size_t CountOf(const char* directory) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory),
                                           std::filesystem::directory_iterator()));
}

}  // namespace

void RunIdle(const std::string& url, int sessions) {
  const auto store = Open(url, 256 << 10);
  const Snapshot state = MakeState(1, 10'000);
  std::printf(
      "\n| idle sessions | threads of the process | its open files | connections |\n"
      "| --- | --- | --- | --- |\n");
  for (int made = 0; made <= sessions; ++made) {
    if (made == 1 || made == sessions / 10 || made == sessions) {
      std::printf("| %d | %zu | %zu | %d |\n", made, CountOf("/proc/self/task"),
                  CountOf("/proc/self/fd"), store->ConnectionCounts().first);
    }
    if (made == sessions) break;
    const std::string id = "idle-" + std::to_string(made);
    const Session session = Must(store->CreateSession("bench", {.id = id}));
    Must(store->PutAndCommit("bench", id, session.version, state, {}));
  }
  // They are all there.
  for (int i = 0; i < sessions; i += 997) {
    Must(store->ReadSnapshot("bench", "idle-" + std::to_string(i), ""));
  }
}

}  // namespace reprise::state_store::redis::bench
