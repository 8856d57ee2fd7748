// The contract suite on the embedded backends.
#include "state_store/testing/store_contract.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "state_store/disk_store.h"
#include "state_store/memory_store.h"
#include "state_store/testing/simulated_disk.h"

namespace reprise::state_store {
namespace {

class InMemory : public StoreUnderTest {
 public:
  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    return CreateMemoryStore(options);
  }
};

// A directory of the machine, with a busy background thread.
class OnDisk : public StoreUnderTest {
 public:
  OnDisk() {
    // In memory where there is such a place: thousands of fsyncs make a disk the slowest part.
    const char* base = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/var/tmp";
    std::string path = std::string(base) + "/reprise_store_XXXXXX";
    directory_ = ::mkdtemp(path.data());
  }
  ~OnDisk() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    auto opened = OpenDiskStore({.directory = directory_,
                                 .store = options,
                                 .flush_interval = absl::Milliseconds(1),
                                 .compact_log_bytes = 20000});
    if (!opened.ok()) return opened.status();
    EXPECT_TRUE(opened->report.clean);
    EXPECT_TRUE(opened->report.notes.empty()) << opened->report.notes[0];
    return std::move(opened->store);
  }

 private:
  std::string directory_;
};

// No background thread: what is not asked for does not happen.
class OnSimulatedDisk : public StoreUnderTest {
 public:
  absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) override {
    auto opened = OpenDiskStore({.directory = "/disk/store",
                                 .store = options,
                                 .flush_interval = absl::ZeroDuration(),
                                 .file_system = &disk_});
    if (!opened.ok()) return opened.status();
    return std::move(opened->store);
  }

 private:
  SimulatedDisk disk_;
};

INSTANTIATE_TEST_SUITE_P(
    Embedded, StoreContract,
    testing::Values(StoreKind{"Memory", false, [] { return std::make_unique<InMemory>(); }},
                    StoreKind{"Disk", true, [] { return std::make_unique<OnDisk>(); }},
                    StoreKind{"SimulatedDisk", true,
                              [] { return std::make_unique<OnSimulatedDisk>(); }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::state_store
